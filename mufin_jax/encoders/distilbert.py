"""The text encoder E_T: DistilBERT, pooled by the mean over real tokens (paper, section 3).

The numbers are those of Hugging Face's `DistilBertModel` in evaluation mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mufin_jax.encoders.checks import reject_unless
from mufin_jax.encoders.naming import LINEAR, NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.pooled_text import PooledTextConfig
from mufin_jax.encoders.post_norm_text import PostNormText


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(PooledTextConfig):
    """The shape of a DistilBERT; the defaults are distilbert-base-uncased.

    Raises:
        InputError: A size that no transformer has, or an unknown pooling.
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

    def to_hf(self) -> dict[str, Any]:
        """Return the Hugging Face `config.json` of this shape."""
        return {
            "architectures": ["DistilBertModel"], "model_type": "distilbert",
            "activation": "gelu", "vocab_size": self.vocab, "dim": self.width,
            "n_layers": self.depth, "n_heads": self.heads, "hidden_dim": self.mlp,
            "max_position_embeddings": self.max_positions, "pad_token_id": 0,
        }  # fmt: skip


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


class DistilBert(PostNormText):
    """Texts to vectors: the last hidden state, pooled."""

    Config = DistilBertConfig
    naming = NAMING
