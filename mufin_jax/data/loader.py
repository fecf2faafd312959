"""From item numbers to `Pool` and `Bags`: the one door between numpy and JAX.

A batch names items; the loader collects the distinct texts and images among them, of datapoints and
labels together, pads both to few sizes, and says which descriptor fills which slot. What is encoded
is therefore proportional to the true number of distinct descriptors (paper, section 4: 4.9 images a
product, 15 at most), and the shapes that are compiled are few.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.joint import JointItems
from mufin_jax.data.packing import count_rows, pack_texts, row_width, text_width, unpacked
from mufin_jax.runtime.distributed.mesh import local_rows
from mufin_jax.runtime.distributed.padding import (
    pad_rows,
    pad_texts,
    padded_size,
    usual_size,
)
from mufin_jax.runtime.errors import InputError

T = TypeVar("T")
Items = tuple[Side, Int[np.ndarray, "_"]]

EXPECTED = 16
"""Batches that a training draws ahead for `Loader.expect`."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the axes of a batch are padded to where they hold no more; beyond it, to their bucket.

    Attributes:
        descriptors: distinct ones, of batches that hold their vectors.
        texts: distinct ones, of batches that hold vectors of texts, or items of a joint model.
        width: tokens of a row of texts.
        rows: rows of texts.
        images: distinct ones.
    """

    descriptors: int = 0
    texts: int = 0
    width: int = 0
    rows: int = 0
    images: int = 0


class Loader:
    """Reads batches of one dataset for a model that sees the given modalities.

    Descriptors are numbered over the whole dataset, texts first: text r is r, image r is
    `num_texts + r`. `slots` speaks in these numbers, `batch` in rows of a pool. To a joint model
    every item is a text, read with its pictures, and there are no other descriptors.

    Where several processes share a mesh, each reads the vectors and decodes the pictures of those
    rows of a pool that its own devices hold, when the pool is placed by rows; the others are zero.

    Args:
        dataset: a prepared folder.
        modalities: which descriptors the model sees.
        mesh: the devices that the flat axes of a pool are split over; or only their number, and
            every process then reads all rows.
        label_images: whether the model sees the labels' pictures.
        padded: whether the axes of a pool are padded to their buckets.

    Attributes:
        vectors: descriptor vectors (p, d) by number, if they are known and will not change: batches
            then hold those of their descriptors instead of a pool.
        pixels: what batches show of the images: pixels, vectors, or what the frozen part of E_V
            made of them all (precomputed.py).
        text_vectors: vectors of the texts, ready ones or a frozen E_T's; None where batches hold
            tokens.
        sizes: of batches; `expect` sets them.
        joint: the items, for a joint model; else None.

    Raises:
        InputError: if the model sees only texts, or only pictures, and the data have none; or if it
            is joint, and items are not of one title and pictures.
    """

    vectors: Float[np.ndarray, "p d"] | None = None

    def __init__(
        self,
        dataset: Dataset,
        modalities: Literal["both", "text", "images", "joint"] = "both",
        mesh: Mesh | int = 1,
        label_images: bool = True,
        padded: bool = True,
    ):
        self.dataset, self.modalities, self.padded = dataset, modalities, padded
        self.mesh, self.mesh_size = (None, mesh) if isinstance(mesh, int) else (mesh, mesh.size)
        self.num_texts, self.text_vectors = dataset.num_texts, dataset.text_vectors
        self.sizes = Sizes()
        vectors = dataset.image_vectors
        self.pixels: Any = dataset.images if vectors is None else vectors
        self.num_descriptors = self.num_texts + len(self.pixels)
        sides = (dataset.train, dataset.test, dataset.labels)
        most = {side.name: int(np.diff(side.image_offsets).max(initial=0)) for side in sides}
        points = max(most["train"], most["test"])
        self._most_images = {"train": points, "test": points, "label": most["label"] * label_images}
        missing = None
        if modalities == "images" and not any(self._most_images.values()):
            missing = "picture"
        elif modalities == "text" and not any((side.text >= 0).any() for side in sides):
            missing = "title"
        if missing:
            raise InputError(
                f"{dataset.path}: no item has a {missing}, and a model of modalities={modalities} "
                "sees nothing else; choose --model.modalities=both, or bring other data"
            )
        self.joint = None
        if modalities == "joint":
            self.joint = JointItems(dataset, self._most_images)
            self.num_texts = self.num_descriptors = len(self.joint)

    def slots(
        self, side: Side, rows: Int[np.ndarray, "b"]
    ) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        """Return the descriptor numbers of some items, and which of them are real."""
        columns = []
        most = self._most_images[side.name]
        if self.joint is not None:
            columns.append(self.joint.numbers(side, rows)[:, None])
        elif self.modalities != "images":
            text = side.text[rows].astype(np.int64)
            columns.append(text if text.ndim > 1 else text[:, None])
        if self.modalities == "images" or (self.modalities == "both" and most):
            images = side.images_in(rows, most)
            columns.append(np.where(images >= 0, self.num_texts + images, -1))
        slots = np.concatenate(columns, 1)
        return np.maximum(slots, 0), slots >= 0

    def batch(self, groups: Sequence[Items]) -> tuple[Pool | Float[np.ndarray, "p d"], list[Bags]]:
        """Return one pool for all groups of items, and the bags of each group, as numpy arrays."""
        grids, numbers = self._distinct(groups)
        split = int(np.searchsorted(numbers, self.num_texts))
        if self.vectors is not None:
            pool = self._read(self.vectors, numbers, self.sizes.descriptors)
            homes = np.arange(len(numbers))
        else:
            texts, images = numbers[:split], numbers[split:] - self.num_texts
            pool, homes = self.pool(texts, images, self.sizes)
        homes = np.append(homes, 0)  # for slots that hold nothing
        bags = []
        for slots, mask in grids:
            place = homes[np.searchsorted(numbers, slots)]
            bags.append(Bags(np.where(mask, place, 0).astype(np.int32), mask))
        return pool, bags

    def pool(
        self,
        texts: Int[np.ndarray, "t"],
        images: Int[np.ndarray, "i"],
        sizes: Sizes = Sizes(),
    ) -> tuple[Pool, Int[np.ndarray, "_"]]:
        """Return the pool of these texts and images, and the row of its vectors that holds each."""
        tokens = places = pixels = pictures = None
        homes, rows = np.zeros(0, np.int64), 0
        if self.modalities != "images" and self.text_vectors is not None:
            tokens = self._read(self.text_vectors, texts, sizes.texts)
            homes, rows = np.arange(len(texts)), len(tokens)
        elif self.joint is not None:
            found, lengths, shown = self.joint.read(texts)
            tokens, places = unpacked(found, lengths, sizes.width)
            homes, images = np.arange(len(texts)), np.unique(shown[shown >= 0])
            pictures = np.where(shown >= 0, np.searchsorted(images, shown), -1).astype(np.int32)
            if self.padded:
                tokens, places = pad_texts(tokens, places, self.mesh_size, sizes.texts)
                pictures = pad_rows(pictures, self.mesh_size, -1, sizes.texts)
        elif self.modalities != "images":
            found = np.asarray(self.dataset.texts[texts])
            lengths = np.asarray(self.dataset.text_lengths[texts])
            tokens, places, homes = pack_texts(found, lengths, sizes.width)
            if self.padded:
                tokens, places = pad_texts(tokens, places, self.mesh_size, sizes.rows)
            rows = TEXTS_A_ROW * len(tokens)
        if self.joint is not None and pictures is None:  # known vectors
            return Pool(tokens, None, None), homes
        if self.modalities != "text":
            pixels = self._read(self.pixels, images, sizes.images)
        if pictures is None:
            homes = np.append(homes, rows + np.arange(len(images)))
        return Pool(tokens, places, pixels, pictures), homes

    def pictures(self, rows: Int[np.ndarray, "i"]) -> Pool:
        """Return the pool of these images alone, one after the other."""
        return Pool(None, None, self._read(self.pixels, rows, 0))

    def expect(self, batches: Iterable[Sequence[Items]]) -> None:
        """Have batches like these, given as the groups of each, padded to one shape.

        Bags differ in what they hold, so that batches of as many items would have shapes of several
        buckets, each of which is compiled.
        """
        drawn = [self._distinct(groups)[1] for groups in batches]
        splits = [int(np.searchsorted(numbers, self.num_texts)) for numbers in drawn]
        lengths, width = [], 0
        pictures = [len(numbers) - split for numbers, split in zip(drawn, splits, strict=True)]
        if self.joint is not None:
            read = [self.joint.read(numbers) for numbers in drawn]
            width = max(text_width(some) for _, some, _ in read)
            pictures = [len(np.unique(shown[shown >= 0])) for _, _, shown in read]
        elif self.modalities != "images" and self.dataset.text_vectors is None:
            found = [numbers[:split] for numbers, split in zip(drawn, splits, strict=True)]
            lengths = [np.asarray(self.dataset.text_lengths[texts]) for texts in found]
            width = max(map(row_width, lengths))
        counts = {
            "descriptors": [len(numbers) for numbers in drawn],
            "texts": splits,
            "rows": [count_rows(some, width) for some in lengths] or [0],
            "images": pictures,
        }
        usual = {axis: usual_size(found, self.mesh_size) for axis, found in counts.items()}
        self.sizes = Sizes(width=width, **usual)

    def _distinct(
        self, groups: Sequence[Items]
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], Int[np.ndarray, "d"]]:
        """Return the slots of each group, and the distinct numbers among them all, ascending."""
        grids = [self.slots(side, rows) for side, rows in groups]
        return grids, np.unique(np.concatenate([slots[mask] for slots, mask in grids]))

    def _read(self, source: Any, rows: Int[np.ndarray, "r"], usual: int) -> np.ndarray:
        """Return rows of a source, padded; zero where no device here holds them."""
        size = padded_size(len(rows), self.mesh_size, usual) if self.padded else len(rows)
        own = np.arange(size) if self.mesh is None else local_rows(self.mesh, size)
        own = own[own < len(rows)]
        read = np.asarray(source[rows[own]])
        padded = np.zeros((size, *read.shape[1:]), read.dtype)  # untouched pages take no memory
        padded[own] = read
        return padded


def prefetch(make: Callable[[int], T], start: int, stop: int, threads: int = 2) -> Iterator[T]:
    """Yield make(start), ..., make(stop - 1) in order, made ahead of use by a few threads, or by
    none, when they are used.

    `make` must be a pure function of the step: a resumed run then replays the same batches without
    any state of the input pipeline in its checkpoint.
    """
    import grain

    if start < stop:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        steps = grain.MapDataset.range(start, stop)
        yield from steps.map(make).to_iter_dataset(options)
