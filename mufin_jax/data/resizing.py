"""Every distinct image of a catalogue, once: decoded, brought to training size, written.

Images stream through a bounded window of threads, so memory does not grow with their number.
"""

import array
import dataclasses
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from mufin_jax.data.images import BadImage, encode_jpeg
from mufin_jax.data.npy import NpyWriter
from mufin_jax.data.readers import SIDES, Catalogue
from mufin_jax.data.readers.vectors import open_vectors
from mufin_jax.data.tally import Tally
from mufin_jax.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
_CHUNK = 65_536


@dataclasses.dataclass
class Bag:
    """Image rows of one side, in the raw catalogue's item order: `rows[offsets[i]:...]`."""

    offsets: Int64[np.ndarray, " n_plus_1"]
    rows: Int64[np.ndarray, " images"]

    def counts(self) -> Int64[np.ndarray, " n"]:
        """The number of images of each item."""
        return np.diff(self.offsets)


@dataclasses.dataclass
class JpegSpool:
    """The JPEG of each distinct image, one after the other in a file."""

    path: Path
    offsets: array.array = dataclasses.field(default_factory=lambda: array.array("q", [0]))

    def read(self, rows: Iterable[int]) -> list[bytes]:
        """The JPEGs of some images."""
        with self.path.open("rb") as file:
            return [self._one(file, row) for row in rows]

    def _one(self, file, row: int) -> bytes:
        file.seek(self.offsets[row])
        return file.read(self.offsets[row + 1] - self.offsets[row])


def resize_images(
    catalogue: Catalogue,
    read: Callable[[bytes | Path], np.ndarray],
    size: int,
    tally: Tally,
    array_file: Path,
    array_bytes: float,
    spool: JpegSpool | None,
) -> dict[str, Bag]:
    """Writes the distinct images in the order in which the sides first name them.

    Args:
      catalogue: with an image source.
      read: from an encoded image to (size, size, 3) pixels; raises BadImage.
      size: height and width of the result.
      tally: takes broken images, which leave their items.
      array_file: the npy file for the pixels.
      array_bytes: if the pixels would take more, they are not written there.
      spool: takes the JPEGs, or None.

    Returns:
      by side, the rows of each item's images.

    Raises:
      InputError: if the pixels take too much and there is no spool either.
      TooManyBadRows: as soon as more images are broken than the tally tolerates.
    """
    mentions = _Mentions(catalogue)
    _, first, inverse = np.unique(mentions.keys, return_index=True, return_inverse=True)
    seen = np.argsort(first)  # distinct images by first mention
    fits = len(seen) * 3 * size**2 <= array_bytes
    if not fits and spool is None:
        raise InputError(
            f"{len(seen):,} pictures exceed image_array_gb={array_bytes / 1e9:g}: "
            "raise it, or let records be written"
        )
    tally.seen("images", len(seen))
    row_of = np.full(len(seen), -1, np.int64)
    source, rows = catalogue.images, 0

    def prepare(mention: int) -> tuple[np.ndarray, bytes] | BadImage:
        key = int(mentions.keys[mention])
        try:
            pixels = read(source.read(key))
            return pixels, encode_jpeg(pixels) if spool else b""
        except BadImage as error:
            return BadImage(f"{source.name(key)}: {error}")

    progress = tqdm(map(int, first[seen]), "images", len(seen), unit=" images", disable=None)
    with (
        warnings.catch_warnings(),  # Pillow's remarks on odd files; ours are in the report
        _npy(array_file if fits else None, size) as pixel_rows,
        spool.path.open("wb") if spool else _Nowhere() as spool_file,
    ):
        warnings.simplefilter("ignore")
        for number, result in enumerate(_in_order(prepare, progress)):
            if isinstance(result, BadImage):
                file, row = mentions.place(int(first[seen[number]]))
                tally.bad("images", "broken image", file, row, str(result))
                tally.check()
                continue
            pixels, jpeg = result
            row_of[seen[number]] = rows
            rows += 1
            pixel_rows.append(pixels[None])
            if spool:
                spool_file.write(jpeg)
                spool.offsets.append(spool.offsets[-1] + len(jpeg))
    return mentions.bags(row_of[inverse])


def copy_vectors(catalogue: Catalogue, out: Path) -> dict[str, Bag]:
    """Writes the catalogue's image vectors one file after the other, as float32.

    Raises:
      InputError: if a vector exceeds float32.
    """
    arrays = [open_vectors(path) for path in catalogue.vectors]
    with NpyWriter(out, (arrays[0].shape[1],), np.float32) as writer:
        for path, array in zip(catalogue.vectors, arrays, strict=True):
            for start in range(0, len(array), _CHUNK):
                with np.errstate(over="ignore"):
                    chunk = np.asarray(array[start : start + _CHUNK], np.float32)
                if not np.isfinite(chunk).all():
                    raise InputError(f"{path.name}: a value near row {start} exceeds float32")
                writer.append(chunk)
    mentions = _Mentions(catalogue)
    return mentions.bags(mentions.keys)


class _Mentions:
    """All images that kept items name, side after side, item after item."""

    def __init__(self, catalogue: Catalogue):
        self._catalogue = catalogue
        self._counts = [
            np.where(side.kept, np.diff(side.image_offsets), 0)
            for side in (catalogue.sides[name] for name in SIDES)
        ]
        self._ends = np.cumsum(np.concatenate(self._counts))
        self.keys = np.concatenate(
            [
                side.image_keys[np.repeat(side.kept, np.diff(side.image_offsets))]
                for side in (catalogue.sides[name] for name in SIDES)
            ]
        )

    def bags(self, rows: np.ndarray) -> dict[str, Bag]:
        """Cuts one row for each mention into sides and items; rows of -1 are left out."""
        bags, start = {}, 0
        for name, counts in zip(SIDES, self._counts, strict=True):
            mine = rows[start : start + counts.sum()]
            start += len(mine)
            item = np.repeat(np.arange(len(counts)), counts)[mine >= 0]
            offsets = np.zeros(len(counts) + 1, np.int64)
            np.cumsum(np.bincount(item, minlength=len(counts)), out=offsets[1:])
            bags[name] = Bag(offsets, mine[mine >= 0])
        return bags

    def place(self, mention: int) -> tuple[str, int]:
        """The file and row of the item that makes a mention."""
        item = int(np.searchsorted(self._ends, mention, side="right"))
        for side in (self._catalogue.sides[name] for name in SIDES):
            if item < len(side):
                return side.file, int(side.rows[item])
            item -= len(side)
        raise IndexError(f"mention {mention} of {len(self.keys)}")


def _in_order(function: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
    """Like map, a few calls ahead in threads: Pillow decodes outside the interpreter's lock."""
    threads = min(16, os.cpu_count() or 1)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                pending.append(pool.submit(function, value))
                if len(pending) == 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _npy(path: Path | None, size: int) -> "NpyWriter | _Nowhere":
    return NpyWriter(path, (size, size, 3), np.uint8) if path else _Nowhere()


class _Nowhere:
    """Takes the place of a file that is not wanted."""

    def append(self, rows: np.ndarray) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def __enter__(self) -> "_Nowhere":
        return self

    def __exit__(self, *_: object) -> None:
        pass
