"""The text encoder E_T: DistilBERT, pooled by the mean over real tokens (paper, section 3).

The numbers are those of Hugging Face's `DistilBertModel` in evaluation mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.checks import reject_unless
from mufin_jax.encoders.layers import layer_norm, run_blocks
from mufin_jax.encoders.naming import LINEAR, NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.rows import alone, of_texts, together
from mufin_jax.encoders.text_transformer import TextTransformer, TextTransformerConfig
from mufin_jax.encoders.transformer import PostNormBlock


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(TextTransformerConfig):
    """The shape of a DistilBERT; the defaults are distilbert-base-uncased.

    Raises:
        InputError: A size that no transformer has.
    """

    depth: int = 6
    """Number of transformer blocks."""

    @classmethod
    def base(cls) -> "DistilBertConfig":
        """Return DistilBERT-base: the paper's text encoder."""
        return cls()

    @classmethod
    def miniature(cls, vocab: int) -> "DistilBertConfig":
        """Return a DistilBERT that trains from scratch in minutes on a CPU."""
        return cls(
            vocab=vocab, width=64, depth=2, heads=4, mlp=128, max_positions=64, init_std=None
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DistilBertConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, activation="gelu")
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


class DistilBert(TextTransformer):
    """Texts to vectors: the mean of the last hidden state over the real tokens."""

    Config = DistilBertConfig
    naming = NAMING

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.norm_embeddings = layer_norm(config, rngs)
        self.blocks = nnx.List([PostNormBlock(config, rngs) for _ in range(config.depth)])

    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """Encode several texts a row; see TextTransformer."""
        return self.head(self.trunk(tokens, places), places, texts)

    def trunk(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return all tokens before the last block, in the compute dtype."""
        seen = together(places)
        return run_blocks(
            list(self.blocks)[:-1], self.config, self.embed(tokens, places),
            lambda block, states: block(states, seen),
        )  # fmt: skip

    def head(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """Apply the last block and take the mean over the tokens of each text; float32."""
        states = self._last(states, places)
        own = of_texts(places, texts).astype(jnp.float32)
        # Padding is multiplied by zero, not selected away: its values and its gradients are
        # finite, even in a row that is all padding.
        total = jnp.einsum("rsd,rks->rkd", states, own)
        return total / jnp.maximum(own.sum(-1), 1)[..., None]

    def hidden(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        """Return the last hidden state, float32; after the end of a text it means nothing."""
        places = alone(tokens, lengths)
        return self._last(self.trunk(tokens, places), places)

    def embed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return the words plus their positions in their texts, normalised."""
        return self.norm_embeddings(self.placed_words(tokens, places)).astype(self.dtype)

    def _last(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        states = states.astype(self.dtype)
        return self.blocks[self.config.depth - 1](states, together(places)).astype(jnp.float32)
