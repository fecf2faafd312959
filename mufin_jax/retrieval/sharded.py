"""Maximum-inner-product search over the mesh: for entries that outgrow one host, and accelerators.

Entries are split by rows over the devices. Each device walks through its own block by block with
a running top k, so no matrix of queries x entries exists anywhere. Then every device merges what
all of them found for its share of the queries. TPUs have an approximate top k (Chern et al.,
"TPU-KNN", NeurIPS 2022), which other devices compute exactly.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int32, Int64

from mufin_jax.runtime.distributed.mesh import (
    AXIS,
    BY_ROW,
    REPLICATED,
    fetch,
    over_devices,
    put,
    put_rows,
    replicated,
)
from mufin_jax.runtime.distributed.padding import divide_up, next_multiple

_CELLS = {"cpu": 1 << 22}  # numbers of a block, its cosines and its entries, held at once ...
_MORE_CELLS = 1 << 26  # ... elsewhere: each block is a few programs started, whatever its size
_GROUP = 64  # entries whose best stands for them
_MOST_QUERIES = 1024  # that enter the devices at once
_SMALLEST_BLOCK = 1024  # entries; smaller ones spend their time on the running top k
_RECALL = 0.95  # the recall that approximate search aims at


@dataclasses.dataclass(frozen=True)
class MeshSearch:
    """Entries on the devices of a mesh; `search` finds those of the largest cosine.

    Attributes:
        entries: split by rows, padded to a multiple of the devices.
        size: how many of them are real.
        mesh: the devices.
        approximate: whether TPUs may miss some entries, to be faster.
    """

    entries: Float32[Array, "e d"]
    size: int
    mesh: Mesh
    approximate: bool = False

    @classmethod
    def build(
        cls, vectors: Float32[np.ndarray, "e d"], mesh: Mesh, approximate: bool = False
    ) -> "MeshSearch":
        """Place entries on the devices; each process reads only what its own devices hold.

        On CPUs the devices share the memory of `vectors` where its alignment allows: leave the
        array, or the mapped file, as it is while the search lives.
        """
        return cls(put_rows(vectors, mesh), len(vectors), mesh, approximate)

    def search(
        self, queries: Float32[np.ndarray, "b d"], wanted: int
    ) -> tuple[Int64[np.ndarray, "b m"], Float32[np.ndarray, "b m"]]:
        """Return the `wanted` entries of the largest cosine, best first; -1 and -inf for none.

        Of equal cosines, the lower entry comes first. Every process of the mesh must call this
        method, with the same queries.
        """
        ids, cosines = [], []
        for start in range(0, max(len(queries), 1), _MOST_QUERIES):
            block = queries[start : start + _MOST_QUERIES]
            size = next_multiple(_power_of_two(len(block)), self.mesh.size)
            padded = np.zeros((size, block.shape[1]), np.float32)
            padded[: len(block)] = block
            asked = put(padded, replicated(self.mesh))
            found = fetch(_search(self.entries, asked, wanted, self.size, self.mesh,
                                  self.approximate))  # fmt: skip
            ids.append(found[0][: len(block)].astype(np.int64))
            cosines.append(found[1][: len(block)])
        return np.concatenate(ids), np.concatenate(cosines)


@functools.partial(jax.jit, static_argnames=("wanted", "size", "mesh", "approximate"))
def _search(
    entries: Float32[Array, "e d"],
    queries: Float32[Array, "b d"],
    wanted: int,
    size: int,
    mesh: Mesh,
    approximate: bool,
) -> tuple[Int32[Array, "b m"], Float32[Array, "b m"]]:
    def local(part: Array, queries: Array) -> tuple[Array, Array]:
        cells = _CELLS.get(mesh.devices.flat[0].platform, _MORE_CELLS)
        ids, cosines = _local_best(part, queries, wanted, size, approximate, cells)
        # (b, m) for all queries -> (b / devices, devices * m): one device merges each query.
        swap = functools.partial(
            jax.lax.all_to_all, axis_name=AXIS, split_axis=0, concat_axis=1, tiled=True
        )
        ids, cosines = _best(swap(ids), swap(cosines), wanted)
        return jnp.where(jnp.isneginf(cosines), -1, ids), cosines

    return over_devices(local, mesh, (BY_ROW, REPLICATED), (BY_ROW, BY_ROW))(entries, queries)


def _local_best(
    part: Array, queries: Array, wanted: int, size: int, approximate: bool, cells: int
) -> tuple[Array, Array]:
    """Return the best of one device's entries for every query, numbered globally."""
    rows, width = part.shape
    block = min(rows, max(cells // (len(queries) + width), _SMALLEST_BLOCK))
    first = jax.lax.axis_index(AXIS) * rows

    def step(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        begin = jnp.minimum(start, rows - block)  # the last block overlaps the one before it
        cosines = jax.lax.dot_general(
            queries,
            jax.lax.dynamic_slice_in_dim(part, begin, block),
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,  # TPUs and GPUs would round the factors
            preferred_element_type=jnp.float32,
        )
        row = begin + jnp.arange(block)
        real = (row >= start) & (first + row < size)
        cosines = jnp.where(real[None], cosines, -jnp.inf)
        if approximate:
            cosines, chosen = jax.lax.approx_max_k(
                cosines, min(wanted, block), recall_target=_RECALL,
                reduction_input_size_override=max(size, block),
            )  # fmt: skip
        else:
            cosines, chosen = _top(cosines, min(wanted, block))
        ids = jnp.concatenate([best[0], first + begin + chosen], axis=1)
        return _best(ids, jnp.concatenate([best[1], cosines], axis=1), best[0].shape[1]), None

    shape = (len(queries), min(wanted, rows))
    best = (jnp.full(shape, -1, jnp.int32), jnp.full(shape, -jnp.inf, jnp.float32))
    best = jax.lax.pcast(best, AXIS, to="varying")
    return jax.lax.scan(step, best, jnp.arange(0, rows, block))[0]


def _top(cosines: Array, k: int) -> tuple[Array, Array]:
    """Return `jax.lax.top_k` of rows, by way of groups: so much less of a long row is sorted.

    A group whose best is not among the k best of groups holds none of the k best entries. Groups
    are taken in the order of their entries, so that of equal cosines the lower entry still wins.
    """
    rows, count = cosines.shape
    groups = divide_up(count, _GROUP)
    if groups < 2 * k:
        best, place = jax.lax.top_k(cosines, k)
        return best, place
    missing = [(0, 0), (0, groups * _GROUP - count)]
    parts = jnp.pad(cosines, missing, constant_values=-jnp.inf).reshape(rows, groups, _GROUP)
    taken = jnp.sort(jax.lax.top_k(parts.max(-1), k)[1], axis=1)
    kept = jnp.take_along_axis(parts, taken[..., None], axis=1).reshape(rows, -1)
    best, place = jax.lax.top_k(kept, k)
    group = jnp.take_along_axis(taken, place // _GROUP, axis=1)
    return best, group * _GROUP + place % _GROUP


def _power_of_two(count: int) -> int:
    """Return the next power of two: few shapes are compiled."""
    return 1 << max(count - 1, 0).bit_length()


def _best(ids: Array, cosines: Array, wanted: int) -> tuple[Array, Array]:
    """Return the best columns, in order; of equal cosines the first, which is the lower entry."""
    cosines, chosen = jax.lax.top_k(cosines, min(wanted, cosines.shape[1]))
    return jnp.take_along_axis(ids, chosen, axis=1), cosines
