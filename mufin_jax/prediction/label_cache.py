"""What prediction keeps of every label: the memory of its bag for A_C, and its classifier w_l.

Both are as large as the label table, so they are treated like it. They are written label after
label, read from the disk by the device that owns the rows, split over the devices, and gathered
only for the labels of a shortlist. The folder holds `bags.npy` (float32 (e, D): Z1, label after
label), `offsets.npy` (int64 (L + 1,)), `w.npy` (float32 (L, D)) and `manifest.json` (size and
SHA-256).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, Int32, Int64

from mufin_jax.model import label_table
from mufin_jax.model.attention import Memory
from mufin_jax.model.embed_side import SideEmbedding
from mufin_jax.model.heads import CrossBlock
from mufin_jax.prediction import shapes
from mufin_jax.retrieval.build import Consumer
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import (
    BY_ROW,
    REPLICATED,
    fetch,
    gather_rows,
    over_devices,
    put,
    put_rows,
    replicated,
)
from mufin_jax.runtime.distributed.padding import grown, pad_rows
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.npy import mapped, whole_npy

_ROWS = 4096
"""Descriptors whose keys and values a device computes at once."""
_FEWEST = 256
"""Rows that labels in memory are padded to, at least."""


@dataclasses.dataclass(frozen=True)
class LabelCache:
    """What prediction keeps of all labels.

    Attributes:
        arrays: the keys and values of each descriptor side by side, so that one gather brings
            both (r, d + g d), and classifiers w (l, d); split by rows over the devices and padded
            to a multiple of them.
        offsets: on the host: the descriptors of label l are rows offsets[l] to offsets[l + 1].
        most: m, the descriptors of the label that has the most of them, at least 1.
    """

    arrays: tuple[Float[Array, "r kv"], Float[Array, "l d"]]
    offsets: Int64[np.ndarray, "l1"]
    most: int

    def __repr__(self) -> str:
        labels, descriptors = len(self.offsets) - 1, int(self.offsets[-1])
        dim = self.arrays[1].shape[1]
        return f"LabelCache({labels:,} labels, {descriptors:,} descriptors, D = {dim})"

    @classmethod
    def load(cls, folder: Path, block: CrossBlock, mesh: Mesh) -> "LabelCache":
        """Load what `cache_writer` wrote; each device gets its own rows, and none ever holds all.

        Args:
            folder: where it was written.
            block: A_C, which makes keys and values.
            mesh: the devices.

        Raises:
            InputError: if a file is missing or damaged.
        """
        files.check_seal(folder)
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        most = max(1, int(np.diff(offsets).max(initial=0)))
        bags, w = mapped(folder / "bags.npy"), mapped(folder / "w.npy")
        return cls._placed(bags, w, offsets, most, block, mesh)

    @classmethod
    def build(
        cls,
        bags: Float32[np.ndarray, "e d"],
        offsets: Int64[np.ndarray, "l1"],
        w: Float32[np.ndarray, "l d"],
        block: CrossBlock,
        mesh: Mesh,
    ) -> "LabelCache":
        """Return the cache of labels that are in memory, padded: few shapes are compiled.

        Args:
            bags: Z1, label after label.
            offsets: the descriptors of label l are rows offsets[l] to offsets[l + 1].
            w: the classifiers.
            block: A_C, which makes keys and values.
            mesh: the devices.
        """
        most = shapes.slots(int(np.diff(offsets).max(initial=1)))
        wide, classes = (grown(one, _power(len(one))) for one in (bags, w))
        return cls._placed(wide, classes, offsets, most, block, mesh)

    @classmethod
    def _placed(
        cls,
        bags: Float32[np.ndarray, "r d"],
        w: Float32[np.ndarray, "s d"],
        offsets: Int64[np.ndarray, "l1"],
        most: int,
        block: CrossBlock,
        mesh: Mesh,
    ) -> "LabelCache":
        described = _memory(block, put_rows(bags, mesh), mesh)
        return cls((described, put_rows(w, mesh)), offsets, most)

    def slots(self, labels: Int[np.ndarray, "b c"]) -> Int32[np.ndarray, "b c m"]:
        """Return the rows of the labels' descriptors, -1 where there is none."""
        chosen = np.maximum(labels, 0)
        place = self.offsets[chosen][..., None] + np.arange(self.most)
        real = (place < self.offsets[chosen + 1][..., None]) & (labels >= 0)[..., None]
        return np.where(real, place, -1).astype(np.int32)


def _power(count: int) -> int:
    """Return the power of two that holds so many rows, and at least a few."""
    return 1 << max(count - 1, _FEWEST - 1).bit_length()


def gather(
    arrays: tuple[Float[Array, "r kv"], Float[Array, "l d"]],
    labels: Int[Array, "b c"],
    slots: Int[Array, "b c m"],
    mesh: Mesh,
) -> tuple[Memory, Float[Array, "b c d"]]:
    """Return memory and classifiers of labels from `LabelCache.arrays`, on every device.

    As many bytes travel as these labels have, whatever the number of all labels. Label -1 has no
    descriptors and the classifier 0.
    """
    described, w = gather_rows(arrays[0], slots, mesh), gather_rows(arrays[1], labels, mesh)
    dim = w.shape[-1]
    heads = described.shape[-1] // dim - 1
    keys = described[..., :dim].reshape(*slots.shape, heads, -1)
    values = described[..., dim:].reshape(*slots.shape, heads, dim)
    return Memory(keys, values, slots >= 0), w


@contextlib.contextmanager
def cache_writer(
    folder: Path, rows: label_table.Rows | None, dim: int, mesh: Mesh
) -> Iterator[Consumer]:
    """Give a function that adds the next labels to the folder; every process must call it.

    Args:
        folder: made if need be; complete when the manifest is there.
        rows: eta and alpha of all labels, split over the devices; None makes w = z.
        dim: D.
        mesh: the devices.
    """
    counts = [np.zeros(1, np.int64)]
    with (
        whole_npy(folder / "bags.npy", (dim,)) as bags,
        whole_npy(folder / "w.npy", (dim,)) as classes,
    ):

        def append(ids: Int[np.ndarray, "c"], labels: SideEmbedding) -> None:
            w = labels.vector
            if rows is not None:
                named = put((pad_rows(ids.astype(np.int32)), pad_rows(w)), replicated(mesh))
                w = fetch(_combine(rows, *named, mesh))[: len(ids)]
            bags.append(labels.descriptors())
            classes.append(w)
            counts.append(labels.mask.sum(1))

        yield append

    def complete() -> None:
        files.save_array(folder / "offsets.npy", np.cumsum(np.concatenate(counts)))
        files.seal(folder)

    processes.once(f"{folder.name} are complete", complete)


@functools.partial(jax.jit, static_argnames="mesh")
def _combine(rows: label_table.Rows, ids: Array, z: Array, mesh: Mesh) -> Array:
    return label_table.combine(label_table.gather(rows, ids, mesh), z)


@functools.partial(jax.jit, static_argnames="mesh")
def _memory(block: CrossBlock, bags: Array, mesh: Mesh) -> Array:
    def local(block: CrossBlock, bags: Array) -> Array:
        def one(descriptor: Array) -> Array:
            memory = block.memory(descriptor[None], jnp.ones(1, bool))
            return jnp.concatenate([memory.keys.ravel(), memory.values.ravel()])

        return jax.lax.map(one, bags, batch_size=min(_ROWS, len(bags)))

    return over_devices(local, mesh, (REPLICATED, BY_ROW), BY_ROW)(block, bags)
