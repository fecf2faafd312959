"""RoBERTa and XLM-RoBERTa as encoders of texts, the second one of a hundred languages.

The numbers are those of Hugging Face's `RobertaModel` and `XLMRobertaModel` in evaluation mode,
pooled. They are BERTs whose positions begin at 2: the first two rows of the position embeddings
belong to padding and are left out here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mufin_jax.encoders.bert import EMBEDDINGS, Bert, BertConfig
from mufin_jax.encoders.checks import reject_unless
from mufin_jax.encoders.naming import Layer, Naming
from mufin_jax.encoders.transformer import BERT_BLOCKS

PADDING = 1
"""The token of padding. It decides where the positions of texts begin: after it."""
LATER_POSITIONS: Layer = ((".weight", "", lambda x: x[PADDING + 1 :]),)
"""Position embeddings of a checkpoint, without those of padding."""


@dataclasses.dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The shape of a RoBERTa; the defaults are FacebookAI/roberta-base.

    Raises:
        InputError: A size that no transformer has, or an unknown pooling.
    """

    vocab: int = 50265
    """Number of different tokens."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    types: int = 1
    """Types of tokens; all have the first one."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "RobertaConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, pad_token_id=PADDING)
        sizes = vars(super().from_hf(config))
        return cls(**sizes | {"max_positions": sizes["max_positions"] - PADDING - 1})


NAMING = Naming(
    prefix="roberta.",
    table=(
        *EMBEDDINGS,
        ("embeddings.position_embeddings", "positions", LATER_POSITIONS),
        *BERT_BLOCKS,
    ),
    ignored=("pooler.*", "lm_head.*", "classifier.*", "qa_outputs.*", "*.position_ids"),
)


class Roberta(Bert):
    """Texts to vectors: the last hidden state, pooled."""

    Config = RobertaConfig
    naming = NAMING
