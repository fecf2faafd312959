"""SigLIP's image encoder, of its first and second version: a ViT pooled by attention.

The numbers are those of Hugging Face's `SiglipVisionModel`, its `pooler_output`. One learned query,
the probe, attends to all patches. The checkpoints of SigLIP 2 for one picture size have this
architecture; those that take any shape of picture (NaFlex) have another.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import reject_unless
from mufin_jax.encoders.image_transformer import ImageTransformer, ImageTransformerConfig
from mufin_jax.encoders.layers import ACTIVATIONS, Activation, attend, layer_norm, linear, normal
from mufin_jax.encoders.naming import LINEAR, NORM, PATCHES, POSITIONS, SQUEEZED, Layer, Naming
from mufin_jax.encoders.patches import square
from mufin_jax.encoders.transformer import PRE_NORM_BLOCKS, activation_of


@dataclasses.dataclass(frozen=True)
class SiglipConfig(ImageTransformerConfig):
    """The shape of SigLIP's image encoder; the defaults are google/siglip2-base-patch16-224's.

    Raises:
        InputError: A size that no transformer has, or a patch that doesn't divide the image.
    """

    layer_norm_eps: float = 1e-6
    """Added to the variance in every LayerNorm."""
    patch: int = 16
    """Side of a square patch, in pixels."""
    activation: Activation = "gelu_pytorch_tanh"
    """Of the MLPs."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SiglipConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        vision = config.get("vision_config", config)
        reject_unless(vision, num_channels=3, vision_use_head=True)
        return cls(
            width=vision.get("hidden_size", 768),
            depth=vision.get("num_hidden_layers", 12),
            heads=vision.get("num_attention_heads", 12),
            mlp=vision.get("intermediate_size", 3072),
            layer_norm_eps=float(vision.get("layer_norm_eps", 1e-6)),
            patch=square(vision.get("patch_size", 16)),
            image_size=square(vision.get("image_size", 224)),
            activation=activation_of(vision, "gelu_pytorch_tanh"),
        )


def _third(number: int) -> Layer:
    """Return how the query's, the key's or the value's part of one matrix for all three is read."""
    return (
        ("_weight", ".kernel", lambda x: np.split(x, 3)[number].T),
        ("_bias", ".bias", lambda x: np.split(x, 3)[number]),
    )


NAMING = Naming(
    prefix="vision_model.",
    table=(
        ("embeddings.position_embedding", "positions", POSITIONS),
        ("embeddings.patch_embedding", "patches", PATCHES),
        *PRE_NORM_BLOCKS,
        ("post_layernorm", "norm", NORM),
        ("head.probe", "pooling.probe", SQUEEZED),
        ("head.attention.in_proj", "pooling.query", _third(0)),
        ("head.attention.in_proj", "pooling.key", _third(1)),
        ("head.attention.in_proj", "pooling.value", _third(2)),
        ("head.attention.out_proj", "pooling.out", LINEAR),
        ("head.layernorm", "pooling.norm", NORM),
        ("head.mlp.fc1", "pooling.up", LINEAR),
        ("head.mlp.fc2", "pooling.down", LINEAR),
    ),
    ignored=("text_model.*", "logit_scale", "logit_bias", "embeddings.position_ids"),
)


class Siglip(ImageTransformer):
    """Images to vectors: what the probe gathers from all patches after the last LayerNorm."""

    Config = SiglipConfig
    naming = NAMING
    in_front = 0

    def __init__(self, config: SiglipConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs, activation=config.activation)
        self.norm = layer_norm(config, rngs)
        self.pooling = Pooling(config, rngs)

    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i width"]:
        """Apply the last block, the last LayerNorm and the pooling; float32."""
        tokens = self.blocks[self.config.depth - 1](tokens.astype(self.dtype))
        return self.pooling(self.norm(tokens).astype(self.dtype)).astype(jnp.float32)


class Pooling(nnx.Module):
    """The probe attends to the patches; an MLP follows."""

    def __init__(self, config: SiglipConfig, rngs: nnx.Rngs):
        width = config.width
        self.heads, self.activation = config.heads, config.activation
        self.probe = nnx.Param(normal(config.init_std, width)(rngs.params(), (width,)))
        self.query = linear(width, width, config, rngs)
        self.key = linear(width, width, config, rngs)
        self.value = linear(width, width, config, rngs)
        self.out = linear(width, width, config, rngs)
        self.norm = layer_norm(config, rngs)
        self.up = linear(width, config.mlp, config, rngs)
        self.down = linear(config.mlp, width, config, rngs)

    def __call__(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i width"]:
        """Return one vector for each image."""
        query = self.query(self.probe[...].astype(tokens.dtype)[None, None])
        query = jnp.broadcast_to(query, (len(tokens), 1, query.shape[-1]))
        key, value = self.key(tokens), self.value(tokens)
        found = self.out(attend(query, key, value, self.heads))[:, 0]
        return found + self.down(ACTIVATIONS[self.activation](self.up(self.norm(found))))
