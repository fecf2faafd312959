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

from mufin_jax.encoders import check_size, check_transformer, refuse_unless
from mufin_jax.encoders.layers import (
    attend,
    compute_dtype,
    gelu,
    layer_norm,
    linear,
    normal,
    run_blocks,
)


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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What matrices multiply in. Weights, LayerNorm, softmax and the result stay float32. auto:
    bfloat16 on accelerators, float32 on a CPU, where bfloat16 gains nothing."""
    layers: Literal["unrolled", "scan"] = "unrolled"
    """How blocks are compiled: one by one, or as one that is run again and again, which compiles
    several times faster (docs/performance.md has both)."""
    remat: bool = False
    """Whether the backward pass computes each block anew: less memory, a third more work."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        check_transformer(self)
        for name in ("vocab", "max_positions"):
            check_size(self, name)

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
        self.config, self.dtype = config, compute_dtype(config.dtype)
        embedding = normal(config.init_std, config.width)
        # In float32, as the positions below: the gradient of a common word, or of a position, is a
        # sum over thousands of tokens, which GPUs add up in bfloat16 badly and ten times as slowly.
        self.words = nnx.Embed(config.vocab, config.width, embedding_init=embedding, rngs=rngs)
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
        if tokens.shape[1] > self.config.max_positions:
            raise ValueError(
                f"texts of {tokens.shape[1]} tokens, but {self.config.max_positions=}; cut them"
            )
        return self.packed(tokens, _alone(tokens, lengths), 1)[:, 0]

    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """Encode texts that stand one behind the other in a row; each sees itself alone.

        Args:
            tokens: token ids below `config.vocab`; the tokens of a text are neighbours.
            places: which text of its row, 0 to k - 1, a token belongs to; -1 for none.
            texts: k, the texts that a row may hold.

        Returns:
            float32 vectors; zero for a place that no text has.
        """
        return self.head(self.trunk(tokens, places), places, texts)

    def trunk(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """All tokens before the last block, in the compute dtype."""
        together = _together(places)
        return run_blocks(
            list(self.blocks)[:-1], self.config, self.embed(tokens, places),
            lambda block, states: block(states, together),
        )  # fmt: skip

    def head(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """The last block and the mean over the tokens of each text; float32."""
        states = self._last(states, places)
        own = (places[:, None] == jnp.arange(texts)[None, :, None]).astype(jnp.float32)
        # Padding is multiplied by zero, not selected away: its values are finite, and so are
        # its gradients, even in a row where all is padding.
        total = jnp.einsum("rsd,rks->rkd", states, own)
        return total / jnp.maximum(own.sum(-1), 1)[..., None]

    def hidden(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        """The last hidden state, float32; behind a text's end it means nothing."""
        places = _alone(tokens, lengths)
        return self._last(self.trunk(tokens, places), places)

    def embed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Word plus position in its text, normalised."""
        words = self.words(tokens)
        index = jnp.broadcast_to(jnp.arange(places.shape[1])[None], places.shape)
        begins = jnp.diff(places, axis=1, prepend=-1) != 0
        position = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
        position = jnp.minimum(position, self.config.max_positions - 1)  # of padding behind a text
        return self.norm_embeddings(words + self.positions[...][position]).astype(self.dtype)

    def _last(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        states = states.astype(self.dtype)
        return self.blocks[self.config.depth - 1](states, _together(places)).astype(jnp.float32)


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
        self, states: Float[Array, "r s width"], together: Bool[Array, "r s s"]
    ) -> Float[Array, "r s width"]:
        """Let every token attend to those of its own text."""
        query, key, value = self.query(states), self.key(states), self.value(states)
        attended = self.out(attend(query, key, value, self.heads, together))
        states = self.norm_attention(states + attended).astype(states.dtype)
        hidden = gelu(self.up(states))
        return self.norm_mlp(states + self.down(hidden)).astype(states.dtype)


def _alone(tokens: Int[Array, "t s"], lengths: Int[Array, " t"]) -> Int[Array, "t s"]:
    """The places of one text a row."""
    return jnp.where(jnp.arange(tokens.shape[1])[None] < lengths[:, None], 0, -1)


def _together(places: Int[Array, "r s"]) -> Bool[Array, "r s s"]:
    """Which tokens of a row belong to the same text."""
    return (places[:, :, None] == places[:, None, :]) & (places >= 0)[:, None, :]
