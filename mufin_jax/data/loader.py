"""From item numbers to `Pool` and `Bags`: the one door between numpy and JAX.

A batch names items; the loader collects the distinct texts and images among them, of datapoints and
labels together, pads both to few sizes, and gives the descriptor that fills each slot. What is
encoded is therefore proportional to the true number of distinct descriptors (paper, section 4: 4.9
images a product, 15 at most), and few shapes are compiled.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

import mufin_jax.data.pytrees  # noqa: F401 (what a loader returns is placed on devices)
from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.descriptors import Descriptors
from mufin_jax.data.joint import JointItems
from mufin_jax.data.layout import Layout, PoolSizes
from mufin_jax.data.separate import SeparateDescriptors
from mufin_jax.data.sources import ImageSource, Pixels, Sources, TextSource, Tokens, Vectors
from mufin_jax.runtime.distributed.mesh import local_rows
from mufin_jax.runtime.distributed.padding import usual_size

T = TypeVar("T")
SideRows = tuple[Side, Int[np.ndarray, "_"]]
"""Some items of a side, by their numbers."""
Modalities = Literal["both", "text", "images", "joint"]

EXPECTED = 16
"""Batches that a training draws ahead for `Loader.usual_sizes`."""


class Loader:
    """Reads batches of one dataset for a model that sees the given modalities.

    Descriptors are numbered over the whole dataset, those read as texts first (`descriptors.py`).
    `slots` gives these numbers, `batch` gives rows of a pool.

    A loader does not change: `with_sources`, `padded_to` and `with_test` return another one.

    Args:
        dataset: a prepared folder.
        modalities: which descriptors the model sees.
        mesh: the devices that the flat axes of a pool are split over. With several processes, each
            reads the vectors and decodes the pictures of those rows alone that its own devices
            hold when the pool is placed by rows; the others are zero.
        devices: instead of a mesh, only the number of devices; every process reads all rows.
        label_images: whether the model sees the labels' pictures.
        padded: whether the axes of a pool are padded to their buckets.
        sources: where descriptors are read from; the dataset's own by default.

    Attributes:
        descriptors: which descriptors there are.
        sizes: what the axes of batches are usually padded to.

    Raises:
        InputError: if the model sees only texts, or only pictures, and the data have none; or if it
            is joint, and items do not have one title each.
        ValueError: if both a mesh and a number of devices are given.
    """

    def __init__(
        self,
        dataset: Dataset,
        modalities: Modalities = "both",
        mesh: Mesh | None = None,
        *,
        devices: int | None = None,
        label_images: bool = True,
        padded: bool = True,
        sources: Sources | None = None,
    ):
        if mesh is not None and devices is not None:
            raise ValueError("a loader got a mesh and a number of devices; expected one of them")
        self.dataset, self.label_images = dataset, label_images
        self.modalities: Modalities = modalities
        own = None if mesh is None else functools.partial(local_rows, mesh)
        self._layout = Layout(devices or 1 if mesh is None else mesh.size, own, padded)
        self.sources, self.sizes = sources or own_sources(dataset), PoolSizes()
        self.descriptors = new_descriptors(dataset, modalities, label_images)

    @property
    def mesh_size(self) -> int:
        """The number of devices that the axes of a pool divide over."""
        return self._layout.devices

    @property
    def num_texts(self) -> int:
        """The number of descriptors that are read as texts."""
        return self.descriptors.num_texts

    @property
    def num_descriptors(self) -> int:
        """The number of all descriptors."""
        return self.descriptors.num_texts + self.descriptors.num_images

    def with_sources(
        self,
        *,
        texts: TextSource | None = None,
        images: ImageSource | None = None,
        known: Vectors | None = None,
    ) -> "Loader":
        """Return a loader that reads these descriptors from other sources.

        Args:
            texts: of all texts.
            images: of all images.
            known: X0 of all descriptors.
        """
        given = {"texts": texts, "images": images, "known": known}
        changed = {name: source for name, source in given.items() if source is not None}
        other = copy.copy(self)
        other.sources = dataclasses.replace(self.sources, **changed)
        return other

    def padded_to(self, sizes: PoolSizes) -> "Loader":
        """Return a loader that pads the axes of batches to these sizes where they hold no more."""
        other = copy.copy(self)
        other.sizes = sizes
        return other

    def with_test(self, side: Side) -> "Loader":
        """Return a loader of a dataset whose test points are these: it reads all their pictures."""
        other = copy.copy(self)
        other.dataset = dataclasses.replace(self.dataset, test=side)
        other.descriptors = new_descriptors(other.dataset, self.modalities, self.label_images)
        return other

    def slots(
        self, side: Side, rows: Int[np.ndarray, "b"]
    ) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        """Return the descriptor numbers of some items, and which of them are real."""
        return self.descriptors.slots(side, rows)

    def batch(self, groups: Sequence[SideRows]) -> tuple[Pool, list[Bags]]:
        """Return one pool for all groups of items, and the bags of each group, as numpy arrays."""
        grids, numbers = self._distinct(groups)
        if self.sources.known is not None:
            known = self._layout.read(self.sources.known.rows, numbers, self.sizes.descriptors)
            pool, homes = Pool(None, None, Vectors(known)), np.arange(len(numbers))
        else:
            split = int(np.searchsorted(numbers, self.num_texts))
            texts, images = numbers[:split], numbers[split:] - self.num_texts
            pool, homes = self.descriptors.pool(
                texts, images, self.sources, self._layout, self.sizes
            )
        homes = np.append(homes, 0)  # for slots that hold nothing
        bags = []
        for slots, mask in grids:
            place = homes[np.searchsorted(numbers, slots)]
            bags.append(Bags(np.where(mask, place, 0).astype(np.int32), mask))
        return pool, bags

    def texts(self, numbers: Int[np.ndarray, "t"]) -> tuple[Pool, Int[np.ndarray, "t"]]:
        """Return the pool of descriptors that are read as texts, and the row of X0 of each."""
        return self.descriptors.pool(numbers, None, self.sources, self._layout, PoolSizes())

    def pictures(self, rows: Int[np.ndarray, "i"]) -> tuple[ImageSource, Int[np.ndarray, "i"]]:
        """Return these images, padded, and the row of each."""
        source = self.sources.images
        return type(source)(self._layout.read(source.rows, rows)), np.arange(len(rows))

    def usual_sizes(self, batches: Iterable[Sequence[SideRows]]) -> PoolSizes:
        """Return the sizes that pad batches like these, given as the groups of each, to one shape.

        Bags hold different numbers of descriptors. Padded to buckets, batches of equally many items
        would have several shapes, each of which is compiled.
        """
        drawn = [self._distinct(groups)[1] for groups in batches]
        width, counts = self.descriptors.counts(drawn, self.sources)
        usual = {axis: usual_size(found, self.mesh_size) for axis, found in counts.items()}
        return PoolSizes(width=width, **usual)

    def _distinct(
        self, groups: Sequence[SideRows]
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], Int[np.ndarray, "d"]]:
        """Return the slots of each group, and the distinct numbers among them all, ascending."""
        grids = [self.slots(side, rows) for side, rows in groups]
        return grids, np.unique(np.concatenate([slots[mask] for slots, mask in grids]))


def own_sources(dataset: Dataset) -> Sources:
    """Return the sources that a prepared folder holds."""
    texts, images = dataset.text_vectors, dataset.image_vectors
    return Sources(
        Tokens(dataset.texts, dataset.text_lengths) if texts is None else Vectors(texts),
        Pixels(dataset.images) if images is None else Vectors(images),
    )


def new_descriptors(
    dataset: Dataset, modalities: Modalities, label_images: bool = True
) -> Descriptors:
    """Return the descriptors of a dataset, as a model of these modalities sees them.

    No more pictures of an item are seen than any item of its kind, datapoint or label, has.

    Raises:
        InputError: if the data have nothing that the model sees.
    """
    sides = (dataset.train, dataset.test, dataset.labels)
    most = {side.name: int(np.diff(side.image_offsets).max(initial=0)) for side in sides}
    points = max(most["train"], most["test"])
    most = {"train": points, "test": points, "label": most["label"] * label_images}
    if modalities == "joint":
        return JointItems(dataset, most)
    return SeparateDescriptors(dataset, modalities, most)


def prefetch(make: Callable[[int], T], start: int, stop: int, threads: int = 2) -> Iterator[T]:
    """Yield make(start), ..., make(stop - 1) in order, made ahead of use by a few threads.

    With no threads, each is made when it is used. `make` must be a pure function of the step: a
    resumed run then replays the same batches without any state of the input pipeline in its
    checkpoint.
    """
    import grain

    if start < stop:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        steps = grain.MapDataset.range(start, stop)
        yield from steps.map(make).to_iter_dataset(options)
