"""What the encoders of texts share: words and positions become tokens.

Each adds its blocks, and how it pools the last block's tokens into one vector a text.
"""

import abc
import dataclasses
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.checks import check_size
from mufin_jax.encoders.layers import compute_dtype, normal
from mufin_jax.encoders.rows import alone, check_width, positions_in_texts
from mufin_jax.encoders.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class TextTransformerConfig(TransformerConfig):
    """The shape of a transformer over the tokens of a text.

    Raises:
        InputError: A size that no transformer has.
    """

    vocab: int = 30522
    """Number of different tokens."""
    max_positions: int = 512
    """Tokens of the longest text that can be encoded."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        for name in ("vocab", "max_positions"):
            check_size(self, name)


class TextTransformer(nnx.Module):
    """Token ids to one vector a text; a subclass adds its blocks and `packed`.

    Args:
        config: The sizes.
        rngs: Source of the initial weights.
    """

    learned_positions: ClassVar[bool] = True
    """Whether each position has an embedding."""

    def __init__(self, config: TextTransformerConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        embedding = normal(config.init_std, config.width)
        # In float32, as the positions below: the gradient of a common word, or of a position, is a
        # sum over thousands of tokens, which GPUs add up in bfloat16 badly and ten times as slowly.
        self.words = nnx.Embed(config.vocab, config.width, embedding_init=embedding, rngs=rngs)
        if self.learned_positions:
            shape = (config.max_positions, config.width)
            self.positions = nnx.Param(embedding(rngs.params(), shape))

    def __call__(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t outputs"]:
        """Encode one text a row.

        Args:
            tokens: Token ids below `config.vocab`; those after the end of a text are ignored.
            lengths: Number of real tokens of each text; a text of length 0 becomes zeros.

        Returns:
            float32 vectors.

        Raises:
            ValueError: More token columns than `config.max_positions`.
        """
        check_width(tokens, self.config.max_positions)
        return self.packed(tokens, alone(tokens, lengths), 1)[:, 0]

    @abc.abstractmethod  # Flax's metaclass is an ABCMeta
    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k outputs"]:
        """Encode several texts a row, one after the other; each sees only itself.

        Args:
            tokens: Token ids below `config.vocab`; the tokens of a text are neighbours.
            places: Which text of its row, 0 to k - 1, a token belongs to; -1 for none.
            texts: k, the texts that a row may hold.

        Returns:
            float32 vectors; zero for a place that no text has.
        """

    def placed_words(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return the words plus their positions in their texts, in float32."""
        words = self.words(tokens)
        position = positions_in_texts(places, self.config.max_positions)
        return words + self.positions[...][position]
