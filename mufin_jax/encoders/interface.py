"""What an encoder is: all that the rest of the package asks of one.

An encoder is a plain NNX module, made from (config, rngs), that holds weights and its config and no
random state. Descriptors go in, one float32 vector each comes out. Its names say what trains
(`freezing.trainable`): its blocks are in a list `blocks`; what follows the last block is called
`norm`, `pooling` or `projection`; running statistics are called `mean` and `variance`, and never
train. A text encoder reads several texts a row (`rows.py`), each of which sees itself alone. A
joint encoder takes the text encoder's place, and makes one vector of a text and its pictures.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

from jaxtyping import Array, Bool, Float, Int

from mufin_jax.encoders.naming import Naming


class EncoderConfig(Protocol):
    """The shape of a network: a frozen dataclass of plain values, in a JSON file and in options."""

    dtype: Literal["auto", "float32", "bfloat16"]
    """What matrices multiply in; see `layers.compute_dtype`."""
    layers: Literal["unrolled", "scan"]
    """How blocks are compiled; see `layers.run_blocks`."""
    remat: bool
    """Whether the backward pass computes each block again."""

    @property
    def depth(self) -> int:
        """The number of blocks."""
        ...

    @property
    def outputs(self) -> int:
        """The width of the vectors."""
        ...

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "EncoderConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: a network that the encoder's file doesn't implement.
        """
        ...


class TextConfig(EncoderConfig, Protocol):
    """The shape of a network that reads tokens."""

    vocab: int
    """Number of different tokens."""
    max_positions: int
    """Tokens of the longest text that can be encoded."""


class JointConfig(TextConfig, Protocol):
    """The shape of a network that reads tokens and vectors of pictures."""

    visual: int
    """Entries of a picture's vector."""


class ImageEncoder(Protocol):
    """Normalised images to vectors; `encoder(images)` is `encoder.head(encoder.trunk(images))`."""

    Config: ClassVar[type]
    naming: ClassVar[Naming]
    config: Any
    dtype: str

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i outputs"]:
        """One vector an image, of any size."""
        ...

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i ..."]:
        """All that comes before the last block: constant, so cacheable, where `last` trains.

        In the compute dtype, with axes to spare behind the first.
        """
        ...

    def head(self, below: Float[Array, "i ..."]) -> Float[Array, "i outputs"]:
        """The last block and what follows it."""
        ...

    def resize(self, image_size: int) -> None:
        """Get ready, once, for images of this side instead of the checkpoint's."""
        ...


class TextEncoder(Protocol):
    """Tokens to vectors."""

    Config: ClassVar[type]
    naming: ClassVar[Naming]
    config: Any
    dtype: str

    def __call__(
        self, tokens: Int[Array, "t s"], lengths: Int[Array, " t"]
    ) -> Float[Array, "t outputs"]:
        """One vector a text; a text of length 0 becomes zeros."""
        ...

    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k outputs"]:
        """One vector for each of the k texts that a row may hold; zero where there is none."""
        ...


class JointEncoder(Protocol):
    """Tokens and vectors of pictures to vectors; in the table, a text encoder that is joint."""

    Config: ClassVar[type]
    naming: ClassVar[Naming]
    config: Any
    dtype: str

    def __call__(
        self,
        tokens: Int[Array, "t s"],
        real: Bool[Array, "t s"],
        vectors: Float[Array, "t m visual"],
        shown: Bool[Array, "t m"],
    ) -> Float[Array, "t outputs"]:
        """One vector of each text with its pictures, real tokens and shown ones alone."""
        ...
