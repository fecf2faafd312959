"""A long axis in blocks: as many rows at a time as memory allows."""

from collections.abc import Iterator


def cut(count: int, size: int) -> Iterator[slice]:
    """Return slices of at most `size` rows (at least one) that cover `count` rows in order."""
    size = max(size, 1)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
