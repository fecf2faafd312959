"""DINOv2, an encoder of images: a ViT trained without labels, pooled at its CLS token.

The numbers are those of Hugging Face's `Dinov2Model`, its `pooler_output`. Each block scales what
it adds (layer scale); the giant size has gated MLPs (SwiGLU). Its positions are made for 518
pixels, and its preprocessing gives 224: they are resampled once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mufin_jax.encoders.checks import reject_unless
from mufin_jax.encoders.image_transformer import ImageTransformer, ImageTransformerConfig
from mufin_jax.encoders.layers import Activation, attend, gelu, layer_norm, linear
from mufin_jax.encoders.naming import LINEAR, NORM, PATCHES, SQUEEZED, Layer, Naming, same
from mufin_jax.encoders.patches import square
from mufin_jax.encoders.transformer import PreNormBlock


@dataclasses.dataclass(frozen=True)
class Dinov2Config(ImageTransformerConfig):
    """The shape of a DINOv2; the defaults are facebook/dinov2-base.

    Raises:
        InputError: A size that no transformer has, or a patch that doesn't divide the image.
    """

    layer_norm_eps: float = 1e-6
    """Added to the variance in every LayerNorm."""
    patch: int = 14
    """Side of a square patch, in pixels."""
    image_size: int = 518
    """Side of the square images that the position embeddings are made for, in pixels."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    gated: bool = False
    """Whether MLPs have a gate, as the giant size's do."""
    layer_scale: float = 1.0
    """The initial factor of what a block adds."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Dinov2Config":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, hidden_act="gelu", num_channels=3)
        width, gated = config.get("hidden_size", 768), config.get("use_swiglu_ffn", False)
        mlp = int(width * config.get("mlp_ratio", 4))
        return cls(
            width=width,
            depth=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            mlp=(int(mlp * 2 / 3) + 7) // 8 * 8 if gated else mlp,
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-6)),
            patch=square(config.get("patch_size", 14)),
            image_size=square(config.get("image_size", 224)),
            qkv_bias=config.get("qkv_bias", True),
            gated=gated,
            layer_scale=float(config.get("layerscale_value", 1.0)),
        )


def _half(number: int) -> Layer:
    """Return how the gate, or what it multiplies, is read from one matrix for both."""
    return (
        (".weight", ".kernel", lambda x: np.split(x, 2)[number].T),
        (".bias", ".bias", lambda x: np.split(x, 2)[number]),
    )


_SCALE: Layer = ((".lambda1", "", same),)
NAMING = Naming(
    prefix="dinov2.",
    table=(
        ("embeddings.cls_token", "cls", SQUEEZED),
        ("embeddings.position_embeddings", "positions", SQUEEZED),
        ("embeddings.patch_embeddings.projection", "patches", PATCHES),
        ("encoder.layer.{}.norm1", "blocks.{}.norm_attention", NORM),
        ("encoder.layer.{}.attention.attention.query", "blocks.{}.query", LINEAR),
        ("encoder.layer.{}.attention.attention.key", "blocks.{}.key", LINEAR),
        ("encoder.layer.{}.attention.attention.value", "blocks.{}.value", LINEAR),
        ("encoder.layer.{}.attention.output.dense", "blocks.{}.out", LINEAR),
        ("encoder.layer.{}.layer_scale1", "blocks.{}.scale_attention", _SCALE),
        ("encoder.layer.{}.norm2", "blocks.{}.norm_mlp", NORM),
        ("encoder.layer.{}.mlp.fc1", "blocks.{}.up", LINEAR),
        ("encoder.layer.{}.mlp.fc2", "blocks.{}.down", LINEAR),
        ("encoder.layer.{}.mlp.weights_in", "blocks.{}.gate", _half(0)),
        ("encoder.layer.{}.mlp.weights_in", "blocks.{}.up", _half(1)),
        ("encoder.layer.{}.mlp.weights_out", "blocks.{}.down", LINEAR),
        ("encoder.layer.{}.layer_scale2", "blocks.{}.scale_mlp", _SCALE),
        ("layernorm", "norm", NORM),
    ),
    ignored=("classifier.*", "embeddings.mask_token"),
)


class Dinov2Block(PreNormBlock):
    """A pre-norm block that scales what it adds; with a gate in its MLP if the config has one."""

    def __init__(
        self,
        config: Dinov2Config,
        rngs: nnx.Rngs,
        bias: bool = True,
        activation: Activation = "gelu",
    ):
        super().__init__(config, rngs, bias, activation)
        self.gate = linear(config.width, config.mlp, config, rngs) if config.gated else None
        scale = jnp.full(config.width, config.layer_scale)
        self.scale_attention, self.scale_mlp = nnx.Param(scale), nnx.Param(scale)

    def __call__(
        self,
        tokens: Float[Array, "i p width"],
        rows: int | None = None,
        seen: Bool[Array, "i q p"] | None = None,
    ) -> Float[Array, "i q width"]:
        """Return the block's output; see PreNormBlock."""
        normed = self.norm_attention(tokens)
        query, key, value = self.query(normed[:, :rows]), self.key(normed), self.value(normed)
        added = self.out(attend(query, key, value, self.heads, seen))
        tokens = tokens[:, :rows] + _scaled(added, self.scale_attention)
        normed = self.norm_mlp(tokens)
        up = self.up(normed)
        hidden = gelu(up) if self.gate is None else jax.nn.silu(self.gate(normed)) * up
        return tokens + _scaled(self.down(hidden), self.scale_mlp)


def _scaled(added: Float[Array, "i q width"], scale: nnx.Param) -> Float[Array, "i q width"]:
    """Return the product in the dtype of what is added."""
    return added * scale[...].astype(added.dtype)[None, None]


class Dinov2(ImageTransformer):
    """Images to vectors: the CLS token of the last hidden state, after the final LayerNorm."""

    Config = Dinov2Config
    naming = NAMING
    block = Dinov2Block

    def __init__(self, config: Dinov2Config, rngs: nnx.Rngs):
        super().__init__(config, rngs, qkv_bias=config.qkv_bias)
        self.norm = layer_norm(config, rngs)

    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i width"]:
        """Apply the last block and the final LayerNorm to the CLS token only; float32."""
        tokens = tokens.astype(self.dtype)
        return self.norm(self.blocks[self.config.depth - 1](tokens, rows=1)[:, 0])
