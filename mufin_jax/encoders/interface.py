"""What the rest of the package requires of an encoder. To add one, see registry.py.

An encoder is a plain NNX module, made from (config, rngs), that holds its weights and its config
and no random state. It turns each descriptor into one float32 vector. The names of its parts decide
which of them train (`freezing.trainable`): its blocks are in a list `blocks`; what follows the last
block is called `norm`, `pooling` or `projection`; running statistics are called `mean` and
`variance`, and never train. A text encoder reads several texts in a row (`rows.py`), each of which
sees only itself. A joint encoder takes the text encoder's place, and makes one vector from a text
and its pictures.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

from jaxtyping import Array, Bool, Float, Int

from mufin_jax.encoders.naming import Naming


class EncoderConfig(Protocol):
    """The shape of a network: a frozen dataclass of plain values, in a JSON file and in options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def dtype(self) -> Literal["auto", "float32", "bfloat16"]:
        """What matrices multiply in; see `layers.compute_dtype`."""
        ...

    @property
    def layers(self) -> Literal["unrolled", "scan"]:
        """How blocks are compiled; see `layers.run_blocks`."""
        ...

    @property
    def remat(self) -> bool:
        """Whether the backward pass computes each block again."""
        ...

    @property
    def depth(self) -> int:
        """Return the number of blocks."""
        ...

    @property
    def outputs(self) -> int:
        """Return the width of the vectors."""
        ...

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "EncoderConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: The encoder's file doesn't implement this network.
        """
        ...


class TextConfig(EncoderConfig, Protocol):
    """The shape of a network that reads tokens."""

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        ...

    @property
    def max_positions(self) -> int:
        """Tokens of the longest text that can be encoded."""
        ...


class JointConfig(TextConfig, Protocol):
    """The shape of a network that reads tokens and vectors of pictures."""

    @property
    def visual(self) -> int:
        """Entries of a picture's vector."""
        ...


class ImageEncoder(Protocol):
    """Normalised images to vectors; `encoder(images)` is `encoder.head(encoder.trunk(images))`."""

    Config: ClassVar[type]
    naming: ClassVar[Naming]
    config: Any
    dtype: str

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i outputs"]:
        """Return one vector for each image, of any size."""
        ...

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i ..."]:
        """Compute everything before the last block, in the compute dtype.

        It is constant, and can be cached, where only the last block trains. Its first axis is that
        of the images; the others are the encoder's own.
        """
        ...

    def head(self, below: Float[Array, "i ..."]) -> Float[Array, "i outputs"]:
        """Apply the last block and what follows it."""
        ...

    def resize(self, image_size: int) -> None:
        """Prepare, once, for images of this side instead of the checkpoint's."""
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
        """Return one vector for each text; a text of length 0 becomes zeros."""
        ...

    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k outputs"]:
        """Return one vector for each of the k texts that a row may hold; zero for a missing one."""
        ...


class JointEncoder(Protocol):
    """Tokens and vectors of pictures to vectors; the registry lists it as a joint text encoder."""

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
        """Return one vector for each text with its pictures, from its real tokens and pictures."""
        ...
