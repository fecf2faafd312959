"""Padded sizes of batches: few shapes to compile, rows that divide over the devices."""

from collections.abc import Sequence

import numpy as np


def divide_up(count: int, size: int) -> int:
    """Return the number of groups of `size` that hold `count` things: the quotient, rounded up."""
    return -(-count // size)


def next_multiple(count: int, size: int) -> int:
    """Return the smallest multiple of `size` that is at least `count`."""
    return divide_up(count, size) * size


def spare_rows(count: int, mesh_size: int) -> int:
    """Return how many masked rows a batch of `count` needs to split evenly over the devices.

    The batch itself does not depend on the number of devices.
    """
    return next_multiple(count, mesh_size) - count


def round_up(count: int, mesh_size: int = 1) -> int:
    """Round up to the next bucket that divides over the devices.

    Buckets bound both the padding and the number of shapes that are ever compiled. They are powers
    of two up to 8, for single queries; then 1, 1.25, 1.5, 1.75 times a power of two; and beyond
    1,024, where the counts of batches hardly vary, eighths instead of quarters. The bucket depends
    only on the count, so a resumed run compiles, and computes, what the first one did.
    """
    octave = 1 << max(count - 1, 0).bit_length() >> 1  # the power of two below
    step = max(octave // (1 if octave < 8 else 4 if octave < 1024 else 8), 1)
    size = max(1, next_multiple(count, step))
    return next_multiple(size, mesh_size)


def usual_size(counts: Sequence[int], mesh_size: int = 1) -> int:
    """Return the padded size of an axis whose counts vary like these ones; 0 for none.

    It is three standard deviations above their mean, and at least their maximum: nearly all batches
    then have one shape. It is rounded up by a 32nd at most, so runs with other seeds often have the
    same shape. Where it would be a quarter above the mean, buckets are better, and it is 0.
    """
    size = max(max(counts), int(np.ceil(np.mean(counts) + 3 * np.std(counts))))
    if size > 1.25 * np.mean(counts):
        return 0
    step = max((1 << size.bit_length()) // 64, 1)
    return next_multiple(next_multiple(size, step), mesh_size)


def padded_size(count: int, mesh_size: int = 1, usual: int = 0) -> int:
    """Return the usual size where it is enough, else that of the next bucket."""
    return usual if 0 < usual >= count else round_up(count, mesh_size)


def pad_rows(array: np.ndarray, mesh_size: int = 1, fill: int = 0, usual: int = 0) -> np.ndarray:
    """Append rows of zeros, or of another number, up to the usual size or the next bucket."""
    size = padded_size(len(array), mesh_size, usual)
    padded = np.full((size, *array.shape[1:]), fill, array.dtype)
    padded[: len(array)] = array
    return padded


def grown(array: np.ndarray, rows: int, fill: int | float = 0) -> np.ndarray:
    """Append rows until there are `rows`."""
    if len(array) == rows:
        return array
    missing = [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, missing, constant_values=fill)
