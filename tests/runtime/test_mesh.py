"""Placements of arrays, and the buckets that bound what is compiled."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from mufin_jax.runtime.distributed import mesh as mesh_module
from mufin_jax.runtime.distributed.mesh import (
    by_row,
    gather_rows,
    make_mesh,
    one_ahead,
    put,
    replicated,
)
from mufin_jax.runtime.distributed.padding import round_up, usual_size


def test_a_bucket_is_at_most_a_quarter_larger_than_what_it_holds():
    for count in range(9, 3000):
        assert count <= round_up(count) <= 1.25 * count
        assert count <= 1024 or round_up(count) <= 1.125 * count


def test_few_buckets_cover_many_counts():
    # Four an octave: 8, 10, 12, 14, 16, 20 ... 1024; eight from there; 1, 2 and 4 for one query.
    assert len({round_up(count) for count in range(2049)}) == 3 + 4 * 7 + 8 + 1
    assert [round_up(n) for n in (0, 1, 2, 3, 5, 8, 9, 13, 15, 17)] == [
        1, 1, 2, 4, 8, 8, 10, 14, 16, 20,
    ]  # fmt: skip
    assert [round_up(n) for n in (1024, 1025, 15_084)] == [1024, 1152, 15_360]


@pytest.mark.parametrize("devices", [3, 8])
def test_a_bucket_divides_over_the_devices(devices):
    sizes = [round_up(count, devices) for count in range(500)]
    assert all(size % devices == 0 and size >= count for count, size in enumerate(sizes))


def test_the_mesh_has_one_auto_axis_over_all_devices(mesh):
    assert mesh.size == jax.device_count() == 8
    assert mesh.axis_names == ("devices",) and mesh.axis_types == (AxisType.Auto,)


def test_rows_are_split_and_replicas_are_whole(mesh):
    array = np.arange(48.0).reshape(16, 3)
    split, whole = put(array, by_row(mesh)), put(array, replicated(mesh))
    for device, shard in enumerate(split.addressable_shards):
        np.testing.assert_array_equal(shard.data, array[2 * device : 2 * device + 2])
    assert all(shard.data.shape == (16, 3) for shard in whole.addressable_shards)


def test_an_array_placed_shard_by_shard_equals_one_placed_at_once(mesh, monkeypatch):
    """With several processes, `put` places each shard; test_processes.py runs several."""
    tree = {"a": np.arange(24).reshape(8, 3), "b": None}
    expected = put(tree, by_row(mesh))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    placed = put(tree, by_row(mesh))
    np.testing.assert_array_equal(placed["a"], expected["a"])
    assert placed["a"].sharding == expected["a"].sharding and placed["b"] is None


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_gathered_rows_are_those_of_the_array(mesh, dtype):
    """Every pattern of 16 bits: as bfloat16, each NaN, infinity and -0.0 is among them."""
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 8)
    table = bits
    if dtype == "float32":  # those patterns as the higher half
        table = (bits.astype(np.uint32) << 16).view(np.float32)
        table[np.abs(table) < np.finfo(np.float32).tiny] = 0  # a CPU may flush subnormal numbers
    ids = np.append(np.random.default_rng(0).permutation(len(table)), len(table)).astype(np.int32)
    gather = jax.jit(gather_rows, static_argnames="mesh")
    found = np.asarray(gather(put(table, by_row(mesh)), ids, mesh=mesh))
    assert found.dtype == table.dtype
    np.testing.assert_array_equal(found[:-1], table[ids[:-1]])  # to the bit, of integers
    assert not found[-1].any()  # beyond the last row


def test_counts_that_vary_little_share_one_size_and_others_use_buckets():
    rng = np.random.default_rng(0)
    counts = rng.normal(2000, 40, 16).astype(int).tolist()
    size = usual_size(counts)
    assert max(counts) <= size <= 1.1 * np.mean(counts)
    later = rng.normal(2000, 40, 1000).astype(int)
    assert np.mean(later > size) < 0.01
    assert usual_size(counts, 8) % 8 == 0
    other = usual_size(rng.normal(2000, 40, 16).astype(int).tolist())
    assert other % 64 == size % 64 == 0 and abs(other - size) <= 64  # few sizes for many seeds
    for few in ([3, 9, 12], [0, 5]):
        assert usual_size(few, 4) == 0
    assert usual_size([0, 0]) == 0 and usual_size([7, 7]) == 7


def test_an_item_is_used_once_the_next_has_begun():
    begun = []
    results = one_ahead(range(3), lambda item: begun.append(item) or -item)
    assert begun == []
    seen = [(result, list(begun)) for result in results]
    assert seen == [(0, [0, 1]), (-1, [0, 1, 2]), (-2, [0, 1, 2])]
    assert list(one_ahead([], lambda item: item)) == []


def test_a_large_array_that_is_sent_in_parts_arrives_whole(monkeypatch):
    monkeypatch.setattr(mesh_module, "_LARGE", 100)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mesh = make_mesh(jax.devices()[:1])
    tree = {"large": np.arange(37 * 5, dtype=np.uint8).reshape(37, 5), "few": np.zeros((3, 90))}
    placed = put(tree, by_row(mesh))
    for name, array in tree.items():
        np.testing.assert_array_equal(placed[name], array)
        assert placed[name].sharding.is_equivalent_to(by_row(mesh), 2)
