"""Arrays larger than memory: npy files that are written block by block, and mapped afterwards."""

import contextlib
import math
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import MAKE_ANEW, damaged, replacing

_FREE, _TIMES = 2**26, 100
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpyWriter:
    """Appends rows to a npy file; the header gets the final number on closing.

    Memory holds one row (or block) at a time. Use it as a context manager.
    """

    def __init__(
        self, path: Path | BinaryIO, row_shape: tuple[int, ...], dtype: np.typing.DTypeLike
    ):
        """Opens the file, if it is not open already, with no rows yet."""
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._path = path
        self._file = path.open("wb") if isinstance(path, Path) else path
        self._rows = 0
        self._write_header()
        self._start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Appends a block of rows, of shape (r, *row_shape)."""
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, expected {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def finish(self) -> None:
        """Writes the final header; NumPy pads headers so that a longer number fits."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._start:
            raise ValueError("the header of a npy file outgrew its padding")

    def written(self) -> np.ndarray:
        """The rows appended so far, mapped from the disk; at least one."""
        self._file.flush()
        shape = (self._rows, *self._row_shape)
        return np.memmap(self._path, self._dtype, "r", self._start, shape)

    def close(self) -> None:
        """Finishes and closes the file."""
        if not self._file.closed:
            try:
                self.finish()
            finally:
                self._file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "NpyWriter":
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self.close()


class _Nowhere:
    """Instead of a writer, on the processes that do not write."""

    def append(self, rows: np.ndarray) -> None:
        """Does nothing."""


@contextlib.contextmanager
def whole_npy(
    path: Path,
    row_shape: tuple[int, ...],
    dtype: np.typing.DTypeLike = np.float32,
    rows: int | None = None,
) -> Iterator[NpyWriter | _Nowhere]:
    """A npy file to append rows to, which takes the place of `path` only when it is complete.

    Every process enters, the main one writes, and none goes on before the file is there. Its folder
    is made if need be. `rows` is how many there will be, if that is known: DiskError names it.

    Raises:
        DiskError: if the file cannot be written.
    """
    if processes.is_main():
        size = math.prod(row_shape) * np.dtype(dtype).itemsize
        needed = None if rows is None else rows * size
        with disk_errors(path, needed):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, needed) as file:
            writer = NpyWriter(file, row_shape, dtype)
            yield writer
            writer.finish()
    else:
        yield _Nowhere()
    processes.barrier(f"{path.name} is written")


def mapped(path: Path) -> np.ndarray:
    """The rows of a npy file, read from the disk when they are used; read-only.

    Raises:
        InputError: if it cannot be mapped.
    """
    with damaged(f"{path} cannot be read ({{reason}}); {MAKE_ANEW}"):
        return np.lib.format.open_memmap(path, mode="r")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; any exception if it holds anything else, or unfolds to much."""
    check_unfolding(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def check_unfolding(path: Path, more: int = 0) -> None:
    """ValueError if an npz file would take much memory: it unfolds to much, or claims to.

    Zeros take a thousandth of what they unfold to, and numpy makes room for the shape that an array
    claims before it reads any of it.

    Args:
        path: the file.
        more: bytes that it may unfold to beside 64 MB and a hundred times its size.
    """
    with zipfile.ZipFile(path) as archive:
        unfolded = sum(member.file_size for member in archive.infolist())
        if unfolded > _FREE + more + _TIMES * path.stat().st_size:
            raise ValueError(f"{path.name} would unpack to {unfolded:,} bytes")
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, _, dtype = _READERS[np.lib.format.read_magic(file)](file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} claims the shape {shape}, but is shorter")


def forget(rows: np.ndarray) -> None:
    """Let go of the pages that reading a mapped file has brought into memory.

    They would be freed anyway when memory runs short, but count as this process's until then. Any
    other array is left alone.
    """
    owner = rows
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
