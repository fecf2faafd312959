"""How items become descriptors: the interface of the two ways.

`SeparateDescriptors` (separate.py): each text and each picture of an item is a descriptor.
`JointItems` (joint.py): an item is one descriptor, its title read with its pictures.

Descriptors are numbered over the whole dataset, those read as texts first. Everything that differs
between the two ways is behind this interface; loaders, queries and the shapes of queries ask it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Side
from mufin_jax.data.layout import Layout, PoolSizes
from mufin_jax.data.sources import ImageSource, Sources
from mufin_jax.runtime.distributed.padding import grown

Picture = UInt8[np.ndarray, "h w 3"]
Vector = Float32[np.ndarray, "_"]


class Part(NamedTuple):
    """A part of a pool, of one kind, that can be cut into blocks.

    Attributes:
        count: its rows.
        vectors: descriptor vectors that the model makes of a row.
        cut: returns the pool of some rows, padded to a size.
    """

    count: int
    vectors: int
    cut: Callable[[slice, int], Pool]


@runtime_checkable
class Descriptors(Protocol):
    """What the descriptors of a dataset are, to a model of certain modalities.

    Attributes:
        num_texts: how many descriptors are read as texts.
        num_images: how many descriptors are pictures.
        sees_texts: whether the model sees texts.
        sees_images: whether the model sees pictures.
        together: whether a title is read with its pictures, as one descriptor.
        pictures_a_text: pictures that are encoded for one text at most; 1 if none are.
    """

    num_texts: int
    num_images: int
    sees_texts: bool
    sees_images: bool
    together: bool
    pictures_a_text: int

    def slots(
        self, side: Side, rows: Int[np.ndarray, "b"]
    ) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        """Return the descriptor numbers of some items, and which of them are real."""
        ...

    def pool(
        self,
        texts: Int[np.ndarray, "t"],
        images: Int[np.ndarray, "i"] | None,
        sources: Sources,
        layout: Layout,
        sizes: PoolSizes,
    ) -> tuple[Pool, Int[np.ndarray, "_"]]:
        """Return the pool of these texts and images, and the row of X0 that holds each.

        Args:
            texts: numbers of descriptors that are read as texts.
            images: rows of images; None leaves images out.
            sources: where they are read from.
            layout: how axes are padded.
            sizes: what axes are usually padded to.
        """
        ...

    def counts(
        self, drawn: Sequence[Int[np.ndarray, "_"]], sources: Sources
    ) -> tuple[int, dict[str, list[int]]]:
        """Return the width of texts, and how long each axis is, for batches of these descriptors.

        Args:
            drawn: the descriptor numbers of each batch, ascending.
            sources: where they are read from.

        Returns:
            tokens of a row of texts; and by the name of an axis of `PoolSizes`, a count a batch.
        """
        ...

    def assemble(
        self,
        titles: Sequence[Sequence[str]],
        pictures: Sequence[Sequence[Picture]],
        text_vectors: Sequence[Sequence[Vector]] = (),
        image_vectors: Sequence[Sequence[Vector]] = (),
    ) -> tuple[Pool, Bags]:
        """Return the pool and the bags of items that are in no dataset, by their own content.

        Args:
            titles: of each item; not read where the dataset has ready text vectors.
            pictures: of each item; not read where the dataset has ready image vectors.
            text_vectors: of each item, instead of titles.
            image_vectors: of each item, instead of pictures.
        """
        ...

    def samples(self, count: int, images: Sequence[int]) -> Iterator[Pool]:
        """Yield an empty pool of `count` rows for each kind and width, to compile for.

        Args:
            count: rows of texts, or pictures.
            images: numbers of pictures that an item is padded to.
        """
        ...

    def parts(self, pool: Pool, columns: Callable[[int], int]) -> Iterator[Part]:
        """Yield the parts of a pool, each of which can be cut into blocks.

        Args:
            pool: any pool of this way.
            columns: the number that so many pictures of an item are padded to.
        """
        ...

    def encoded_first(self, pool: Pool) -> ImageSource | None:
        """Return the images whose vectors must be known before the pool can be cut into blocks."""
        ...


def image_part(images: ImageSource) -> Part:
    """Return the part of a pool's images, each a descriptor."""
    rows = images.rows
    return Part(len(rows), 1, lambda own, size: Pool(None, type(images)(grown(rows[own], size))))


def stacked(pictures: Sequence[Sequence[Picture]], size: int) -> UInt8[np.ndarray, "i h w 3"]:
    """Return the pictures of all items as one array."""
    flat = [picture for own in pictures for picture in own]
    return np.stack(flat) if flat else np.zeros((0, size, size, 3), np.uint8)


def vectors_of(items: Sequence[Sequence[Vector]], width: int) -> Float32[np.ndarray, "v w"]:
    """Return the vectors of all items as one array."""
    flat = [vector for own in items for vector in own]
    return np.stack(flat) if flat else np.zeros((0, width), np.float32)


def by_item(
    counts: Sequence[int], homes: Int[np.ndarray, "n"]
) -> Int32[np.ndarray, "items widest"]:
    """Return where an item's things are, a row an item, with -1 after the last of them.

    Args:
        counts: how many things each item has.
        homes: where each thing is, item after item.
    """
    held = np.asarray(counts, np.int64)
    rows = np.full((len(held), max(1, held.max())), -1, np.int32)
    rows[np.arange(rows.shape[1]) < held[:, None]] = homes
    return rows
