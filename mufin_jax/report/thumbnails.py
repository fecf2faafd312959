"""Items for people: a title that is safe to print, and a few small pictures."""

import base64
import dataclasses
import io
import unicodedata

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mufin_jax.data.dataset import Dataset, Side

THUMBNAIL = 112
"""Largest side of a picture on the page in pixels: twice the shown size, for fine screens."""
TITLE = 160
"""The most characters of a title that are shown."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A datapoint or label to show.

    Attributes:
        id: its id, made printable.
        title: its title, made printable; "" if it has none.
        pictures: its first pictures.
    """

    id: str
    title: str
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]

    @property
    def images(self) -> list[str]:
        """The pictures as data URIs."""
        return [data_uri(_jpeg(picture), "image/jpeg") for picture in self.pictures]


@dataclasses.dataclass(frozen=True)
class Result:
    """A label found for a query; `right` if it is relevant."""

    item: Item
    right: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """A query and its results, best first; `by` names the modality if there are several."""

    query: Item
    results: tuple[Result, ...]
    by: str = ""


def show(dataset: Dataset, side: Side, row: int, pictures: int = 1) -> Item:
    """Return an item of a side with its first pictures, at most `pictures`."""
    rows = side.images_of(row)[:pictures]
    pixels = dataset.images[rows] if len(dataset.images) and len(rows) else ()
    return Item(printable(side.ids[row], 60), printable(side.titles[row]), tuple(pixels))


def printable(text: str, most: int = TITLE) -> str:
    """Return a title on one line: no control or direction characters, at most `most` characters.

    Direction marks are dropped, not only contained: they would reverse the text next to the title
    in a figure or a CSV file.
    """
    text = text[: 8 * most]  # a title can have any length
    kept = (" " if char.isspace() else char for char in text)
    text = "".join(c for c in kept if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def data_uri(content: bytes, kind: str) -> str:
    """Return the content of a file as a text that replaces its name in a page."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return a picture as a JPEG of at most THUMBNAIL pixels a side."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()
