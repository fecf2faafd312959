"""Items in a file, read row by row: JSON lines, CSV, TSV and Parquet, as preparation reads them.

A bad row is no error: it is noted with its reason. A broken picture is left out, and its item asks
with what it has left.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import BadImage
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.product_files import ROWS, rows_of
from mufin_jax.data.readers.products import product_of
from mufin_jax.data.readers.tally import Tally
from mufin_jax.prediction.items import Item
from mufin_jax.prediction.pictures import ReadPicture, read_picture
from mufin_jax.runtime.errors import InputError

_MAX_IMAGES = 15
_ENDINGS = ", ".join(ROWS)


class Note(NamedTuple):
    """Something about a row that its user should know.

    Attributes:
        population: "lines" or "images", of which it is a bad one; "" if it makes nothing bad.
        kind: such as "broken image".
        row: 1-based, in the file.
        reason: for people.
    """

    population: str
    kind: str
    row: int
    reason: str


@dataclasses.dataclass
class Block:
    """Some rows of a file, read.

    Attributes:
        items: what they ask for.
        rows: the number of the row of each item.
        notes: about them.
        seen: how many lines and images there are, bad ones included.
    """

    items: list[Item] = dataclasses.field(default_factory=list)
    rows: list[int] = dataclasses.field(default_factory=list)
    notes: list[Note] = dataclasses.field(default_factory=list)
    seen: dict[str, int] = dataclasses.field(default_factory=lambda: {"lines": 0, "images": 0})

    def tell(self, tally: Tally, file: str) -> None:
        """Count the rows of this block and what is bad among them."""
        for population, number in self.seen.items():
            tally.seen(population, number)
        for note in self.notes:
            if note.population:
                tally.bad(note.population, note.kind, file, note.row, note.reason)
            else:
                tally.note(note.kind, file, note.row, note.reason)


@dataclasses.dataclass(frozen=True)
class ItemFile:
    """A file of items.

    Attributes:
        path: where it is.
        columns: which fields are read; an item needs no id.
        pictures: a folder of pictures, next to the folder of the file.
    """

    path: Path
    columns: Columns
    pictures: Path | None = None

    def __post_init__(self) -> None:
        """Reject what is no file of a known form."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; expected items, a row each")
        if rows_of(self.path) is None:
            raise InputError(f"{self.path}: expected a name that ends in {_ENDINGS}")
        object.__setattr__(self, "columns", dataclasses.replace(self.columns, needs_id=False))

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield numbers and rows, as `product_files.ROWS` reads them."""
        read = rows_of(self.path)
        yield from read(self.path, self.columns) if read else ()

    def reader(self, dataset: Dataset, check: Callable[[Item], object]) -> "RowReader":
        """Return what turns rows into items.

        Args:
            dataset: how its pictures were prepared is how these are.
            check: raises InputError for an item that cannot be asked for.
        """
        return RowReader(self, dataset, check)


class RowReader:
    """Turns rows into items with their pictures read.

    Args:
        file: where the rows are from.
        dataset: how its pictures were prepared is how these are.
        check: raises InputError for an item that cannot be asked for.
    """

    def __init__(self, file: ItemFile, dataset: Dataset, check: Callable[[Item], object]):
        self._columns = file.columns
        self._source = SourceFolder(file.path, self._columns, file.pictures)
        self._dataset, self._check = dataset, check
        config: Mapping[str, Any] = dataset.manifest.get("config", {})
        self._most = int(config.get("max_images", _MAX_IMAGES))
        self._threads = ThreadPoolExecutor(2)

    def read(self, rows: list[tuple[int, Any]]) -> Block:
        """Return the items of some rows."""
        block = Block()
        for row, found in rows:
            if found is None:  # a blank line
                continue
            block.seen["lines"] += 1
            try:
                if isinstance(found, ValueError):
                    raise found
                item = self._item(row, found, block)
                self._check(item)
            except (ValueError, RecursionError, InputError) as error:
                block.notes.append(Note("lines", "bad line", row, _plain(error, row)))
            else:
                block.items.append(item)
                block.rows.append(row)
        return block

    def _item(self, row: int, found: Any, block: Block) -> Item:
        product = product_of(row, found, self._columns)
        titles = [text for text in (product.title, *product.texts) if text]
        given: dict[str, Any] = found
        if not titles and isinstance(given.get("titles"), list):
            titles = Item.read({"titles": given["titles"]}, _name(row)).titles
        local = [name for name in product.images if "://" not in name]
        if len(local) < len(product.images):
            reason = "not downloaded: download the pictures and give their paths"
            block.notes.append(Note("", "image by URL", row, reason))
        if len(local) > self._most:
            reason = f"{len(local) - self._most} images beyond the first {self._most} left out"
            block.notes.append(Note("", "more images than max_images", row, reason))
        local = local[: self._most]
        block.seen["images"] += len(local)
        pictures = []
        for name, read in zip(local, self._threads.map(self._picture, local), strict=True):
            if isinstance(read, ReadPicture):
                pictures.append(read)
            else:
                block.notes.append(Note("images", "broken image", row, f"{name}: {read}"))
        vectors = given.get("text_vector"), given.get("image_vectors")
        return Item(_name(row), product.uid or None, titles, pictures, *vectors)

    def _picture(self, name: str) -> ReadPicture | str:
        """Return a picture, or why it cannot be read."""
        try:
            return ReadPicture(read_picture(self._source.image(name), self._dataset, ""))
        except (BadImage, InputError) as error:
            return str(error).rpartition("): ")[2]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def read_labels(file: ItemFile) -> list[Item]:
    """Return the products of a file as labels to add; pictures are read when they are embedded.

    Raises:
        InputError: with the first row that cannot be read, or whose picture is no file.
    """
    source, found = SourceFolder(file.path, file.columns, file.pictures), []
    for row, given in file.rows():
        if given is None:  # a blank line
            continue
        try:
            if isinstance(given, ValueError):
                raise given
            product = product_of(row, given, file.columns)
            pictures = [source.image(name) for name in product.images]
        except (ValueError, RecursionError, BadImage, InputError) as error:
            raise InputError(
                f"{file.path}:{row}: {_plain(error, row)}; nothing is changed"
            ) from None
        titles = [text for text in (product.title, *product.texts) if text]
        related = [one for one in product.relevant or () if isinstance(one, str)]
        vectors = given.get("text_vector"), given.get("image_vectors")
        fields = dict(zip(file.columns.keep, product.kept_fields, strict=True))
        item = Item(_name(row), product.uid or None, titles, pictures, *vectors, related, fields)
        found.append(item)
    if not found:
        raise InputError(f"{file.path} is empty: expected products, a row each")
    return found


def _name(row: int) -> str:
    return f"row {row}"


def _plain(error: Exception, row: int) -> str:
    """Return the reason of an error, without the row that a note has anyway."""
    return str(error).removeprefix(f"{_name(row)}: ")[:200]
