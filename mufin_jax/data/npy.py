"""A npy file that is written row by row, before the number of rows is known."""

from pathlib import Path
from types import TracebackType

import numpy as np


class NpyWriter:
    """Appends rows to a npy file; the header gets the final number on closing.

    Memory holds one row (or block) at a time. Use it as a context manager.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.typing.DTypeLike):
        """Opens the file, with no rows yet."""
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._rows = 0
        self._write_header()
        self._start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Appends a block of rows, of shape (r, *row_shape)."""
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, wanted {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def close(self) -> None:
        """Writes the final header; NumPy pads headers so that a longer number fits."""
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()
            if self._file.tell() != self._start:
                raise ValueError("the header of a npy file outgrew its padding")
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
