"""What every reader returns: a catalogue as the reader found it, with nothing decoded yet.

Row i of a side stays row i until preparation drops what is unusable: relevance files refer to rows
by number. Images are named by integer keys: memory holds eight bytes an image, never pixels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int64

from mufin_jax.data.kept_fields import FieldValue
from mufin_jax.data.questions import Questions
from mufin_jax.data.readers.fields import FieldCounts

SIDES = ("train", "test", "label")


@runtime_checkable
class ImageSource(Protocol):
    """Where the encoded images of a catalogue lie."""

    def read(self, key: int) -> bytes | Path:
        """Return the image's file or bytes; raise BadImage if there is none."""
        ...

    def name(self, key: int) -> str:
        """Return what the report calls this image."""
        ...


@dataclasses.dataclass
class RawSide:
    """The items of one side, in the order of their file.

    Attributes:
        file: the name of the file, for messages.
        rows: the 1-based line of each item in that file.
        ids: one string an item.
        titles: one string an item; "" if it has none.
        kept: False if the line is unusable.
        image_offsets: item i has the image keys `image_offsets[i]:image_offsets[i + 1]`.
        image_keys: keys of the catalogue's ImageSource, or rows of its image vectors.
        categories: one name an item, if the form has categories.
        texts: the texts of each item, if an item can have several; otherwise its text is its title.
        fields: how many items have which field, if the form has fields.
        no_items: why there is no item, if the reader knows.
        may_lack: whether no items are needed: the user has no test points.
        kept_fields: of each item, the values of the fields that are kept for filters.
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
    fields: FieldCounts | None = None
    no_items: str = ""
    may_lack: bool = False
    kept_fields: Sequence[Sequence[FieldValue]] = ()

    def __len__(self) -> int:
        """Return the number of items, unusable ones included."""
        return len(self.ids)

    def texts_of(self, i: int) -> list[str]:
        """Return the non-empty texts of item i."""
        return [text for text in (self.texts[i] if self.texts else [self.titles[i]]) if text]


def no_test_points(file: str) -> RawSide:
    """Return the test side of a user who has no test points."""
    none = np.zeros(0, np.int64)
    kept = np.zeros(0, bool)
    return RawSide(file, none, [], [], kept, np.zeros(1, np.int64), none, may_lack=True)


class NoImages:
    """The source of a catalogue without images: no key exists."""

    def read(self, key: int) -> bytes | Path:
        """Raise LookupError."""
        raise LookupError(f"image {key} of a catalogue without images")

    def name(self, key: int) -> str:
        """Return the key as text."""
        return str(key)


@dataclasses.dataclass
class Catalogue:
    """Three sides and their relations.

    Attributes:
        form: the name of the form that was read.
        sides: by "train", "test" and "label".
        relevance: by "train" and "test": CSR of points x labels, 1 if relevant.
        filters: the overlap filters, like relevance; None if there is no filter file.
        images: the source of the images, if there are any.
        vectors: npy files of image vectors; image keys count their rows, file after file.
        questions: set if the test points are questions with given answers.
        files: the names of the files that were read, relative to the folder; without pictures.
    """

    form: str
    sides: dict[str, RawSide]
    relevance: dict[str, scipy.sparse.csr_matrix]
    filters: dict[str, scipy.sparse.csr_matrix] | None
    images: ImageSource = dataclasses.field(default_factory=NoImages)
    vectors: Sequence[Path] = ()
    questions: Questions | None = None
    files: Sequence[str] = ()
