"""MPNet as an encoder of texts: all-mpnet-base-v2 and other sentence encoders.

The numbers are those of Hugging Face's `MPNetModel` in evaluation mode, pooled. It is a BERT
without types, whose heads also add a number for how far apart two tokens are. All blocks share
these numbers. As RoBERTa's, its first two position embeddings belong to padding.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.checks import check_size, reject_unless
from mufin_jax.encoders.layers import normal
from mufin_jax.encoders.naming import LINEAR, NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.pooled_text import PooledTextConfig
from mufin_jax.encoders.post_norm_text import PostNormText
from mufin_jax.encoders.roberta import LATER_POSITIONS, PADDING
from mufin_jax.runtime.errors import InputError

FARTHEST = 128
"""Tokens apart; from here on, all distances share one number."""
_LEAST_BUCKETS = 4


@dataclasses.dataclass(frozen=True)
class MpnetConfig(PooledTextConfig):
    """The shape of an MPNet; the defaults are microsoft/mpnet-base.

    Raises:
        InputError: A size that no transformer has, or an unknown pooling.
    """

    vocab: int = 30527
    """Number of different tokens."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    buckets: int = 32
    """Numbers for distances between tokens, half of them for each direction."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_size(self, "buckets")
        if self.buckets < _LEAST_BUCKETS:
            raise InputError(
                f"MpnetConfig: buckets={self.buckets}; expected at least {_LEAST_BUCKETS}, two for "
                "each direction"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "MpnetConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        # Hugging Face's code computes with 32, whatever the config holds.
        reject_unless(
            config, hidden_act="gelu", pad_token_id=PADDING, relative_attention_num_buckets=32
        )
        return cls(
            vocab=config.get("vocab_size", 30527),
            width=config.get("hidden_size", 768),
            depth=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            mlp=config.get("intermediate_size", 3072),
            max_positions=config.get("max_position_embeddings", 512) - PADDING - 1,
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        )


NAMING = Naming(
    prefix="mpnet.",
    table=(
        ("embeddings.word_embeddings", "words", WORDS),
        ("embeddings.position_embeddings", "positions", LATER_POSITIONS),
        ("embeddings.LayerNorm", "norm_embeddings", NORM),
        ("encoder.relative_attention_bias", "distances", POSITIONS),
        ("encoder.layer.{}.attention.attn.q", "blocks.{}.query", LINEAR),
        ("encoder.layer.{}.attention.attn.k", "blocks.{}.key", LINEAR),
        ("encoder.layer.{}.attention.attn.v", "blocks.{}.value", LINEAR),
        ("encoder.layer.{}.attention.attn.o", "blocks.{}.out", LINEAR),
        ("encoder.layer.{}.attention.LayerNorm", "blocks.{}.norm_attention", NORM),
        ("encoder.layer.{}.intermediate.dense", "blocks.{}.up", LINEAR),
        ("encoder.layer.{}.output.dense", "blocks.{}.down", LINEAR),
        ("encoder.layer.{}.output.LayerNorm", "blocks.{}.norm_mlp", NORM),
    ),
    ignored=("pooler.*", "lm_head.*", "classifier.*", "qa_outputs.*", "*.position_ids"),
)


class Mpnet(PostNormText):
    """Texts to vectors: the last hidden state, pooled."""

    Config = MpnetConfig
    naming = NAMING

    def __init__(self, config: MpnetConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        draw = normal(config.init_std, config.width)
        self.distances = nnx.Param(draw(rngs.params(), (config.buckets, config.heads)))

    def bias(self, tokens: int) -> Float[Array, "heads s s"]:
        """Return each head's number for each pair of tokens of a row.

        The tokens of a text are neighbours: two tokens are as far apart in the row as in the text.
        """
        place = np.arange(tokens)
        bucket = buckets(place[None] - place[:, None], len(self.distances[...]))
        return self.distances[...][bucket].transpose(2, 0, 1)


def buckets(apart: Int[np.ndarray, "*s"], count: int) -> Int[np.ndarray, "*s"]:
    """Return the bucket of each distance, of which near ones have one each; as T5 does.

    Args:
        apart: The place of the token attended to, minus that of the token that attends.
        count: Number of buckets, half of them for tokens that come later.
    """
    half = count // 2
    near, far = half // 2, np.abs(apart)
    # In float32, as torch computes it.
    logarithm = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(near))
    share = logarithm / np.float32(np.log(FARTHEST / near)) * np.float32(half - near)
    beyond = np.minimum(near + share.astype(np.int64), half - 1)
    return np.where(apart > 0, half, 0) + np.where(far < near, far, beyond)
