"""Items as people see them: a title that is safe to print, and a few small pictures."""

import base64
import dataclasses
import io
import unicodedata

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mufin_jax.data.dataset import Dataset, Side

THUMBNAIL = 112
"""Side of a picture on the page in pixels, at most: twice what is seen, for fine screens."""
TITLE = 160
"""Characters of a title that are shown, at most."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A datapoint or label to be shown.

    Attributes:
        id: its id, made printable.
        title: its title, made printable; "" where there is none.
        pictures: the first of its pictures.
    """

    id: str
    title: str
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]

    @property
    def images(self) -> list[str]:
        """The pictures as data URIs."""
        return [data_uri(picture) for picture in self.pictures]


@dataclasses.dataclass(frozen=True)
class Result:
    """A label that was found for a query, `right` where it is relevant."""

    item: Item
    right: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """A query and what was found for it, best first; `by` says how, where there are more ways."""

    query: Item
    results: tuple[Result, ...]
    by: str = ""


def show(dataset: Dataset, side: Side, row: int, pictures: int = 1) -> Item:
    """An item of a side with its first pictures, at most so many."""
    rows = side.images_of(row)[:pictures]
    pixels = dataset.images[rows] if len(dataset.images) and len(rows) else ()
    return Item(printable(side.ids[row], 60), printable(side.titles[row]), tuple(pixels))


def printable(text: str, most: int = TITLE) -> str:
    """A title on one line: no control or direction characters, no more than `most` characters.

    Direction marks are dropped, and not only contained: they would turn around what is set beside
    the title in a figure, or in a CSV file.
    """
    text = text[: 8 * most]  # a title can have any length
    kept = (" " if char.isspace() else char for char in text)
    text = "".join(c for c in kept if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def data_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as the text that stands in a page instead of a file's name."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
