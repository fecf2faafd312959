"""The images of a prepared folder, by row: from an array, or decoded on demand from records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64, UInt8

from mufin_jax.data.images import decode_jpeg
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged

SPLITS = ("train", "test", "label")
RECORDS_NAME, RECORDS_VERSION = "records", "1.0.0"


@runtime_checkable
class Images(Protocol):
    """Distinct images at training size, by row."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """Return the pixels of some images, 0 to 255."""
        ...


class ArrayImages:
    """Images in an array, such as one mapped from images.npy."""

    def __init__(self, pixels: UInt8[np.ndarray, "i h w 3"]):
        """Wrap the array."""
        self.pixels = pixels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """Return a copy of some images."""
        return np.array(self.pixels[np.asarray(rows)])


class AbsentImages:
    """Images that were left behind: a predictor answers without those it was trained on.

    Args:
      path: where they are missing.
      count: the number of distinct images.
    """

    def __init__(self, path: Path, count: int):
        """Look for nothing."""
        self._path, self._count = path, count

    def __len__(self) -> int:
        """Return the number of distinct images."""
        return self._count

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """Raise InputError: they cannot be read."""
        raise InputError(
            f"{self._path} is missing: the predictor answers queries without the pictures of its "
            "data, but measuring and training read them; put the file back"
        )


class RecordImages:
    """Distinct images, decoded from the records on demand; indexed like an array.

    Args:
      folder: what `write_records` filled.
      homes: image r lies in split `SPLITS[homes[r, 0]]`, record `homes[r, 1]`, there the
        `homes[r, 2]`-th.
      size: height and width of the images.
    """

    def __init__(self, folder: Path, homes: Int64[np.ndarray, "i 3"], size: int):
        """Open nothing yet."""
        self.shape = (len(homes), size, size, 3)
        self.dtype = np.dtype(np.uint8)
        self._homes = homes
        self._folder = folder
        self._sources: dict[int, Sequence[Any]] = {}

    def __len__(self) -> int:
        """Return the number of distinct images."""
        return len(self._homes)

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """Decode images; each record is read once, whatever the number of its images among them.

        Raises:
          InputError: if they cannot be read.
        """
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        records: dict[tuple[int, int], list[bytes]] = {}
        for i, (split, row, position) in enumerate(self._homes[rows].tolist()):
            where = f"image {position} of record {row} of split {split}"
            with damaged(f"{self._folder}: {where} cannot be read ({{reason}}): prepare it again"):
                if (split, row) not in records:
                    records[split, row] = list(self._source(split)[row]["images"])
                out[i] = decode_jpeg(records[split, row][position], out.shape[1:])
        return out

    def _source(self, split: int) -> Sequence[Any]:
        if split not in self._sources:
            self._sources[split] = load_split(self._folder, SPLITS[split])
        return self._sources[split]

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out when a copy goes to another process."""
        return self.__dict__ | {"_sources": {}}


def load_split(folder: Path, split: str) -> Sequence[Any]:
    """Return the records of a split, for random access; text comes back as bytes.

    Raises:
      InputError: if the folder has no such records.
    """
    import tensorflow_datasets as tfds

    with damaged(f"{folder} has no split {split} ({{reason}}): prepare it again"):
        builder = tfds.builder_from_directory(folder / RECORDS_NAME / RECORDS_VERSION)
        return builder.as_data_source(split=split)  # pyright: ignore
