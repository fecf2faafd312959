"""What the encoders of texts but CLIP share: the last block's tokens become one vector a text.

A sentence encoder's checkpoint names the pooling, and whether vectors are normalised
(sentence_files.py). Elsewhere it is the paper's: the mean over the real tokens (section 3).
"""

import abc
import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.rows import alone, ends, of_texts, starts
from mufin_jax.encoders.text_transformer import TextTransformer, TextTransformerConfig
from mufin_jax.runtime.errors import InputError

TextPooling = Literal["mean", "cls", "last"]
_LEAST_NORM = 1e-12


@dataclasses.dataclass(frozen=True)
class PooledTextConfig(TextTransformerConfig):
    """The shape of a transformer over the tokens of a text, and how these are pooled.

    Raises:
        InputError: A size that no transformer has, or an unknown pooling.
    """

    pooling: TextPooling = "mean"
    """The mean over a text's tokens, or its first token ([CLS]), or its last one."""
    normalise: bool = False
    """Whether vectors have norm 1."""

    def __post_init__(self) -> None:
        """Reject values that make no network."""
        super().__post_init__()
        if self.pooling not in get_args(TextPooling):
            raise InputError(
                f"{type(self).__name__}: pooling={self.pooling!r}; expected one of "
                f"{', '.join(get_args(TextPooling))}"
            )


class PooledText(TextTransformer):
    """Token ids to one vector a text; a subclass adds its blocks, `trunk` and `last`."""

    config: PooledTextConfig

    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """Encode several texts a row; see TextTransformer."""
        return self.head(self.trunk(tokens, places), places, texts)

    @abc.abstractmethod
    def trunk(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return all tokens before the last block, in the compute dtype."""

    @abc.abstractmethod
    def last(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Apply the last block, and the norm after it where there is one; float32."""

    def head(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k width"]:
        """Apply the last block and pool the tokens of each text; float32."""
        vectors = _pool(self.last(states, places), places, texts, self.config.pooling)
        return _unit(vectors) if self.config.normalise else vectors

    def hidden(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t s width"]:
        """Return the last hidden state, float32; after the end of a text it means nothing."""
        places = alone(tokens, lengths)
        return self.last(self.trunk(tokens, places), places)


def _pool(
    states: Float[Array, "r s width"], places: Int[Array, "r s"], texts: int, pooling: TextPooling
) -> Float[Array, "r k width"]:
    """Return one vector for each text of a row, from its tokens; zero for a place without one."""
    chosen = {"mean": of_texts, "cls": starts, "last": ends}[pooling]
    own = chosen(places, texts).astype(jnp.float32)
    # Padding is multiplied by zero, not selected away: its values and its gradients are
    # finite, even in a row that is all padding.
    total = jnp.einsum("rsd,rks->rkd", states, own)
    return total / jnp.maximum(own.sum(-1), 1)[..., None]


def _unit(vectors: Float[Array, "r k width"]) -> Float[Array, "r k width"]:
    """Return vectors of norm 1; zeros stay zeros, with finite gradients."""
    squares = (vectors**2).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, _LEAST_NORM**2))
