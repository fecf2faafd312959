"""The few shapes that queries are padded to: a server compiles each once.

A query can have any number of titles and pictures, a batch any number of queries. What is encoded
costs the most, so descriptors are cut into blocks with little padding; bags are cheap and are
padded to the next size. `Predictor.warm_up` compiles all of it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.descriptors import Descriptors
from mufin_jax.runtime.distributed.padding import grown, next_multiple

DESCRIPTORS = (1, 4, 16, 64)
"""Rows of texts, or pictures, that are encoded together."""
POINTS = (1, 16, 256)
"""Datapoints in a batch; scoring skips those that are padding."""
_SLOTS = 4
"""Descriptors of a datapoint: a power of this."""


def blocks(count: int, mesh_size: int = 1) -> Iterator[tuple[slice, int]]:
    """Cut `count` descriptors into blocks; yield which they are, and the size to pad them to.

    A block is padded to the next size if it fills three quarters of it; else full blocks of the
    size below come first.
    """
    sizes, start = _sizes(DESCRIPTORS, mesh_size), 0
    while start < count:
        left = count - start
        size = next((size for size in sizes if size * 3 // 4 < left <= size), None)
        size = size or max((size for size in sizes if size <= left), default=sizes[0])
        yield slice(start, min(start + size, count)), size
        start += size


def points(count: int, mesh_size: int = 1) -> int:
    """Return the size to pad a batch of datapoints to."""
    sizes = (size for size in _sizes(POINTS, mesh_size) if size >= count)
    return next(sizes, next_multiple(count, mesh_size))


def slots(count: int) -> int:
    """Return the size to pad bags to."""
    size = _SLOTS
    while size < count:
        size *= _SLOTS
    return size


def up_to(most: int, size_of: Callable[[int], int]) -> list[int]:
    """Return all sizes that `points` or `slots` gives to counts up to the most."""
    return sorted({size_of(count) for count in range(1, most + 1)})


def pools(descriptors: Descriptors, images: int = 1) -> Iterator[Pool]:
    """Yield a pool of each kind and size of a block, for items of at most so many images."""
    for count in DESCRIPTORS:
        yield from descriptors.samples(count, up_to(images, slots))


def in_blocks(
    pool: Pool, descriptors: Descriptors, mesh_size: int = 1
) -> Iterator[tuple[Pool, int]]:
    """Cut a pool into pools of one kind and one size; yield each, and its number of own vectors."""
    for part in descriptors.parts(pool, slots):
        for rows, size in blocks(part.count, mesh_size):
            yield part.cut(rows, size), part.vectors * (rows.stop - rows.start)


def padded(bags: Bags, mesh_size: int = 1) -> Bags:
    """Pad bags to their sizes, in both directions."""

    def one(array: Int[np.ndarray, "b n"] | Bool[np.ndarray, "b n"]) -> np.ndarray:
        wide = slots(array.shape[1]) - array.shape[1]
        return grown(np.pad(array, ((0, 0), (0, wide))), points(len(array), mesh_size))

    return Bags(one(bags.slots), one(bags.mask))


def _sizes(sizes: Sequence[int], mesh_size: int) -> list[int]:
    """Return the sizes, ascending, each rounded up to divide over the devices."""
    return sorted({next_multiple(max(size, 1), mesh_size) for size in sizes})
