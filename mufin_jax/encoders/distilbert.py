"""The text encoder E_T: DistilBERT, pooled by the mean over real tokens (paper, section 3).

The numbers are those of Hugging Face's `DistilBertModel` in evaluation mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.checks import check_size, refuse_unless
from mufin_jax.encoders.layers import compute_dtype, layer_norm, normal, run_blocks
from mufin_jax.encoders.naming import LINEAR, NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.rows import alone, check_width, of_texts, positions_in_texts, together
from mufin_jax.encoders.transformer import PostNormBlock, TransformerConfig


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(TransformerConfig):
    """The shape of a DistilBERT; the defaults are distilbert-base-uncased.

    Raises:
        InputError: sizes that no transformer has.
    """

    depth: int = 6
    """Number of transformer blocks."""
    vocab: int = 30522
    """Number of different tokens."""
    max_positions: int = 512
    """Tokens of the longest text that can be encoded."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
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
        refuse_unless(config, activation="gelu")
        return cls(
            vocab=config.get("vocab_size", 30522),
            width=config.get("dim", 768),
            depth=config.get("n_layers", 6),
            heads=config.get("n_heads", 12),
            mlp=config.get("hidden_dim", 3072),
            max_positions=config.get("max_position_embeddings", 512),
        )


NAMING = Naming(
    prefix="distilbert.",
    table=(
        ("embeddings.word_embeddings", "words", WORDS),
        ("embeddings.position_embeddings", "positions", POSITIONS),
        ("embeddings.LayerNorm", "norm_embeddings", NORM),
        ("transformer.layer.{}.attention.q_lin", "blocks.{}.query", LINEAR),
        ("transformer.layer.{}.attention.k_lin", "blocks.{}.key", LINEAR),
        ("transformer.layer.{}.attention.v_lin", "blocks.{}.value", LINEAR),
        ("transformer.layer.{}.attention.out_lin", "blocks.{}.out", LINEAR),
        ("transformer.layer.{}.sa_layer_norm", "blocks.{}.norm_attention", NORM),
        ("transformer.layer.{}.ffn.lin1", "blocks.{}.up", LINEAR),
        ("transformer.layer.{}.ffn.lin2", "blocks.{}.down", LINEAR),
        ("transformer.layer.{}.output_layer_norm", "blocks.{}.norm_mlp", NORM),
    ),
    ignored=("vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*", "*.position_ids"),
)


class DistilBert(nnx.Module):
    """Texts to vectors: the mean of the last hidden state over the real tokens."""

    Config = DistilBertConfig
    naming = NAMING

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        embedding = normal(config.init_std, config.width)
        # In float32, as the positions below: the gradient of a common word, or of a position, is a
        # sum over thousands of tokens, which GPUs add up in bfloat16 badly and ten times as slowly.
        self.words = nnx.Embed(config.vocab, config.width, embedding_init=embedding, rngs=rngs)
        self.positions = nnx.Param(embedding(rngs.params(), (config.max_positions, config.width)))
        self.norm_embeddings = layer_norm(config, rngs)
        self.blocks = nnx.List([PostNormBlock(config, rngs) for _ in range(config.depth)])

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
        check_width(tokens, self.config.max_positions)
        return self.packed(tokens, alone(tokens, lengths), 1)[:, 0]

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
        seen = together(places)
        return run_blocks(
            list(self.blocks)[:-1], self.config, self.embed(tokens, places),
            lambda block, states: block(states, seen),
        )  # fmt: skip

    def head(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """The last block and the mean over the tokens of each text; float32."""
        states = self._last(states, places)
        own = of_texts(places, texts).astype(jnp.float32)
        # Padding is multiplied by zero, not selected away: its values are finite, and so are
        # its gradients, even in a row where all is padding.
        total = jnp.einsum("rsd,rks->rkd", states, own)
        return total / jnp.maximum(own.sum(-1), 1)[..., None]

    def hidden(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        """The last hidden state, float32; behind a text's end it means nothing."""
        places = alone(tokens, lengths)
        return self._last(self.trunk(tokens, places), places)

    def embed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Word plus position in its text, normalised."""
        words = self.words(tokens)
        position = positions_in_texts(places, self.config.max_positions)
        return self.norm_embeddings(words + self.positions[...][position]).astype(self.dtype)

    def _last(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        states = states.astype(self.dtype)
        return self.blocks[self.config.depth - 1](states, together(places)).astype(jnp.float32)
