"""What all transformers share: their sizes and their blocks.

Blocks are of two kinds: pre-norm in ViT, DINOv2, SigLIP and both CLIPs; post-norm in DistilBERT and
in every BERT but ModernBERT, whose blocks are its own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from flax import nnx
from jaxtyping import Array, Bool, Float

from mufin_jax.encoders.checks import check_transformer
from mufin_jax.encoders.layers import (
    ACTIVATIONS,
    Activation,
    attend,
    gelu,
    layer_norm,
    linear,
)
from mufin_jax.encoders.naming import LINEAR, NORM
from mufin_jax.runtime.errors import InputError

PRE_NORM_BLOCKS = (
    ("encoder.layers.{}.layer_norm1", "blocks.{}.norm_attention", NORM),
    ("encoder.layers.{}.self_attn.q_proj", "blocks.{}.query", LINEAR),
    ("encoder.layers.{}.self_attn.k_proj", "blocks.{}.key", LINEAR),
    ("encoder.layers.{}.self_attn.v_proj", "blocks.{}.value", LINEAR),
    ("encoder.layers.{}.self_attn.out_proj", "blocks.{}.out", LINEAR),
    ("encoder.layers.{}.layer_norm2", "blocks.{}.norm_mlp", NORM),
    ("encoder.layers.{}.mlp.fc1", "blocks.{}.up", LINEAR),
    ("encoder.layers.{}.mlp.fc2", "blocks.{}.down", LINEAR),
)
"""The names of blocks in checkpoints of both CLIPs and SigLIP (naming.py); ViT's have others."""
BERT_BLOCKS = (
    ("encoder.layer.{}.attention.self.query", "blocks.{}.query", LINEAR),
    ("encoder.layer.{}.attention.self.key", "blocks.{}.key", LINEAR),
    ("encoder.layer.{}.attention.self.value", "blocks.{}.value", LINEAR),
    ("encoder.layer.{}.attention.output.dense", "blocks.{}.out", LINEAR),
    ("encoder.layer.{}.attention.output.LayerNorm", "blocks.{}.norm_attention", NORM),
    ("encoder.layer.{}.intermediate.dense", "blocks.{}.up", LINEAR),
    ("encoder.layer.{}.output.dense", "blocks.{}.down", LINEAR),
    ("encoder.layer.{}.output.LayerNorm", "blocks.{}.norm_mlp", NORM),
)
"""The names of blocks in checkpoints of BERT, RoBERTa and VisualBERT."""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The sizes that every transformer has.

    Raises:
        InputError: A size below 1, heads that don't divide the width, an epsilon or std that
            isn't positive, an unknown dtype.
    """

    width: int = 768
    """Size of a token's vector."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads in a block."""
    mlp: int = 3072
    """Hidden size of a block's MLP."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in every LayerNorm."""
    init_std: float | None = 0.02
    """Standard deviation of new weights. None: 1/sqrt(inputs) for a matrix and 1/sqrt(width) for
    an embedding; 0.02 is tuned to a width of 768 and makes a narrow network start nearly blind."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The dtype in which matrices multiply. Weights, LayerNorm, softmax and the result stay
    float32. auto: bfloat16 on accelerators, float32 on a CPU, where bfloat16 gains nothing."""
    layers: Literal["unrolled", "scan"] = "unrolled"
    """How blocks are compiled: one by one, or as one that runs again and again, which compiles
    several times faster (docs/performance.md compares both)."""
    remat: bool = False
    """Whether the backward pass computes each block again: less memory, a third more work."""

    @property
    def outputs(self) -> int:
        """Return the width of the vectors."""
        return self.width

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        check_transformer(self)


def activation_of(config: Mapping[str, Any], default: Activation) -> Activation:
    """Return the activation of the MLPs of a Hugging Face config.

    Raises:
        InputError: The activation isn't implemented.
    """
    name = config.get("hidden_act", default)
    if name not in get_args(Activation):
        known = ", ".join(get_args(Activation))
        raise InputError(f"hidden_act is {repr(name)[:200]}; expected one of {known}")
    return name


class PreNormBlock(nnx.Module):
    """Attention, then an MLP, each on normalised tokens and added to its input.

    Args:
        config: Its sizes.
        rngs: Source of the initial weights.
        bias: Whether queries, keys and values have a bias.
        activation: Of the MLP.
    """

    def __init__(
        self,
        config: TransformerConfig,
        rngs: nnx.Rngs,
        bias: bool = True,
        activation: Activation = "gelu",
    ):
        width = config.width
        self.heads, self.activation = config.heads, activation
        self.norm_attention = layer_norm(config, rngs)
        self.query = linear(width, width, config, rngs, bias)
        self.key = linear(width, width, config, rngs, bias)
        self.value = linear(width, width, config, rngs, bias)
        self.out = linear(width, width, config, rngs)
        self.norm_mlp = layer_norm(config, rngs)
        self.up = linear(width, config.mlp, config, rngs)
        self.down = linear(config.mlp, width, config, rngs)

    def __call__(
        self,
        tokens: Float[Array, "i p width"],
        rows: int | None = None,
        seen: Bool[Array, "i q p"] | None = None,
    ) -> Float[Array, "i q width"]:
        """Return the block's output for the first `rows` tokens, or for all.

        Args:
            tokens: The block's input.
            rows: How many tokens attend; None for all.
            seen: To which tokens each of these attends; None for all.
        """
        normed = self.norm_attention(tokens)
        query, key, value = self.query(normed[:, :rows]), self.key(normed), self.value(normed)
        tokens = tokens[:, :rows] + self.out(attend(query, key, value, self.heads, seen))
        hidden = ACTIVATIONS[self.activation](self.up(self.norm_mlp(tokens)))
        return tokens + self.down(hidden)


class PostNormBlock(nnx.Module):
    """Attention, then an MLP, each added to its input and normalised.

    Args:
        config: Its sizes.
        rngs: Source of the initial weights.
    """

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width = config.width
        self.heads = config.heads
        self.query = linear(width, width, config, rngs)
        self.key = linear(width, width, config, rngs)
        self.value = linear(width, width, config, rngs)
        self.out = linear(width, width, config, rngs)
        self.norm_attention = layer_norm(config, rngs)
        self.up = linear(width, config.mlp, config, rngs)
        self.down = linear(config.mlp, width, config, rngs)
        self.norm_mlp = layer_norm(config, rngs)

    def __call__(
        self,
        tokens: Float[Array, "i p width"],
        seen: Bool[Array, "i q p"],
        rows: int | None = None,
        bias: Float[Array, "heads q p"] | None = None,
    ) -> Float[Array, "i q width"]:
        """Return the block's output for the first `rows` tokens, or for all.

        Args:
            tokens: The block's input.
            seen: To which tokens each of these attends.
            rows: How many tokens attend; None for all.
            bias: Added to what each head compares; see `layers.attend`.
        """
        own = tokens[:, :rows]
        query, key, value = self.query(own), self.key(tokens), self.value(tokens)
        attended = self.out(attend(query, key, value, self.heads, seen, bias))
        own = self.norm_attention(own + attended).astype(tokens.dtype)
        hidden = gelu(self.up(own))
        return self.norm_mlp(own + self.down(hidden)).astype(tokens.dtype)
