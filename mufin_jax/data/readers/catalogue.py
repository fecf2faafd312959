"""What every reader returns: a catalogue as it was found, with nothing decoded yet.

Row i of a side stays row i until preparation drops what is unusable, so that the relevance files,
which refer to rows by number, keep their meaning. Images are named by integer keys: eight bytes
per image are held in memory, never pixels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int64

from mufin_jax.data.questions import Questions

SIDES = ("train", "test", "label")


@runtime_checkable
class ImageSource(Protocol):
    """Where the encoded images of a catalogue lie."""

    def read(self, key: int) -> bytes | Path:
        """The image's file or bytes; raises BadImage if there is none."""
        ...

    def name(self, key: int) -> str:
        """What the report calls this image."""
        ...


@dataclasses.dataclass
class RawSide:
    """The items of one side, in the order of their file.

    Attributes:
      file: name of the file, for messages.
      rows: 1-based line of each item in that file.
      ids: one string an item.
      titles: one string an item; "" where there is none.
      kept: False where the line was unusable.
      image_offsets: item i has the image keys `image_offsets[i]:image_offsets[i + 1]`.
      image_keys: into the catalogue's ImageSource, or rows of its image vectors.
      categories: one name an item, where the form has them.
      texts: the texts of each item, where it may have several; else its title is its text.
    """

    file: str
    rows: Int64[np.ndarray, " n"]
    ids: list[str]
    titles: list[str]
    kept: Bool[np.ndarray, " n"]
    image_offsets: Int64[np.ndarray, " n_plus_1"]
    image_keys: Int64[np.ndarray, " i"]
    categories: list[str] | None = None
    texts: list[list[str]] | None = None

    def __len__(self) -> int:
        """The number of items, unusable ones included."""
        return len(self.ids)

    def texts_of(self, i: int) -> list[str]:
        """The texts of item i, none of them empty."""
        return [text for text in (self.texts[i] if self.texts else [self.titles[i]]) if text]


class NoImages:
    """The source of a catalogue without images, in which no key exists."""

    def read(self, key: int) -> bytes | Path:
        """Rejects."""
        raise LookupError(f"image {key} of a catalogue without images")

    def name(self, key: int) -> str:
        """The key."""
        return str(key)


@dataclasses.dataclass
class Catalogue:
    """Three sides and how they relate.

    Attributes:
      form: the name of the form it was read from.
      sides: by "train", "test" and "label".
      relevance: by "train" and "test": CSR of points x labels, 1 where relevant.
      filters: like relevance; None where there is no filter file.
      images: where the images lie, if there are any.
      vectors: npy files whose rows, one file after the other, the image keys count.
      questions: where the test points are questions with given answers.
    """

    form: str
    sides: dict[str, RawSide]
    relevance: dict[str, scipy.sparse.csr_matrix]
    filters: dict[str, scipy.sparse.csr_matrix] | None
    images: ImageSource = dataclasses.field(default_factory=NoImages)
    vectors: Sequence[Path] = ()
    questions: Questions | None = None
