"""BERT, an encoder of texts: MiniLM, e5, bge, gte and other encoders of `model_type` bert.

The numbers are those of Hugging Face's `BertModel` in evaluation mode, pooled. All tokens have the
first of BERT's types, which told two sentences apart in its pre-training.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.checks import check_size, reject_unless
from mufin_jax.encoders.layers import normal
from mufin_jax.encoders.naming import NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.pooled_text import PooledTextConfig
from mufin_jax.encoders.post_norm_text import PostNormText
from mufin_jax.encoders.transformer import BERT_BLOCKS


@dataclasses.dataclass(frozen=True)
class BertConfig(PooledTextConfig):
    """The shape of a BERT; the defaults are google-bert/bert-base-uncased.

    Raises:
        InputError: A size that no transformer has, or an unknown pooling.
    """

    types: int = 2
    """Types of tokens; all have the first one."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_size(self, "types")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, hidden_act="gelu", position_embedding_type="absolute")
        return cls(
            vocab=config.get("vocab_size", cls.vocab),
            width=config.get("hidden_size", 768),
            depth=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            mlp=config.get("intermediate_size", 3072),
            max_positions=config.get("max_position_embeddings", 512),
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            types=config.get("type_vocab_size", 2),
        )

    def to_hf(self) -> dict[str, Any]:
        """Return the Hugging Face `config.json` of this shape."""
        return {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
            "vocab_size": self.vocab, "hidden_size": self.width,
            "num_hidden_layers": self.depth, "num_attention_heads": self.heads,
            "intermediate_size": self.mlp, "max_position_embeddings": self.max_positions,
            "layer_norm_eps": self.layer_norm_eps, "type_vocab_size": self.types,
            "pad_token_id": 0,
        }  # fmt: skip


EMBEDDINGS = (
    ("embeddings.word_embeddings", "words", WORDS),
    ("embeddings.token_type_embeddings", "types", POSITIONS),
    ("embeddings.LayerNorm", "norm_embeddings", NORM),
)
"""The names of BERT's and RoBERTa's embeddings, without the positions."""
NAMING = Naming(
    prefix="bert.",
    table=(
        *EMBEDDINGS,
        ("embeddings.position_embeddings", "positions", POSITIONS),
        *BERT_BLOCKS,
    ),
    older=((".gamma", ".weight"), (".beta", ".bias")),  # norms, as TensorFlow names them
    ignored=("pooler.*", "cls.*", "classifier.*", "qa_outputs.*", "*.position_ids"),
)


class Bert(PostNormText):
    """Texts to vectors: the last hidden state, pooled."""

    Config = BertConfig
    naming = NAMING

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        embedding = normal(config.init_std, config.width)
        self.types = nnx.Param(embedding(rngs.params(), (config.types, config.width)))

    def placed_words(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return the words plus their positions in their texts and the first type, in float32."""
        return super().placed_words(tokens, places) + self.types[...][:1][None]
