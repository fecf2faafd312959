"""The text encoder E_T: DistilBERT, pooled by the mean over real tokens (paper, section 3).

The numbers are those of Hugging Face's `DistilBertModel` in evaluation mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mufin_jax.encoders import check_transformer, refuse_unless
from mufin_jax.encoders.vit import attend, layer_norm, linear, normal
from mufin_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class DistilBertConfig:
    """The shape of a DistilBERT; the defaults are distilbert-base-uncased.

    Raises:
        InputError: a size below 1, heads that don't divide the width, an epsilon or std that
            isn't positive, an unknown dtype.
    """

    vocab: int = 30522
    """Number of different tokens."""
    width: int = 768
    """Size of a token's vector."""
    depth: int = 6
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads in a block."""
    mlp: int = 3072
    """Hidden size of a block's MLP."""
    max_positions: int = 512
    """Tokens of the longest text that can be encoded."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in every LayerNorm."""
    init_std: float | None = 0.02
    """Standard deviation of new weights. None: 1/sqrt(inputs) for a matrix and 1/sqrt(width) for
    an embedding; 0.02 is tuned to a width of 768 and makes a narrow network start nearly blind."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What matrices multiply in. Weights, LayerNorm, softmax and the result stay float32."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        check_transformer(self)
        for name in ("vocab", "max_positions"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise InputError(f"DistilBertConfig: {name}={value}; want at least 1")

    @classmethod
    def base(cls) -> "DistilBertConfig":
        """DistilBERT-base: the paper's text encoder."""
        return cls()

    @classmethod
    def miniature(cls, vocab: int) -> "DistilBertConfig":
        """A DistilBERT that trains from scratch in minutes on a CPU."""
        return cls(
            vocab=vocab, width=64, depth=2, heads=4, mlp=128, max_positions=64, init_std=None
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DistilBertConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: a network that this file doesn't implement.
        """
        refuse_unless(config, model_type="distilbert", activation="gelu")
        return cls(
            vocab=config.get("vocab_size", 30522),
            width=config.get("dim", 768),
            depth=config.get("n_layers", 6),
            heads=config.get("n_heads", 12),
            mlp=config.get("hidden_dim", 3072),
            max_positions=config.get("max_position_embeddings", 512),
        )


class DistilBert(nnx.Module):
    """Texts to vectors: the mean of the last hidden state over the real tokens."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.config = config
        embedding = normal(config.init_std, config.width)
        self.words = nnx.Embed(
            config.vocab, config.width, dtype=config.dtype, embedding_init=embedding, rngs=rngs
        )
        self.positions = nnx.Param(embedding(rngs.params(), (config.max_positions, config.width)))
        self.norm_embeddings = layer_norm(config, rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.depth)])

    def __call__(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t width"]:
        """Encode texts.

        Args:
            tokens: token ids below `config.vocab`; what stands behind a text's end is ignored.
            lengths: number of real tokens of each text; a text of length 0 becomes zeros.

        Returns:
            float32 vectors.

        Raises:
            ValueError: more token columns than `config.max_positions`.
        """
        return self.head(self.trunk(tokens, lengths), lengths)

    def trunk(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        """All tokens before the last block, in the compute dtype."""
        states = self.embed(tokens)
        for n in range(self.config.depth - 1):
            states = self.blocks[n](states, _real(states, lengths))
        return states

    def head(
        self, states: Float[Array, "t s width"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t width"]:
        """The last block and the mean over the real tokens; float32."""
        states, real = self._last(states, lengths), _real(states, lengths)
        # Padding is multiplied by zero, not selected away: its values are finite, and so are
        # its gradients, even in a text where all is padding.
        total = jnp.einsum("tsd,ts->td", states, real.astype(jnp.float32))
        return total / jnp.maximum(lengths, 1)[:, None]

    def hidden(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        """The last hidden state, float32; behind a text's end it means nothing."""
        return self._last(self.trunk(tokens, lengths), lengths)

    def embed(self, tokens: Int[Array, "t s"]) -> Float[Array, "t s width"]:
        """Word plus position, normalised."""
        if tokens.shape[1] > self.config.max_positions:
            raise ValueError(
                f"texts of {tokens.shape[1]} tokens, but {self.config.max_positions=}; cut them"
            )
        words = self.words(tokens)
        positions = self.positions[: tokens.shape[1]].astype(words.dtype)
        return self.norm_embeddings(words + positions[None]).astype(words.dtype)

    def _last(
        self, states: Float[Array, "t s width"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        states = states.astype(self.config.dtype)
        last = self.blocks[self.config.depth - 1]
        return last(states, _real(states, lengths)).astype(jnp.float32)


class Block(nnx.Module):
    """A post-norm transformer block: attention, then an MLP, each added to its input and normed."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
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
        self, states: Float[Array, "t s width"], real: Bool[Array, "t s"]
    ) -> Float[Array, "t s width"]:
        """Let every token attend to the real ones."""
        query, key, value = self.query(states), self.key(states), self.value(states)
        attended = self.out(attend(query, key, value, self.heads, real))
        states = self.norm_attention(states + attended).astype(states.dtype)
        hidden = jax.nn.gelu(self.up(states), approximate=False)
        return self.norm_mlp(states + self.down(hidden)).astype(states.dtype)


def _real(states: Float[Array, "t s width"], lengths: Int[Array, " t"]) -> Bool[Array, "t s"]:
    return jnp.arange(states.shape[1])[None] < lengths[:, None]
