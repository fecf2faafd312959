"""The few shapes that queries are brought to, so that a server compiles each once.

A query can have any number of titles and pictures, a batch any number of queries. What is encoded
costs the most, so descriptors are cut into blocks with little padding; bags are cheap and are
padded to the next size. `Predictor.warm_up` compiles all of it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, Pool
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.packing import row_widths, text_width
from mufin_jax.runtime.distributed.padding import grown

DESCRIPTORS = (1, 4, 16, 64)
"""Rows of texts, or pictures, that are encoded together."""
POINTS = (1, 16, 256)
"""Datapoints in a batch; scoring skips those that are padding."""
_SLOTS = 4
"""Descriptors of a datapoint: a power of this."""


def blocks(count: int, mesh_size: int = 1) -> Iterator[tuple[slice, int]]:
    """Cut `count` descriptors into blocks: which they are, and the size to pad them to.

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
    """The size to pad a batch of datapoints to."""
    sizes = (size for size in _sizes(POINTS, mesh_size) if size >= count)
    return next(sizes, -(-count // mesh_size) * mesh_size)


def slots(count: int) -> int:
    """The size to pad bags to."""
    size = _SLOTS
    while size < count:
        size *= _SLOTS
    return size


def up_to(most: int, size_of: Callable[[int], int]) -> list[int]:
    """All sizes that `points` or `slots` gives to counts up to the most."""
    return sorted({size_of(count) for count in range(1, most + 1)})


def pools(dataset: Dataset, modalities: str, images: int = 1) -> Iterator[Pool]:
    """A pool for each kind and size of a block of descriptors, of items of so many images."""
    texts, vectors = dataset.text_vectors, dataset.image_vectors
    pixels = (dataset.processing.size, dataset.processing.size, 3)
    for count in DESCRIPTORS:
        if modalities == "joint":
            tokens = np.zeros((count, 1), np.int32)
            picture = (pixels, np.uint8) if vectors is None else (vectors.shape[1:], np.float32)
            for most in up_to(images, slots):
                seen = np.zeros((count, *picture[0]), picture[1])
                yield Pool(tokens, tokens, seen, np.zeros((count, most), np.int32))
            continue
        if modalities != "images" and texts is not None:
            yield Pool(np.zeros((count, texts.shape[1]), np.float32), None, None)
        elif modalities != "images":
            for width in _widths(count, dataset.texts.shape[1]):
                tokens = np.zeros((count, width), np.int32)
                yield Pool(tokens, tokens, None)
        if modalities != "text" and vectors is not None:
            yield Pool(None, None, np.zeros((count, vectors.shape[1]), np.float32))
        elif modalities != "text":
            yield Pool(None, None, np.zeros((count, *pixels), np.uint8))


def in_blocks(pool: Pool, most_tokens: int, mesh_size: int = 1) -> Iterator[tuple[Pool, int]]:
    """Cut a pool into pools of one kind and one size: those, and how many vectors are its own.

    What a joint model's texts are read with must be vectors: each block gets a copy of its own.
    """
    if pool.pictures is not None:
        yield from _joint_blocks(pool, text_width(np.array([most_tokens])), mesh_size)
        return
    if pool.tokens is not None:
        tokens, places, each = pool.tokens, pool.places, 1
        if places is not None:
            widths = _widths(len(tokens), most_tokens)
            missing = min(w for w in widths if w >= tokens.shape[1]) - tokens.shape[1]
            wider, each = ((0, 0), (0, missing)), TEXTS_A_ROW
            tokens, places = np.pad(tokens, wider), np.pad(places, wider, constant_values=-1)
        for rows, size in blocks(len(tokens), mesh_size):
            kept = None if places is None else grown(places[rows], size, -1)
            yield Pool(grown(tokens[rows], size), kept, None), each * (rows.stop - rows.start)
    if pool.images is not None:
        for rows, size in blocks(len(pool.images), mesh_size):
            yield Pool(None, None, grown(pool.images[rows], size)), rows.stop - rows.start


def _joint_blocks(pool: Pool, width: int, mesh_size: int) -> Iterator[tuple[Pool, int]]:
    """Blocks of texts of one width, with pictures in few numbers of columns."""
    tokens, places, images, pictures = pool.tokens, pool.places, pool.images, pool.pictures
    assert tokens is not None and places is not None
    assert images is not None and pictures is not None
    columns = slots(pictures.shape[1])

    def wider(rows: np.ndarray, size: int, columns: int, fill: int) -> np.ndarray:
        missing = ((0, size - len(rows)), (0, columns - rows.shape[1]))
        return np.pad(rows, missing, constant_values=fill)

    for rows, size in blocks(len(tokens), mesh_size):
        chosen = wider(pictures[rows], size, columns, -1).ravel()
        shown = np.zeros((len(chosen), *images.shape[1:]), images.dtype)
        shown[chosen >= 0] = images[chosen[chosen >= 0]]
        own = np.where(chosen >= 0, np.arange(len(chosen)), -1).astype(np.int32)
        texts = (wider(tokens[rows], size, width, 0), wider(places[rows], size, width, -1))
        yield Pool(*texts, shown, own.reshape(size, columns)), rows.stop - rows.start


def padded(bags: Bags, mesh_size: int = 1) -> Bags:
    """Pad bags to their sizes, in both directions."""

    def one(array: Int[np.ndarray, "b n"] | Bool[np.ndarray, "b n"]) -> np.ndarray:
        wide = slots(array.shape[1]) - array.shape[1]
        return grown(np.pad(array, ((0, 0), (0, wide))), points(len(array), mesh_size))

    return Bags(one(bags.slots), one(bags.mask))


def _widths(rows: int, most_tokens: int) -> list[int]:
    """The widths of so many rows of texts: a single one need not be the widest."""
    return row_widths(most_tokens)[1 if rows == 1 else -1 :] or row_widths(most_tokens)


def _sizes(sizes: Sequence[int], mesh_size: int) -> list[int]:
    """Sizes, ascending, each rounded up to divide over the devices."""
    return sorted({-(-max(size, 1) // mesh_size) * mesh_size for size in sizes})
