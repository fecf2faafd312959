"""Millions of short strings (ids, titles) as two arrays instead of millions of Python objects."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64, UInt8

from mufin_jax.runtime.storage.npy import load_arrays


def check_offsets(offsets: np.ndarray, total: int) -> None:
    """Raise ValueError unless offsets cut all of `total` elements into pieces, in order."""
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"offsets are {offsets.dtype} {offsets.shape}")
    if offsets[0] != 0 or offsets[-1] != total or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"offsets do not rise from 0 to {total:,}")


def check_rows(what: str, rows: np.ndarray, low: int, high: int, most_axes: int = 1) -> None:
    """Raise ValueError unless `rows` are numbers from `low` to below `high`."""
    if not 1 <= rows.ndim <= most_axes or rows.dtype.kind != "i":
        raise ValueError(f"{what} are {rows.dtype} {rows.shape}")
    if rows.size and not low <= rows.min() <= rows.max() < high:
        raise ValueError(f"{what} go from {rows.min()} to {rows.max()}, of {high:,}")


class Strings:
    """An immutable list of strings: one UTF-8 blob and the offsets that cut it.

    Args:
      blob: the bytes of all strings, one after the other.
      offsets: string i is `blob[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, blob: UInt8[np.ndarray, " bytes"], offsets: Int64[np.ndarray, " n_plus_1"]):
        """Take the arrays unchecked."""
        self.blob = blob
        self.offsets = offsets

    @classmethod
    def pack(cls, strings: Iterable[str]) -> "Strings":
        """Pack strings; a lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
        parts = [string.encode("utf-8", "replace") for string in strings]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        """Return string i; a negative i counts from the end, as in a list."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"string {i} of {len(self)}")
        i %= len(self)
        raw = self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes()
        return raw.decode("utf-8", "replace")

    def __repr__(self) -> str:
        first = [repr(self[i][:40]) for i in range(min(2, len(self)))]
        more = ["..."] if len(self) > 2 else []
        return f"Strings({len(self):,}: {', '.join(first + more)})"

    def at(self, rows: Int[np.ndarray, "k"]) -> list[str]:
        """Return the strings of some rows."""
        return [self[int(row)] for row in rows]

    def __iter__(self) -> Iterator[str]:
        """Yield the strings in their order."""
        return (self[i] for i in range(len(self)))

    def save(self, path: Path) -> None:
        """Write `blob` and `offsets` to an npz file without objects."""
        np.savez(path, blob=self.blob, offsets=self.offsets)

    @classmethod
    def load(cls, path: Path) -> "Strings":
        """Return what `save` wrote; raise ValueError if it cannot be read."""
        arrays = load_arrays(path)
        return cls.checked(arrays["blob"], arrays["offsets"])

    @classmethod
    def checked(cls, blob: np.ndarray, offsets: np.ndarray) -> "Strings":
        """Return the strings of a file's arrays; raise ValueError if they hold none."""
        if blob.dtype != np.uint8 or blob.ndim != 1:
            raise ValueError(f"the bytes of strings are {blob.dtype} {blob.shape}")
        check_offsets(offsets, len(blob))
        return cls(blob, offsets)
