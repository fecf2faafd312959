"""CLIP's image encoder: a ViT with a LayerNorm in front of it, and a projection behind.

The numbers are those of Hugging Face's `CLIPModel.get_image_features`. The same checkpoint holds
CLIP's text encoder, which `clip_text.py` takes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders import patches
from mufin_jax.encoders.checks import check_size, refuse_unless
from mufin_jax.encoders.layers import (
    Activation,
    compute_dtype,
    layer_norm,
    linear,
    normal,
    run_blocks,
)
from mufin_jax.encoders.naming import LINEAR, NORM, PATCHES, POSITIONS, SQUEEZED, Naming
from mufin_jax.encoders.transformer import (
    PRE_NORM_BLOCKS,
    PreNormBlock,
    TransformerConfig,
    activation_of,
)


@dataclasses.dataclass(frozen=True)
class ClipImageConfig(TransformerConfig):
    """The shape of CLIP's image encoder; the defaults are that of openai/clip-vit-base-patch32.

    Raises:
        InputError: sizes that no transformer has, or a patch that doesn't divide the image.
    """

    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    patch: int = 32
    """Side of a square patch, in pixels."""
    image_size: int = 224
    """Side of the square images that the position embeddings are made for, in pixels."""
    projection: int = 512
    """The width of the vectors, which is that of the texts' vectors."""
    activation: Activation = "quick_gelu"
    """Of the MLPs."""

    @property
    def outputs(self) -> int:
        """The width of the vectors."""
        return self.projection

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        patches.check_grid(self)
        check_size(self, "projection")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipImageConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: a network that this file doesn't implement.
        """
        vision = config.get("vision_config", config)
        refuse_unless(vision, num_channels=3)
        return cls(
            width=vision.get("hidden_size", 768),
            depth=vision.get("num_hidden_layers", 12),
            heads=vision.get("num_attention_heads", 12),
            mlp=vision.get("intermediate_size", 3072),
            layer_norm_eps=float(vision.get("layer_norm_eps", 1e-5)),
            patch=patches.square(vision.get("patch_size", 32)),
            image_size=patches.square(vision.get("image_size", 224)),
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


class ClipImage(nnx.Module):
    """Images to vectors: the CLS token after the last LayerNorm, projected."""

    Config = ClipImageConfig
    naming = NAMING

    def __init__(self, config: ClipImageConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        grid = config.image_size // config.patch
        embedding = normal(config.init_std, config.width)
        self.patches = linear(3 * config.patch**2, config.width, config, rngs, bias=False)
        self.cls = nnx.Param(embedding(rngs.params(), (config.width,)))
        self.positions = nnx.Param(embedding(rngs.params(), (grid**2 + 1, config.width)))
        self.norm_before = layer_norm(config, rngs)
        self.blocks = nnx.List(
            PreNormBlock(config, rngs, activation=config.activation) for _ in range(config.depth)
        )
        self.norm = layer_norm(config, rngs)
        self.projection = linear(config.width, config.projection, config, rngs, bias=False)

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i outputs"]:
        """Encode normalised images; those of another size than the config's are welcome."""
        return self.head(self.trunk(images))

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i p width"]:
        """All tokens (CLS first) before the last block, in the compute dtype."""
        tokens = patches.embed(images, self.config.patch, self.patches, self.positions, self.cls)
        tokens = self.norm_before(tokens).astype(self.dtype)
        return run_blocks(
            list(self.blocks)[:-1], self.config, tokens, lambda block, tokens: block(tokens)
        )

    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i outputs"]:
        """The last block for the CLS token alone, the last LayerNorm, the projection; float32."""
        last = self.blocks[self.config.depth - 1]
        pooled = self.norm(last(tokens.astype(self.dtype), rows=1)[:, 0])
        return self.projection(pooled.astype(self.dtype)).astype(jnp.float32)

    def resize(self, image_size: int) -> None:
        """Resample the position embeddings, once, for images of this side."""
        patches.resize(self, image_size, first=1)
