"""Relevance and filter files: the repository's sparse text form, pair lists, and scipy's npz."""

import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_matrix, csr_matrix

from mufin_jax.data.readers.files import SourceFolder, lines
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.readers.values import whole_number
from mufin_jax.data.sparse import load_csr
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged


def from_rows(rows: Iterable[Sequence[int] | np.ndarray], num_columns: int) -> csr_matrix:
    """Return a CSR matrix of ones from the column numbers of each row; repeats count once."""
    indptr, indices = array.array("q", [0]), array.array("q")
    for row in rows:
        indices.extend(sorted(set(row.tolist() if isinstance(row, np.ndarray) else row)))
        indptr.append(len(indices))
    flat, ends = (np.array(numbers, np.int64) for numbers in (indices, indptr))
    return _ones(flat, ends, (len(ends) - 1, num_columns))


class CountsFromOne:
    """Sees all numbers of labels (points, vectors) in a file: do they count from 1, not 0?

    They seem to if number 0 never occurs, and the number after the last one does. All labels are
    then shifted by one, and few or none of them are unknown.
    """

    def __init__(self, size: int):
        """Start without a number; valid numbers are below `size`."""
        self._size = size
        self._used = bytearray(size + 1)

    def see(self, number: int) -> None:
        """Take a number; one out of range is ignored, except `size` itself."""
        if 0 <= number <= self._size:
            self._used[number] = 1

    def see_all(self, numbers: Int64[np.ndarray, " k"]) -> None:
        """Take some numbers."""
        used = np.frombuffer(self._used, np.uint8)
        used[numbers[(numbers >= 0) & (numbers <= self._size)]] = 1

    def warn(self, tally: Tally, where: str, nearly_all: bool = True) -> None:
        """Add a warning to the tally if the numbers seem to count from 1.

        Args:
            tally: takes the warning.
            where: the file.
            nearly_all: also warn if number 0 is never used, and nearly all others are: then the
                last label may have no pair.
        """
        used = self._used
        if used[0] or self._size < 2:
            return
        if used[-1]:
            tally.warnings.append(
                f"{where}: number 0 is never used, and {self._size:,} is, though the last one is "
                f"{self._size - 1:,}: if the numbers count from 1, subtract 1 from each"
            )
        elif nearly_all and used[-2] and 10 * sum(used) >= 9 * (self._size - 1) >= 90:
            tally.warnings.append(
                f"{where}: number 0 is never used, and nearly all others are, up to the last one "
                f"({self._size - 1:,}): if the numbers count from 1, subtract 1 from each"
            )


def read_relevance(
    source: SourceFolder, path: Path, shape: tuple[int, int], tally: Tally
) -> csr_matrix:
    """Read `rows columns`, then one line of `label:value` a row; a line may be empty.

    Args:
        source: the folder of the file.
        path: the file.
        shape: the numbers of points and labels according to the other files.
        tally: takes unknown labels; their pairs are dropped.

    Raises:
        InputError: if the header is damaged or does not fit, if there are too few or too many
            lines, or if more rows than tolerated name unknown labels.
    """
    name = source.name(path)
    rows: list[np.ndarray] = []
    bad = 0
    tally.seen("relevance rows", shape[0])
    numbered, counts_from_one = lines(path, trailing_blanks=True), CountsFromOne(shape[1])
    _check_header(name, next(numbered, (1, b""))[1], shape)
    for number, line in numbered:
        if len(rows) == shape[0]:
            if line.strip():
                raise InputError(f"{name}:{number}: more lines than the {shape[0]:,} of its header")
            continue
        try:
            pairs = np.array(line.replace(b":", b" ").split(), np.float64).reshape(-1, 2)
            if not (np.abs(pairs) < 2**53).all():  # rejects NaN and infinity too
                raise ValueError
            labels = pairs[:, 0].astype(np.int64)
            if (labels != pairs[:, 0]).any():
                raise ValueError
        except ValueError:
            tally.bad(
                "relevance rows", "bad line", name, number, "expected `label:value label:value ...`"
            )
            pairs, labels = np.zeros((0, 2)), np.zeros(0, np.int64)
        counts_from_one.see_all(labels)
        known = (labels >= 0) & (labels < shape[1])
        if not known.all():
            bad += 1
            reason = f"label {labels[~known][0]}, but there are {shape[1]:,} labels"
            tally.bad("relevance rows", "unknown label", name, number, reason)
            if bad > tally.max_bad * shape[0]:
                raise InputError(
                    f"{name}:{number}: {reason} ({bad:,} such rows so far): "
                    "this file and the label file do not belong together"
                )
        rows.append(labels[known & (pairs[:, 1] > 0)])
    if len(rows) < shape[0]:
        raise InputError(f"{name} has {len(rows):,} rows, but its header gives {shape[0]:,}")
    counts_from_one.warn(tally, name)
    return from_rows(rows, shape[1])


def read_pairs(
    source: SourceFolder, path: Path, shape: tuple[int, int], tally: Tally
) -> csr_matrix:
    """Read a filter file: one `point label` pair of row numbers a line."""
    name = source.name(path)
    pairs = []
    numbers = CountsFromOne(shape[0]), CountsFromOne(shape[1])
    for number, line in lines(path):
        if not line.strip():
            continue
        tally.seen("filter pairs", 1)
        point, label = (whole_number(part) for part in [*line.split(), b""][:2])
        if len(line.split()) != 2 or point is None or label is None:
            tally.bad(
                "filter pairs", "bad line", name, number, "expected `point label`, two row numbers"
            )
            continue
        numbers[0].see(point)
        numbers[1].see(label)
        if 0 <= point < shape[0] and 0 <= label < shape[1]:
            pairs.append((point, label))
        else:
            reason = f"pair ({point}, {label}) outside {shape[0]:,} points x {shape[1]:,} labels"
            tally.bad("filter pairs", "unknown pair", name, number, reason)
    for seen, what in zip(numbers, ("points", "labels"), strict=True):
        seen.warn(tally, f"{name}, {what}", nearly_all=False)
    points, labels = np.array(pairs, np.int64).reshape(-1, 2).T
    matrix = coo_matrix((np.ones(len(points), np.float32), (points, labels)), shape)
    matrix = csr_matrix(matrix)
    matrix.data[:] = 1
    return matrix


def read_csr(source: SourceFolder, path: Path, num_rows: int) -> csr_matrix:
    """Read a CSR matrix that scipy saved; check sizes before loading and structure after it."""
    name = source.name(path)
    with damaged(f"{name} is not a CSR matrix that scipy saved ({{reason}})"):
        matrix = load_csr(path, num_rows)
    found = len(matrix.indptr) - 1
    if found != num_rows:
        raise InputError(f"{name} has {found:,} rows, but there are {num_rows:,} items")
    if not np.isfinite(matrix.data).all():
        raise InputError(f"{name} contains NaN or infinity: expected finite values")
    return matrix


def _ones(indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]):
    return csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape)


def _check_header(name: str, line: bytes, shape: tuple[int, int]) -> None:
    try:
        rows, columns = (whole_number(part) for part in line.split())
        if rows is None or columns is None:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{name}:1: expected a header `rows columns`, found {line[:40]!r}"
        ) from None
    if (rows, columns) != shape:
        raise InputError(
            f"{name}:1: the header gives {rows:,} rows and {columns:,} columns, but there are "
            f"{shape[0]:,} points and {shape[1]:,} labels"
        )
