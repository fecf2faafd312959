"""The mesh of devices, and the placement of arrays on it: replicated, or split by rows.

There is one mesh with one axis. Batches are split over it by rows, encoders are replicated, the
label table is split by rows (paper, section 3: training on several GPUs). The same code runs on one
device, on eight virtual ones and on a pod.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from mufin_jax.runtime.distributed.padding import next_multiple
from mufin_jax.runtime.surroundings import check_precision

T = TypeVar("T")
R = TypeVar("R")

AXIS = "devices"
REPLICATED = PartitionSpec()
BY_ROW = PartitionSpec(AXIS)
_LARGE = 1 << 26
"""Bytes from which on an array goes to a GPU in parts."""
_PARTS = 16


def make_mesh(devices: list[Any] | None = None) -> Mesh:
    """Return the mesh over `devices` (all of them by default), with the single axis "devices".

    The axis is Auto: under Explicit axes, jax's own default since 0.10, `nnx.Embed` on a sharded
    batch and gathers from a sharded table raise ShardingTypeError.

    Raises:
        InputError: if JAX makes arrays of 64 bits.
    """
    check_precision()
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the placement of an array that every device holds whole."""
    return NamedSharding(mesh, REPLICATED)


def by_row(mesh: Mesh) -> NamedSharding:
    """Return the placement of an array whose rows are split over the devices."""
    return NamedSharding(mesh, BY_ROW)


def local_rows(mesh: Mesh, size: int) -> Int[np.ndarray, "r"]:
    """Return which rows of an array of `size` rows, placed `by_row`, this process's devices hold.

    The others need not be read: `put` never uses them.
    """
    held = by_row(mesh).addressable_devices_indices_map((size,))
    rows = [np.arange(size)[index] for index in held.values() if index is not None]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *rows]))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Move the arrays of `tree`, which every process holds whole, to the devices."""

    def one(array: Any) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if jax.process_count() > 1:
        return jax.tree.map(one, tree)
    if sharding.num_devices == 1 and jax.default_backend() == "gpu":
        return jax.tree.map(lambda array: _put_in_parts(array, sharding), tree)
    return jax.device_put(tree, sharding)


def _put_in_parts(array: Any, sharding: NamedSharding) -> Array:
    """Move an array to a GPU; a large one in parts, each staged by its own thread.

    An H100 then receives 28 GB/s instead of 8.7 (docs/performance.md).
    """
    if not isinstance(array, np.ndarray) or array.nbytes < _LARGE or len(array) < _PARTS:
        return jax.device_put(array, sharding)
    parts = np.array_split(array, _PARTS)
    return _joined([jax.device_put(part, sharding) for part in parts], sharding)


@functools.partial(jax.jit, static_argnums=1)
def _joined(parts: list[Array], sharding: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(jnp.concatenate(parts), sharding)


def one_ahead(items: Iterable[T], begin: Callable[[T], R]) -> Iterator[R]:
    """Call `begin` on each item, and yield its result after the next item has begun.

    `begin` may place a batch: devices then copy one batch while they compute another. On GPUs a
    copy that is requested after a step would wait for the step's end: it may get memory that the
    step still uses.
    """
    begun = map(begin, items)
    for last in begun:
        for following in begun:
            yield last
            last = following
        yield last


def put_rows(rows: np.ndarray, mesh: Mesh, size: int | None = None) -> Array:
    """Split the rows of an array over the devices, padded with zeros to a multiple of them.

    Or they are padded to a `size`, which is such a multiple.

    If `rows` is a mapped file, each process reads only what its own devices hold. CPU devices share
    the memory of `rows` where its alignment allows: do not change it while the result lives.
    """
    size = size or next_multiple(max(1, len(rows)), mesh.size)

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(size)
        own = np.asarray(rows[start:stop])
        missing = [(0, stop - start - len(own)), *[(0, 0)] * (own.ndim - 1)]
        return np.pad(own, missing) if missing[0][1] else own

    return jax.make_array_from_callback((size, *rows.shape[1:]), by_row(mesh), part)


def fetch(tree: Any) -> Any:
    """Return the arrays of `tree` as numpy, whole; every process must call it, in the same order.

    Arrays that are split over several processes are gathered from them.
    """

    def one(array: Any) -> np.ndarray:
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return np.asarray(array)
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    return jax.tree.map(one, tree)


def gather_rows(tree: Any, ids: Int[Array, "..."], mesh: Mesh) -> Any:
    """Return the rows `ids` of arrays split by rows, on every device; zero for ids beyond them.

    Each device reads the rows that it owns, and the devices' parts are added. The bytes that travel
    depend on the number of ids, not on the number of rows. Each row lives on one device and the
    others add zeros, so integers arrive to the bit, and floats as equal values: -0.0 as 0.0, and
    subnormal numbers, which a CPU may flush, as 0.
    """

    def local(tree: Any, ids: Array) -> Any:
        mine = jax.tree.map(lambda part: take(part, own_rows(ids, part)), tree)
        # Floats are not added as bit patterns: around a bitcast, XLA on a CPU fuses a step in
        # another way, and rounds otherwise.
        return jax.lax.psum(mine, AXIS)

    return over_devices(local, mesh, (BY_ROW, REPLICATED), REPLICATED)(tree, ids)


def own_rows(ids: Int[Array, "..."], part: Array) -> Int[Array, "..."]:
    """Inside `over_devices`: global row numbers -> rows of this device's part, or out of range."""
    rows = part.shape[0]
    local = ids - jax.lax.axis_index(AXIS) * rows
    return jnp.where((local >= 0) & (local < rows), local, rows)


def take(part: Array, index: Int[Array, "..."]) -> Array:
    """Return rows of an array, zero for rows out of range."""
    return part.at[index].get(mode="fill", fill_value=0)


def over_devices(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """Map `function` over the devices: each call sees its own rows of the BY_ROW arguments."""
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
