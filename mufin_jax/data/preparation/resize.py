"""Every distinct image of a catalogue is decoded, resized to training size and written once."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mufin_jax.data.image_parts import LINK_OUT
from mufin_jax.data.images import MAX_BYTES, BadImage
from mufin_jax.data.preparation.resize_one import Resizer, Worker
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.readers.catalogue import SIDES, Catalogue
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.readers.vectors import VectorContent, load_vectors
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.npy import NpyWriter

_CHUNK = 65_536


@dataclasses.dataclass
class Bag:
    """Image rows of one side, in the raw catalogue's item order: `rows[offsets[i]:...]`."""

    offsets: Int64[np.ndarray, " n_plus_1"]
    rows: Int64[np.ndarray, " images"]

    def counts(self) -> Int64[np.ndarray, " n"]:
        """Return the number of images of each item."""
        return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The output for the images.

    Attributes:
        array_file: the npy file for the pixels.
        array_bytes: pixels that need more bytes than this are not written there.
        jpegs: whether to write JPEGs too.
        missing: the largest share of the rows of a JPEG that its file may lack.
        max_bytes: the largest encoded image that may lack some.
    """

    array_file: Path
    array_bytes: float
    jpegs: bool
    missing: float = 0.0
    max_bytes: int = MAX_BYTES


def resize_images(
    catalogue: Catalogue,
    read: Callable[[bytes | Path], np.ndarray],
    size: int,
    tally: Tally,
    wanted: Wanted,
    spool: JpegSpool,
    worker: Worker,
) -> dict[str, Bag]:
    """Write the distinct images in the order in which the sides first mention them.

    Args:
        catalogue: a catalogue with an image source.
        read: maps an encoded image to (size, size, 3) pixels; raises BadImage.
        size: height and width of the result.
        tally: takes broken images; their items lose them.
        wanted: the output.
        spool: takes the JPEGs; it is created here.
        worker: does the work, such as `resize_in_threads`.

    Returns:
        By side, the rows of each item's images.

    Raises:
        InputError: if the pixels need too many bytes and no records are written either.
        TooManyBadRows: as soon as more images are broken than the tally tolerates.
    """
    mentions = _Mentions(catalogue)
    _, first, inverse = np.unique(mentions.keys, return_index=True, return_inverse=True)
    seen = np.argsort(first)  # distinct images by first mention
    fits = len(seen) * 3 * size**2 <= wanted.array_bytes
    if not fits and not wanted.jpegs:
        raise InputError(
            f"{len(seen):,} pictures exceed image_array_gb={wanted.array_bytes / 1e9:g}: "
            "raise it, or allow records"
        )
    tally.seen("images", len(seen))
    row_of, rows = np.full(len(seen), -1, np.int64), 0
    resizer = Resizer(
        catalogue.images, read, size, fits, wanted.jpegs, wanted.missing, wanted.max_bytes
    )
    spool.create()
    results = worker(resizer, mentions.keys[first[seen]], spool)
    with _npy(wanted.array_file if fits else None, size) as pixel_rows, contextlib.closing(results):
        for number, result in enumerate(until_stopped(results, "prepare")):
            file, row = "", 0
            if isinstance(result, BadImage) or result.name:
                file, row = mentions.place(int(first[seen[number]]))
            if isinstance(result, BadImage):
                kind = "linked image" if str(result).endswith(LINK_OUT) else "broken image"
                tally.bad("images", kind, file, row, str(result))
                tally.check(so_far=number + 1 < len(seen))
                continue
            row_of[seen[number]] = rows
            rows += 1
            if result.name:
                reason = f"{result.name}: {result.missing:.0%} of its rows are missing, and filled"
                tally.count("image without its end", file, row, reason)
            if result.pixels is not None:
                pixel_rows.append(result.pixels[None])
    spool.save()
    return mentions.bags(row_of[inverse])


def copy_vectors(catalogue: Catalogue, out: Path, tally: Tally) -> dict[str, Bag]:
    """Write the catalogue's image vectors one file after the other, as float32.

    Raises:
        InputError: if a vector exceeds float32, or all are zero.
    """
    content = VectorContent()
    arrays = [load_vectors(path) for path in catalogue.vectors]
    with NpyWriter(out, (arrays[0].shape[1],), np.float32) as writer:
        for path, array in zip(catalogue.vectors, arrays, strict=True):
            for start in until_stopped(range(0, len(array), _CHUNK), "prepare"):
                with np.errstate(over="ignore"):
                    chunk = np.asarray(array[start : start + _CHUNK], np.float32)
                if not np.isfinite(chunk).all():
                    raise InputError(f"{path.name}: a value near row {start} exceeds float32")
                content.add(chunk)
                writer.append(chunk)
    names = ", ".join(path.name for path in catalogue.vectors)
    tally.warnings += content.warnings(f"{names}: ", "image")
    mentions = _Mentions(catalogue)
    return mentions.bags(mentions.keys)


class _Mentions:
    """All images that kept items mention, side after side, item after item."""

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
        """Split one row for each mention into sides and items; rows of -1 are left out."""
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
        """Return the file and row of the item of a mention."""
        item = int(np.searchsorted(self._ends, mention, side="right"))
        for side in (self._catalogue.sides[name] for name in SIDES):
            if item < len(side):
                return side.file, int(side.rows[item])
            item -= len(side)
        raise IndexError(f"mention {mention} of {len(self.keys)}")


def _npy(path: Path | None, size: int) -> "NpyWriter | _Nowhere":
    return NpyWriter(path, (size, size, 3), np.uint8) if path else _Nowhere()


class _Nowhere:
    """A writer that drops everything, for a file that is not written."""

    def append(self, rows: np.ndarray) -> None:
        pass

    def __enter__(self) -> "_Nowhere":
        return self

    def __exit__(self, *_: object) -> None:
        pass
