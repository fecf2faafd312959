"""The image encoder E_V: a Vision Transformer, pooled at its CLS token (paper, section 3).

The numbers are those of Hugging Face's `ViTModel` without its pooler. The forward pass is split
in two where the paper's Module I splits it: `trunk` is everything below the last block, `head` is
what trains. Only the CLS token of the last block is read, so `head` computes no other row.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import reject_unless
from mufin_jax.encoders.image_transformer import ImageTransformer, ImageTransformerConfig
from mufin_jax.encoders.layers import layer_norm
from mufin_jax.encoders.naming import LINEAR, NORM, PATCHES, SQUEEZED, Naming
from mufin_jax.encoders.patches import square


@dataclasses.dataclass(frozen=True)
class ViTConfig(ImageTransformerConfig):
    """The shape of a Vision Transformer; the defaults are ViT-B/32.

    Raises:
        InputError: A size that no transformer has, or a patch that doesn't divide the image.
    """

    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""

    @classmethod
    def base_32(cls) -> "ViTConfig":
        """Return ViT-B/32 at 224 pixels: the paper's main text."""
        return cls()

    @classmethod
    def base_16(cls) -> "ViTConfig":
        """Return ViT-B/16 at 224 pixels: the paper's supplement."""
        return cls(patch=16)

    @classmethod
    def miniature(cls) -> "ViTConfig":
        """Return a ViT that trains from scratch in minutes on a CPU."""
        return cls(width=64, depth=2, heads=4, mlp=128, patch=8, image_size=32, init_std=None)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ViTConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, hidden_act="gelu", num_channels=3)
        return cls(
            width=config.get("hidden_size", 768),
            depth=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            mlp=config.get("intermediate_size", 3072),
            patch=square(config.get("patch_size", 16)),
            image_size=square(config.get("image_size", 224)),
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            qkv_bias=config.get("qkv_bias", True),
        )

    def to_hf(self) -> dict[str, Any]:
        """Return the Hugging Face `config.json` of this shape."""
        return {
            "architectures": ["ViTModel"], "model_type": "vit", "hidden_act": "gelu",
            "hidden_size": self.width, "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads, "intermediate_size": self.mlp,
            "patch_size": self.patch, "image_size": self.image_size, "num_channels": 3,
            "layer_norm_eps": self.layer_norm_eps, "qkv_bias": self.qkv_bias,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        }  # fmt: skip


NAMING = Naming(
    prefix="vit.",
    table=(
        ("embeddings.cls_token", "cls", SQUEEZED),
        ("embeddings.position_embeddings", "positions", SQUEEZED),
        ("embeddings.patch_embeddings.projection", "patches", PATCHES),
        ("layers.{}.layernorm_before", "blocks.{}.norm_attention", NORM),
        ("layers.{}.attention.q_proj", "blocks.{}.query", LINEAR),
        ("layers.{}.attention.k_proj", "blocks.{}.key", LINEAR),
        ("layers.{}.attention.v_proj", "blocks.{}.value", LINEAR),
        ("layers.{}.attention.o_proj", "blocks.{}.out", LINEAR),
        ("layers.{}.layernorm_after", "blocks.{}.norm_mlp", NORM),
        ("layers.{}.mlp.fc1", "blocks.{}.up", LINEAR),
        ("layers.{}.mlp.fc2", "blocks.{}.down", LINEAR),
        ("layernorm", "norm", NORM),
    ),
    # transformers 5 renamed the blocks in memory; its files and the hub's keep the old names.
    older=(
        ("encoder.layer.", "layers."),
        (".attention.attention.query.", ".attention.q_proj."),
        (".attention.attention.key.", ".attention.k_proj."),
        (".attention.attention.value.", ".attention.v_proj."),
        (".attention.output.dense.", ".attention.o_proj."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
    ),
    renamed=True,
    ignored=("pooler.*", "classifier.*", "decoder.*", "embeddings.mask_token"),
)


class ViT(ImageTransformer):
    """Images to vectors: the CLS token of the last hidden state, after the final LayerNorm."""

    Config = ViTConfig
    naming = NAMING

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs, qkv_bias=config.qkv_bias)
        self.norm = layer_norm(config, rngs)

    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i width"]:
        """Apply the last block and the final LayerNorm to the CLS token only; float32."""
        tokens = tokens.astype(self.dtype)
        return self.norm(self.blocks[self.config.depth - 1](tokens, rows=1)[:, 0])
