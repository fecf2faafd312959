"""CLIP's image encoder: a ViT with a LayerNorm before its blocks, and a projection after them.

The numbers are those of Hugging Face's `CLIPModel.get_image_features`. The same checkpoint holds
CLIP's text encoder, which `clip_text.py` takes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import check_size, reject_unless
from mufin_jax.encoders.image_transformer import ImageTransformer, ImageTransformerConfig
from mufin_jax.encoders.layers import Activation, layer_norm, linear
from mufin_jax.encoders.naming import LINEAR, NORM, PATCHES, POSITIONS, SQUEEZED, Naming
from mufin_jax.encoders.patches import square
from mufin_jax.encoders.transformer import PRE_NORM_BLOCKS, activation_of


@dataclasses.dataclass(frozen=True)
class ClipImageConfig(ImageTransformerConfig):
    """The shape of CLIP's image encoder; the defaults are those of openai/clip-vit-base-patch32.

    Raises:
        InputError: A size that no transformer has, or a patch that doesn't divide the image.
    """

    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    projection: int = 512
    """The width of the vectors, which is that of the texts' vectors."""
    activation: Activation = "quick_gelu"
    """Of the MLPs."""

    @property
    def outputs(self) -> int:
        """Return the width of the vectors."""
        return self.projection

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_size(self, "projection")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipImageConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        vision = config.get("vision_config", config)
        reject_unless(vision, num_channels=3)
        return cls(
            width=vision.get("hidden_size", 768),
            depth=vision.get("num_hidden_layers", 12),
            heads=vision.get("num_attention_heads", 12),
            mlp=vision.get("intermediate_size", 3072),
            layer_norm_eps=float(vision.get("layer_norm_eps", 1e-5)),
            patch=square(vision.get("patch_size", 32)),
            image_size=square(vision.get("image_size", 224)),
            projection=config.get("projection_dim", 512),
            activation=activation_of(vision, "quick_gelu"),
        )


NAMING = Naming(
    prefix="vision_model.",
    table=(
        ("embeddings.class_embedding", "cls", SQUEEZED),
        ("embeddings.position_embedding", "positions", POSITIONS),
        ("embeddings.patch_embedding", "patches", PATCHES),
        ("pre_layrnorm", "norm_before", NORM),
        *PRE_NORM_BLOCKS,
        ("post_layernorm", "norm", NORM),
        ("visual_projection", "projection", LINEAR),
    ),
    ignored=("text_model.*", "text_projection.*", "logit_scale", "embeddings.position_ids"),
)


class ClipImage(ImageTransformer):
    """Images to vectors: the CLS token after the last LayerNorm, projected."""

    Config = ClipImageConfig
    naming = NAMING

    def __init__(self, config: ClipImageConfig, rngs: nnx.Rngs):
        super().__init__(
            config, rngs, patch_bias=False, norm_before=True, activation=config.activation
        )
        self.norm = layer_norm(config, rngs)
        self.projection = linear(config.width, config.projection, config, rngs, bias=False)

    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i outputs"]:
        """Apply the last block to CLS only, then the last LayerNorm and the projection; float32."""
        last = self.blocks[self.config.depth - 1]
        pooled = self.norm(last(tokens.astype(self.dtype), rows=1)[:, 0])
        return self.projection(pooled.astype(self.dtype)).astype(jnp.float32)
