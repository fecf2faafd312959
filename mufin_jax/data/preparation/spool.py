"""The prepared JPEGs between resizing and the records: files, and the place of each JPEG."""

import array
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64

from mufin_jax.runtime.storage.files import save_array

_PLACES = "places.npy"


class JpegSpool:
    """The JPEG of each distinct image: row r is `size` bytes from `start` in file `number`.

    Attributes:
        folder: the folder of the files; `create` makes it.
    """

    def __init__(self, folder: Path):
        """Open nothing yet."""
        self.folder = folder
        self._new = array.array("q")
        self._places: Int64[np.ndarray, "i 3"] | None = None

    def create(self) -> None:
        """Make the folder, empty."""
        self.remove()
        self.folder.mkdir()

    def file(self, number: int) -> Path:
        """Return the file with this number."""
        return self.folder / f"{number:06d}.jpegs"

    def place(self, number: int, start: int, size: int) -> None:
        """Set the place of the next row."""
        self._new.extend((number, start, size))

    def save(self) -> None:
        """Write the places for other processes."""
        save_array(self.folder / _PLACES, np.frombuffer(self._new, np.int64).reshape(-1, 3))
        self._new = array.array("q")

    @property
    def places(self) -> Int64[np.ndarray, "i 3"]:
        """File, start and size of each row."""
        places = self._places
        if places is None:
            places = np.load(self.folder / _PLACES, mmap_mode="r", allow_pickle=False)
            self._places = places
        return places

    def sizes(self, rows: Int[np.ndarray, " r"]) -> Int64[np.ndarray, " r"]:
        """Return the numbers of bytes of some rows."""
        return self.places[rows, 2]

    def read(self, rows: Iterable[int]) -> list[bytes]:
        """Return the JPEGs of some rows."""
        return [self._one(*self.places[row].tolist()) for row in rows]

    def _one(self, number: int, start: int, size: int) -> bytes:
        with self.file(number).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def remove(self) -> None:
        """Remove the folder, if it exists."""
        shutil.rmtree(self.folder, ignore_errors=True)
