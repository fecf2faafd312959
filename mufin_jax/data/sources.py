"""What descriptors are read from, and what a batch then holds of them: the type names the form.

A loader reads the rows that a batch names from its sources. What it reads has the type of the
source, so the model knows by type, and never by a dtype or a number of axes, how much of an encoder
is left to run: all of E_V for `Pixels`, its last block for `TrunkStates`, none for `Vectors`.
"""

import dataclasses
from typing import Any, no_type_check

from jaxtyping import Float, Int32


@no_type_check  # the rows may also be numpy or JAX arrays, shapes or placements
@dataclasses.dataclass(frozen=True)
class Pixels:
    """Images as pixels, 0 to 255.

    Attributes:
        rows: UInt8 (i, h, w, 3), or what reads such rows from the disk (`record_images.Images`).
    """

    rows: Any


@no_type_check
@dataclasses.dataclass(frozen=True)
class TrunkStates:
    """What the frozen blocks of E_V make of images; its last block has yet to run.

    Attributes:
        rows: the states, an image a row.
    """

    rows: Float[Any, "i ..."]


@no_type_check
@dataclasses.dataclass(frozen=True)
class Vectors:
    """A vector a descriptor: a ready one of the data, what a frozen encoder made, or X0.

    Attributes:
        rows: the vectors.
    """

    rows: Float[Any, "p w"]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Texts as token ids.

    Attributes:
        rows: token ids of each text, padded with 0.
        lengths: their numbers of real tokens.
    """

    rows: Int32[Any, "t s"]
    lengths: Int32[Any, "t"]


ImageSource = Pixels | TrunkStates | Vectors
TextSource = Tokens | Vectors


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where a loader reads descriptors from.

    Attributes:
        texts: the distinct texts; for a joint model vectors are of items, a row an item.
        images: the distinct images.
        known: X0 of all descriptors by number, if it will not change; batches then hold nothing
            else.
    """

    texts: TextSource
    images: ImageSource
    known: Vectors | None = None
