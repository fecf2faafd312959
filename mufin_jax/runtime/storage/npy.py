"""Arrays larger than memory: npy files that are written block by block, then mapped."""

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

FREE = 2**26
"""Bytes that any npz file may unpack to."""
_TIMES = 100
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpyWriter:
    """Appends rows to a npy file; closing writes their final number into the header.

    Memory holds one row (or block) at a time. Use it as a context manager.
    """

    def __init__(
        self, path: Path | BinaryIO, row_shape: tuple[int, ...], dtype: np.typing.DTypeLike
    ):
        """Open the file, if it is not open already, with no rows yet."""
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._path = path
        self._file = path.open("wb") if isinstance(path, Path) else path
        self._rows = 0
        self._write_header()
        self._start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Append a block of rows, of shape (r, *row_shape)."""
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, expected {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def finish(self) -> None:
        """Write the final header; NumPy pads headers, so a longer number fits."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._start:
            raise ValueError("the header of a npy file outgrew its padding")

    def written(self) -> np.ndarray:
        """Return the rows appended so far, at least one, mapped from the disk."""
        self._file.flush()
        shape = (self._rows, *self._row_shape)
        return np.memmap(self._path, self._dtype, "r", self._start, shape)

    def close(self) -> None:
        """Finish and close the file."""
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
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


class _Nowhere:
    """Takes the place of a writer on the processes that do not write."""

    def append(self, rows: np.ndarray) -> None:
        """Ignore the rows."""


@contextlib.contextmanager
def whole_npy(
    path: Path,
    row_shape: tuple[int, ...],
    dtype: np.typing.DTypeLike = np.float32,
    rows: int | None = None,
) -> Iterator[NpyWriter | _Nowhere]:
    """Open a npy file to append rows to, which replaces `path` only when it is complete.

    Every process must enter. Process 0 writes, and no process leaves before the file exists.

    Args:
        path: The file; its folder is made if necessary.
        row_shape: The shape of a row.
        dtype: The type of the numbers.
        rows: How many there will be, if that is known: DiskError then gives the bytes.

    Raises:
        DiskError: The file cannot be written.
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
    """Return the rows of a npy file, read-only, which are read from the disk when they are used.

    Raises:
        InputError: The file cannot be mapped.
    """
    with damaged(f"{path} cannot be read ({{reason}}); {MAKE_ANEW}"):
        return np.lib.format.open_memmap(path, mode="r")


def mapped_as(path: Path, kind: str, *shape: int | None) -> np.ndarray:
    """Map a npy file; raise ValueError unless it has this kind of numbers and shape (None: any)."""
    array = np.lib.format.open_memmap(path, mode="r")
    fits = len(shape) == array.ndim and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype.kind != kind or not fits:
        raise ValueError(f"{path.name} is {array.dtype} {array.shape}")
    return array


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file.

    Raises:
        Exception: Of any type, if it holds anything else or unpacks to too much.
    """
    check_unfolding(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def check_unfolding(path: Path, more: int = 0) -> None:
    """Reject an npz file that would take too much memory.

    Zeros are packed to a thousandth of their size, and numpy allocates the shape that an array
    claims before it reads any of it.

    Args:
        path: The file.
        more: Bytes that it may unpack to in addition to 64 MB and a hundred times its size.

    Raises:
        ValueError: It unpacks to more, or an array claims more than the file holds.
    """
    with zipfile.ZipFile(path) as archive:
        unfolded = sum(member.file_size for member in archive.infolist())
        if unfolded > FREE + more + _TIMES * path.stat().st_size:
            raise ValueError(f"{path.name} would unpack to {unfolded:,} bytes")
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, _, dtype = _READERS[np.lib.format.read_magic(file)](file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} claims the shape {shape}, but is shorter")


def forget(rows: np.ndarray) -> None:
    """Release the pages that reading a mapped file has brought into memory.

    The system would free them when memory runs short, but until then they count as this process's
    memory. Any other array is left unchanged.
    """
    owner = rows
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
