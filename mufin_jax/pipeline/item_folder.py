"""Items in memory, written as the files that preparation reads: products, and their pictures.

products.jsonl, or {trn,tst,lbl}.jsonl    one item a line (`data/readers/product_files.py`)
images/                                   the pictures, named by the first item that has them
{text,image}_vectors.npy, .ids.txt        ready vectors (`item_vectors.py`)
"""

import dataclasses
import hashlib
import html
import io
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mufin_jax.data.readers.values import unescaped
from mufin_jax.pipeline.item_vectors import write_vectors
from mufin_jax.prediction.items import Item
from mufin_jax.prediction.pictures import plain_picture
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.disk import disk_errors

_IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
"""The modes of Pillow that a PNG file holds; pictures of others become RGB."""


def write_items(
    files: Mapping[str, Sequence[Item]], folder: Path, max_bytes: int
) -> dict[str, Any]:
    """Write items and their pictures; return the settings that preparation reads them by.

    Args:
        files: items with ids, by the name of their file without its ending.
        folder: is made.
        max_bytes: the largest encoded picture that is read.

    Raises:
        InputError: if a picture is none, or is no file, with the place of its item.
        DiskError: if a file cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        pictures = _Pictures(folder, max_bytes)
        for name, items in files.items():
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
                for item in items:
                    check_stop("prepare")
                    row = _row(item) | {"images": pictures.of(item)}
                    file.write(json.dumps({k: v for k, v in row.items() if v}) + "\n")
    most = max(len(item.titles) for items in files.values() for item in items)
    texts = ",".join(map(_text_field, range(1, most)))
    columns = {"prepare.columns": [f"texts={texts}"]} if texts else {}
    with disk_errors(folder):
        return columns | write_vectors(itertools.chain(*files.values()), folder)


def _row(item: Item) -> dict[str, Any]:
    titles = [_as_read(title) for title in item.titles]
    row: dict[str, Any] = {"id": item.id, "title": titles[0] if titles else None}
    row |= {_text_field(i): title for i, title in enumerate(titles) if i}
    return row | {"also_buy": list(item.related)}


def _text_field(number: int) -> str:
    return f"text{number + 1}"


def _as_read(title: str) -> str:
    """Return a title as preparation must find it, which reads HTML entities once more."""
    return title if unescaped(title) == title else html.escape(title, quote=False)


@dataclasses.dataclass
class _Pictures:
    """Writes pictures, each distinct one once.

    Attributes:
        folder: of the items.
        max_bytes: the largest that is read.
        names: of the files, by what is in them.
    """

    folder: Path
    max_bytes: int
    names: dict[object, str] = dataclasses.field(default_factory=dict)

    def of(self, item: Item) -> list[str]:
        """Return the paths of an item's pictures in the folder."""
        stem = item.name.replace(": ", "-").replace(" ", "-")
        return [
            self._add(picture, item.name, f"{stem}-{place}")
            for place, picture in enumerate(item.pictures)
        ]

    def _add(self, source: Any, place: str, stem: str) -> str:
        shown = f" ({os.fspath(source)!s:.200})" if isinstance(source, str | os.PathLike) else ""
        try:
            found = plain_picture(source, self.max_bytes)
        except InputError as error:
            raise InputError(f"{place}: picture{shown}: {error}") from None
        ending = ""
        if isinstance(found, Path):
            if not found.is_file():
                raise InputError(f"{place}: picture{shown}: no such file")
            key: object = found.resolve()
            ending = found.suffix if found.suffix[1:].isalnum() and len(found.suffix) < 6 else ""
        else:
            found = _png(found) if isinstance(found, Image.Image) else found
            key = hashlib.sha256(found).digest()
        if key not in self.names:
            self.names[key] = f"images/{stem}{ending}"
            _write(found, self.folder / self.names[key])
        return self.names[key]


def _png(image: Image.Image) -> bytes:
    """Return an opened picture as PNG, which loses nothing; its EXIF may turn it upright."""
    content = io.BytesIO()
    plain = image if image.mode in _IN_PNG else image.convert("RGB")
    plain.save(content, "PNG", exif=image.getexif(), compress_level=1)
    return content.getvalue()


def _write(found: Path | bytes, path: Path) -> None:
    """Write a picture; a file is linked where its disk allows it, as it may be large."""
    path.parent.mkdir(exist_ok=True)
    if isinstance(found, bytes):
        path.write_bytes(found)
        return
    try:
        os.link(found.resolve(), path)
    except OSError:  # another disk, or another owner
        shutil.copyfile(found, path)
