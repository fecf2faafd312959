"""Search over the mesh finds what brute force finds, with the memory of one block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mufin_jax.retrieval import sharded
from mufin_jax.retrieval.sharded import MeshSearch
from mufin_jax.runtime.distributed.mesh import by_row, replicated


def whole(*shape, seed=0):
    """Vectors of small whole numbers: their products are exact, and many are equal."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def check(found, vectors, queries, wanted):
    """Compare with brute force: the best come first, and of equal products the lower entry."""
    products = queries @ vectors.T
    ids = np.argsort(-products, axis=1, kind="stable")[:, :wanted]
    assert found[0].dtype == np.int64 and found[1].dtype == np.float32
    np.testing.assert_array_equal(found[0][:, :wanted], ids)
    np.testing.assert_array_equal(found[1][:, :wanted], np.take_along_axis(products, ids, 1))


@pytest.mark.parametrize("size", [8, 107, 1001])
def test_the_devices_together_find_what_brute_force_finds(mesh, size):
    vectors, queries = whole(size, 12), whole(5, 12, seed=1)
    search = MeshSearch.build(vectors, mesh)
    assert search.size == size
    for wanted in (1, 7, size):
        check(search.search(queries, wanted), vectors, queries, wanted)


def test_approximate_search_misses_nothing_off_tpus(mesh):
    vectors, queries = whole(1001, 12), whole(5, 12, seed=1)
    ids, products = MeshSearch.build(vectors, mesh, approximate=True).search(queries, 40)
    best = -np.sort(-(queries @ vectors.T), axis=1)[:, :40]
    np.testing.assert_array_equal(products, best)  # among equals, it takes any
    np.testing.assert_array_equal(np.einsum("bmd,bd->bm", vectors[ids], queries), products)
    assert all(len(set(row)) == 40 for row in ids.tolist())


@pytest.mark.parametrize("size", [0, 1, 3, 9])
def test_places_beyond_the_last_entry_are_padding(mesh, size):
    vectors, queries = whole(size, 12), whole(2, 12, seed=1)
    ids, cosines = MeshSearch.build(vectors, mesh).search(queries, 20)
    check((ids, cosines), vectors, queries, size)
    assert (ids[:, size:] == -1).all() and (cosines[:, size:] == -np.inf).all()


def test_of_equal_cosines_the_lower_entry_comes_first_on_any_device(mesh):
    vectors = np.tile(whole(5, 12), (7, 1))  # over 8 devices, 5 entries each
    queries = whole(2, 12, seed=1)
    check(MeshSearch.build(vectors, mesh).search(queries, 20), vectors, queries, 20)


def test_many_queries_are_searched_in_many_blocks(one_device):
    """1,030 queries take two calls; 9,001 entries take three blocks, and the last one is short."""
    vectors, queries = whole(9001, 12), whole(1030, 12, seed=1)
    assert sharded._MOST_QUERIES == 1024 and sharded._CELLS["cpu"] // (1024 + 12) == 4048
    check(MeshSearch.build(vectors, one_device).search(queries, 40), vectors, queries, 40)


def test_no_queries_get_no_labels(mesh):
    ids, cosines = MeshSearch.build(whole(9, 12), mesh).search(whole(0, 12), 3)
    assert ids.shape == cosines.shape == (0, 3)


def compiled(mesh, size, queries=1024, wanted=40):
    entries = jax.ShapeDtypeStruct((size, 192), jnp.float32, sharding=by_row(mesh))
    asked = jax.ShapeDtypeStruct((queries, 192), jnp.float32, sharding=replicated(mesh))
    return sharded._search.lower(entries, asked, wanted, size, mesh, False).compile()


@pytest.mark.parametrize("queries", [8, 1024])
def test_the_working_memory_does_not_grow_with_the_entries(mesh, queries):
    small, large = (compiled(mesh, size, queries).memory_analysis() for size in (2**18, 2**23))
    assert small is not None and large is not None
    assert large.temp_size_in_bytes < 1.001 * small.temp_size_in_bytes < 2**26


def test_only_the_found_entries_are_sent_between_devices(mesh):
    text = compiled(mesh, 2**19).as_text() or ""
    assert "all-to-all" in text and "all-gather" not in text and "all-reduce" not in text


def test_entries_mapped_from_a_file_are_not_copied(mesh, tmp_path):
    np.save(tmp_path / "entries.npy", whole(8 * 5 - 2, 16))
    mapped = np.load(tmp_path / "entries.npy", mmap_mode="r")
    shards = MeshSearch.build(mapped, mesh).entries.addressable_shards
    assert [shard.data.shape for shard in shards] == [(5, 16)] * 8
    shared = [np.shares_memory(np.asarray(shard.data), mapped) for shard in shards]
    assert shared == [True] * 7 + [False]  # the last is padded


@pytest.mark.parametrize("count, k", [(64 * 40, 7), (64 * 40 - 3, 20), (300, 7)])
def test_the_best_of_the_best_groups_are_the_best_of_all(count, k):
    rng = np.random.default_rng(count)
    cosines = rng.integers(-40, 40, (5, count)).astype(np.float32)  # many are equal
    cosines[1, 50:] = -np.inf
    found, expected = sharded._top(jnp.asarray(cosines), k), jax.lax.top_k(cosines, k)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
