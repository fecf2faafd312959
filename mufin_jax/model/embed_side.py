"""Embedding whole sides of a dataset: every distinct descriptor once, then the bags, in blocks.

Describing is nearly all of the cost and depends on the descriptor alone; the bags are cheap. A
picture that is shown by a datapoint of the test set and by a label is encoded once. Memory holds a
few blocks: what is made of a whole side is written block after block, and mapped from its file.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Side
from mufin_jax.data.loader import Loader, prefetch
from mufin_jax.encoders.abstract import array_sizes
from mufin_jax.model.heads import Heads
from mufin_jax.model.item_encoder import ItemEncoder
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import by_row, fetch, put, replicated
from mufin_jax.runtime.distributed.padding import pad_rows
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.npy import forget, mapped, whole_npy

describe = jax.jit(lambda model, pool: model.describe(pool))
embed = jax.jit(lambda model, vectors, bags: model.embed(vectors, bags))
_read = jax.jit(lambda model, pool: model.read(pool))
_see = jax.jit(lambda model, images: model.see(images))


LARGEST = 1_000_000_000
"""Bytes of the largest array that describing a block of pictures makes. Two such arrays are alive
at once where a convolution pads what it reads."""


def pictures_a_call(model: ItemEncoder, loader: Loader, most: int) -> int:
    """Return how many pictures are described in one call: `most`, or fewer large ones.

    EfficientNet-Lite0 makes 4.9 MB of a picture of 224 pixels before its second convolution of each
    channel, and as much again of its padded copy: 512 at once would hold 5 GB.

    Args:
        model: its E_V describes the pictures.
        loader: reads them, or what frozen parts of E_V made of them.
        most: pictures that a call may have; it is halved until they fit in `LARGEST`.
    """
    if model.image_encoder is None or not loader.descriptors.num_images:
        return most
    one, _ = loader.pictures(np.arange(1))

    def sizes(copies: int) -> list[int]:
        images = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((copies * len(leaf), *leaf.shape[1:]), leaf.dtype),
            one,
        )
        return array_sizes(lambda model, images: model.see(images), model, images)

    # Only what grows with the number of pictures counts, and no weights.
    rows = len(jax.tree.leaves(one)[0])
    # A single picture may be computed in other steps than several.
    grown = (b - a for a, b in zip(sizes(2), sizes(3), strict=True))
    growth = max(grown, default=0) / rows  # ready vectors are only read
    while most > 1 and most * growth / model.mesh.size > LARGEST:
        most //= 2
    return most


def encode(
    model: ItemEncoder, loader: Loader, kind: Literal["text", "image"], rows: Int[np.ndarray, "r"]
) -> Float[np.ndarray, "r w"]:
    """Return what the encoders make of some texts, or images, before it is reduced to D."""
    if kind == "text":
        pool, homes = loader.texts(rows)
        return fetch(_read(model, put(pool, by_row(model.mesh))))[homes]
    images, homes = loader.pictures(rows)
    return fetch(_see(model, put(images, by_row(model.mesh))))[homes]


@dataclasses.dataclass(frozen=True)
class SideEmbedding:
    """The embeddings of some items of a side, on the host.

    Attributes:
        vector: x1 (or z1) of each item.
        bag: X1 (or Z1) of each descriptor of each item; None when only vectors were requested.
        mask: which descriptors are real.
    """

    vector: Float[np.ndarray, "b d"]
    bag: Float[np.ndarray, "b n d"] | None
    mask: Bool[np.ndarray, "b n"]

    def descriptors(self) -> Float[np.ndarray, "e d"]:
        """Return X1 of the real descriptors, item after item.

        Raises:
            ValueError: if the bags were not kept.
        """
        if self.bag is None:
            raise ValueError("the bags were not kept: embed with keep_bags=True")
        return self.bag[self.mask]


def describe_once(
    model: ItemEncoder, loader: Loader, path: Path, block: int = 512
) -> Float[np.ndarray, "p d"]:
    """Return a map of the descriptor vectors of a dataset, row r holding descriptor number r.

    They are read from the file if it is there, which its owner must delete when the model changes.
    Descriptors of a kind that the model does not see are zero.

    Args:
        model: where E_V and E_T come from.
        loader: which descriptors exist.
        path: the npy file.
        block: descriptors a call, or pictures, where they are read with titles; fewer pictures if
            they take too much memory.

    Raises:
        DiskError: if the file cannot be written.
        Stopped: after a signal.
    """
    if processes.decide(path.exists):
        return mapped(path)
    block = max(1, block // loader.descriptors.pictures_a_text)  # so many pictures, at most
    pictures = pictures_a_call(model, loader, block)
    kinds = (0, loader.num_texts, block), (loader.num_texts, loader.num_descriptors, pictures)
    blocks = [
        slice(start, min(start + count, stop))
        for first, stop, count in kinds
        for start in range(first, stop, count)
    ]

    def read(step: int) -> tuple[Pool | np.ndarray, np.ndarray]:
        """Return the descriptors of a block, and which rows made of them hold their vectors."""
        rows = np.arange(blocks[step].start, blocks[step].stop)
        text = rows[0] < loader.num_texts
        if loader.modalities == ("images" if text else "text"):
            return np.zeros((len(rows), model.dim), np.float32), np.arange(len(rows))
        if text:
            return loader.texts(rows)
        images, homes = loader.pictures(rows - loader.num_texts)
        return Pool(None, images), homes

    sources = (loader.sources.texts.rows, loader.sources.images.rows)
    read_from = [source for source in sources if isinstance(source, np.ndarray)]
    bar = progress(total=loader.num_descriptors, desc="describe", unit="descriptor", leave=False)
    with whole_npy(path, (model.dim,), rows=loader.num_descriptors) as writer, bar:
        made = zip(blocks, prefetch(read, 0, len(blocks)), strict=True)
        for rows, (found, homes) in until_stopped(made, "describe"):
            if isinstance(found, Pool):
                found = fetch(describe(model, put(found, by_row(model.mesh))))
            writer.append(found[homes])
            bar.update(rows.stop - rows.start)
            for source in read_from:
                forget(source)
    return mapped(path)


def embed_blocks(
    model: Heads,
    loader: Loader,
    vectors: Float[np.ndarray, "p d"],
    side: Side,
    keep_bags: bool = False,
    block: int = 1024,
) -> Iterator[tuple[Int[np.ndarray, "b"], SideEmbedding]]:
    """Yield the embeddings of a side, block after block: which items, and theirs.

    Args:
        model: where A_S comes from.
        loader: which descriptors fill which bag.
        vectors: what `describe_once` returned.
        side: the items.
        keep_bags: whether X1 is kept in addition to x1.
        block: items a call.
    """
    for part in until_stopped(cut(len(side), block), "embed"):
        rows = np.arange(part.start, part.stop)
        slots, mask = loader.slots(side, rows)
        numbers, place = np.unique(slots, return_inverse=True)
        pool = pad_rows(vectors[numbers], model.mesh.size)
        place = place.reshape(slots.shape).astype(np.int32)
        bags = Bags(pad_rows(place, model.mesh.size), pad_rows(mask, model.mesh.size))
        result = embed(model, put(pool, replicated(model.mesh)), put(bags, by_row(model.mesh)))
        vector, bag = fetch((result.vector, result.bag if keep_bags else None))
        yield (
            rows,
            SideEmbedding(vector[: len(rows)], bag[: len(rows)] if keep_bags else None, mask),
        )
        forget(vectors)


def embed_once(
    model: Heads, loader: Loader, vectors: Float[np.ndarray, "p d"], side: Side, path: Path
) -> Float[np.ndarray, "b d"]:
    """Return a map of x1 (or z1) of a side's items, read from the file if it is there.

    Raises:
        DiskError: if the file cannot be written.
        Stopped: after a signal.
    """
    if not processes.decide(path.exists):
        with whole_npy(path, (model.dim,), rows=len(side)) as writer:
            for _, part in embed_blocks(model, loader, vectors, side):
                writer.append(part.vector)
    return mapped(path)
