"""Module II's index: distinct labels with exact similarities, by every search."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from entries import APPROXIMATE, EVERYTHING, EXACT, SHARDED, catalogue, needs_scann, unit
from places import SUPPORT

from mufin_jax.retrieval import config as index_config
from mufin_jax.retrieval import index as index_module
from mufin_jax.retrieval import scann as scann_module
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries, best_first
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.searcher import TreeSearcher
from mufin_jax.retrieval.shortlist import Shortlist, recall
from mufin_jax.runtime.errors import InputError


def by_brute_force(vectors, labels, query):
    """Every label's largest cosine, by the definition."""
    return {i: max(float(v @ query) for v in vectors[labels == i]) for i in np.unique(labels)}


@pytest.mark.parametrize(
    "config", [EXACT, SHARDED, APPROXIMATE, pytest.param(EVERYTHING, marks=needs_scann)]
)
def test_the_shortlist_is_the_labels_by_their_largest_cosine(config):
    vectors, labels, queries = catalogue()
    found = LabelIndex.build(vectors, labels, config).shortlist(queries, 5)
    for query, row, similarities in zip(queries, found.labels, found.similarities, strict=True):
        truth = by_brute_force(vectors, labels, query)
        best = sorted(truth, key=truth.__getitem__, reverse=True)[:5]
        assert row.tolist() == best
        np.testing.assert_allclose(similarities, [truth[label] for label in best], atol=1e-6)


@needs_scann
def test_scann_at_full_search_equals_exact_search():
    vectors, labels, queries = catalogue(seed=1)
    index = LabelIndex.build(vectors, labels, EVERYTHING)
    assert isinstance(index.searcher, TreeSearcher) and not index.exact
    scann = index.shortlist(queries, 30)
    exact = LabelIndex.build(vectors, labels, EXACT).shortlist(queries, 30)
    np.testing.assert_array_equal(scann.labels, exact.labels)
    np.testing.assert_allclose(scann.similarities, exact.similarities, atol=1e-6)
    assert recall(scann, exact) == 1.0


@pytest.mark.parametrize("config", [SHARDED, APPROXIMATE])
def test_sharded_search_equals_exact_search(config):
    vectors, labels, queries = catalogue(seed=1)
    assert len(vectors) % 8  # does not divide over the devices
    keep = labels % 5 != 3  # labels without entries
    vectors, labels = vectors[keep], labels[keep]
    for k in (30, 400):  # fewer than 400 labels have entries
        sharded = LabelIndex.build(vectors, labels, config, 407).shortlist(queries, k)
        exact = LabelIndex.build(vectors, labels, EXACT, 407).shortlist(queries, k)
        np.testing.assert_array_equal(sharded.labels, exact.labels)
        np.testing.assert_allclose(sharded.similarities, exact.similarities, atol=1e-6)


@pytest.mark.parametrize("config", [SHARDED, pytest.param(IndexConfig(), marks=needs_scann)])
def test_a_label_that_owns_the_nearest_entries_takes_one_place(config):
    vectors, labels, queries = catalogue(seed=2)
    crowd = unit(queries[:1] + 0.01 * np.random.default_rng(0).normal(size=(300, 12)))
    vectors, labels = np.concatenate([vectors, crowd]), np.append(labels, np.full(300, 400))
    found = LabelIndex.build(vectors, labels, config).shortlist(queries, 4)  # label 400 comes first
    assert found.labels[0, 0] == 400
    for row in found.labels:
        assert len(set(row.tolist())) == 4 and -1 not in row


@needs_scann
@pytest.mark.parametrize(
    "config", [EXACT, SHARDED, IndexConfig(leaves_searched=0.03, entries_searched=0)]
)
def test_more_labels_than_there_are_leave_padding(config):
    vectors, labels, queries = catalogue(labels=330)
    keep = labels % 30 == 0  # 11 labels ...
    vectors = np.concatenate([vectors[keep]] * 40)  # ... of enough entries for a tree
    labels = np.concatenate([labels[keep]] * 40)
    assert len(vectors) > scann_module.FEWEST_VECTORS
    found = LabelIndex.build(vectors, labels, config).shortlist(queries, 13)
    assert (found.labels[:, 11:] == -1).all() and (found.similarities[:, 11:] == -np.inf).all()
    assert (np.sort(found.labels[:, :11], axis=1) == np.arange(11) * 30).all()
    assert np.isfinite(found.similarities[:, :11]).all()


@pytest.mark.parametrize("size", [1, 2, 15])
def test_an_index_can_have_very_few_vectors(size):
    vectors = unit(np.random.default_rng(3).normal(size=(size, 5)))
    found = LabelIndex.build(vectors, np.arange(size)).shortlist(vectors, 1)
    np.testing.assert_array_equal(found.labels[:, 0], np.arange(size))


def test_an_empty_batch_has_an_empty_shortlist():
    vectors, labels, queries = catalogue()
    found = LabelIndex.build(vectors, labels).shortlist(queries[:0], 3)
    assert found.labels.shape == found.similarities.shape == (0, 3)


@pytest.mark.parametrize("config", [EXACT, SHARDED, IndexConfig()])
def test_an_index_without_entries_finds_nothing(config):
    empty = np.empty((0, 12), np.float32)
    index = LabelIndex.build(empty, np.empty(0, np.int64), config, num_labels=6)
    assert (index.shortlist(catalogue()[2], 2).labels == -1).all()


@pytest.mark.parametrize("config", [EXACT, SHARDED])
def test_labels_without_entries_are_never_retrieved(config):
    vectors, labels, queries = catalogue(labels=40)
    keep = labels % 4 == 2
    index = LabelIndex.build(vectors[keep], labels[keep], config, num_labels=40)
    found = index.shortlist(queries, 10)
    assert (np.sort(found.labels) == np.arange(2, 40, 4)).all()


@pytest.mark.parametrize("config", [EXACT, SHARDED])
def test_equal_similarities_are_ordered_by_label(config):
    vector = unit(np.ones((1, 5)))
    vectors, labels = np.repeat(vector, 9, axis=0), np.array([8, 3, 5, 3, 0, 7, 2, 6, 1])
    found = LabelIndex.build(vectors, labels, config).shortlist(vector, 4)
    assert found.labels.tolist() == [[0, 1, 2, 3]]


def test_the_first_distinct_labels_go_by_their_best_cosine_then_by_number():
    entries = LabelEntries(np.zeros((7, 1), np.float32), np.array([0, 2, 2, 4, 6, 7]))
    found = entries.first_distinct(
        np.array([[6, 5, 0, 1, -1, 3, 2], [3, -1, -1, -1, -1, -1, 0]]),
        np.array(
            [[-0.0, 0.0, -0.9, 0.25, -np.inf, -1.0, -0.5], [-0.5, *[-np.inf] * 5, 0.5]], np.float32
        ),
        4,
    )
    assert found[0].tolist() == [[0, 3, 4, 2], [0, 2, -1, -1]]
    assert found[1].tolist() == [[0.25, 0.0, 0.0, -0.5], [0.5, -0.5, -np.inf, -np.inf]]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", ["exact", "auto"])
def test_vectors_that_are_not_finite_are_rejected_by_row(poison, backend):
    vectors, labels, queries = catalogue()
    vectors[41, 3] = poison
    with pytest.raises(InputError, match=r"entry 41 .*finite"):
        LabelIndex.build(vectors, labels, IndexConfig(backend=backend))
    queries[2, 0] = poison
    index = LabelIndex.build(*catalogue()[:2], IndexConfig(backend=backend))
    with pytest.raises(InputError, match=r"query 2 .*finite"):
        index.shortlist(queries, 3)


def test_vectors_that_are_not_unit_normalised_are_rejected():
    vectors, labels, _ = catalogue()
    vectors[5] *= 14
    with pytest.raises(InputError, match="entry 5 has norm 14"):
        LabelIndex.build(vectors, labels)


def test_labels_out_of_range_are_rejected():
    vectors, labels, _ = catalogue()
    with pytest.raises(InputError, match="carries label 399"):
        LabelIndex.build(vectors, labels, num_labels=399)


def test_queries_of_another_width_are_rejected():
    vectors, labels, queries = catalogue()
    with pytest.raises(InputError, match=r"\(7, 11\).*\(b, 12\)"):
        LabelIndex.build(vectors, labels).shortlist(queries[:, :11], 3)


def test_exact_similarity_is_the_maximum_over_all_entries_and_minus_infinity_for_padding():
    vectors, labels, queries = catalogue(labels=20)
    asked = np.array([[3, -1, 19, 0], [7, 7, 2, -1]], np.int32)
    got = LabelEntries.group(vectors, labels, 20).exact_similarity(queries[:2], asked)
    for i, query in enumerate(queries[:2]):
        truth = by_brute_force(vectors, labels, query) | {-1: -np.inf}
        np.testing.assert_allclose(got[i], [truth[label] for label in asked[i]], atol=1e-6)


def test_a_cosine_of_minus_zero_ties_with_zero():
    """The lower label comes first, whichever sign its zero has."""
    cosines = np.array([[-0.0, 0.0, -0.0]], np.float32)
    entries = LabelEntries(np.zeros((3, 1), np.float32), np.arange(4))
    labels, _ = entries.first_distinct(np.array([[0, 1, 2]]), cosines, 3)
    assert labels.tolist() == [[0, 1, 2]]
    labels, _ = best_first(np.array([[0, 1, 2]], np.int32), cosines, 3)
    assert labels.tolist() == [[0, 1, 2]]


@needs_scann
def test_a_row_with_too_few_entries_ends_in_padding():
    """ScaNN pads such a row with NaN and entry 0, but entry 0 exists."""
    vectors, _, queries = catalogue()
    tree = scann_module.Tree.build(vectors, 1)
    entries, cosines = tree.search(queries, len(vectors), share=1 / tree.leaves)  # one leaf
    assert ((entries >= 0).sum(1) < len(vectors)).all()
    np.testing.assert_array_equal(entries < 0, np.isneginf(cosines))
    for row in entries:
        real = row[row >= 0]
        assert len(set(real.tolist())) == len(real)


def test_a_warm_sharded_search_compiles_nothing_even_if_it_must_look_further(mesh, compilations):
    """The entries nearest to the queries are all of one label."""
    crowd = unit(np.ones((1, 12)) + 0.01 * np.random.default_rng(0).normal(size=(150, 12)))
    vectors, labels, queries = catalogue(labels=90)
    vectors, labels = np.concatenate([vectors, crowd]), np.append(labels, np.full(150, 90))
    index = LabelIndex.build(vectors, labels, SHARDED, mesh=mesh)
    index.warm_up(queries, 4)  # none of these queries is near the crowd
    compilations.clear()
    found = index.shortlist(np.repeat(crowd[:1], len(queries), axis=0), 4)
    assert (found.labels >= 0).all() and (found.labels[:, 0] == 90).all()
    assert compilations == []


class Unlucky(scann_module.Tree):
    """A tree that returns the first entry of every third label, whatever the query."""

    def search(self, queries, wanted, share=1.0):
        entries = np.tile(self.searcher[::3], (len(queries), 1))
        return entries, np.zeros(entries.shape, np.float32)


def test_a_label_has_its_exact_similarity_with_any_of_its_entries_returned():
    vectors, labels, queries = catalogue(labels=30)
    index = LabelIndex.build(vectors, labels, EXACT)
    tree = Unlucky(index.entries.offsets[:-1], len(index.entries.vectors), 1)
    searcher = TreeSearcher(index.entries, tree, IndexConfig())
    found = dataclasses.replace(index, searcher=searcher).shortlist(queries, 10)
    for query, row, similarities in zip(queries, found.labels, found.similarities, strict=True):
        truth = by_brute_force(vectors, labels, query)
        assert row.tolist() == sorted(range(0, 30, 3), key=truth.__getitem__, reverse=True)
        np.testing.assert_allclose(similarities, [truth[label] for label in row], atol=1e-6)


def test_a_wrong_entry_is_found_in_any_block(monkeypatch):
    monkeypatch.setattr(index_module, "_ROWS", 10)
    vectors, labels, _ = catalogue()
    vectors[[41, 57]] *= 3
    with pytest.raises(InputError, match=rf"entry 41 has norm 3; .*\(2 of {len(vectors)} are not"):
        LabelIndex.build(vectors, labels)


def test_auto_is_exact_below_a_thousand_entries_and_sharded_on_accelerators(monkeypatch, mesh):
    auto = IndexConfig()
    assert auto.search_over(999, 8, mesh) == "exact"
    assert auto.search_over(1000, 8, mesh) == ("scann" if scann_module.importable() else "exact")
    if scann_module.importable():  # its build holds the vectors twice
        monkeypatch.setattr(index_config, "host_memory", lambda: 2 * 4 * 8 * 1000 - 1)
        assert auto.search_over(1000, 8, mesh) == "sharded"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert (
        auto.search_over(999, 8, None) == "exact" and auto.search_over(1000, 8, None) == "sharded"
    )
    assert (
        SHARDED.search_over(7, 8, mesh) == "sharded" and EXACT.search_over(1000, 8, None) == "exact"
    )


_DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from entries import catalogue
from mufin_jax.retrieval import IndexConfig, LabelIndex
vectors, labels, queries = catalogue(seed=9)
index = LabelIndex.build(vectors, labels, IndexConfig(threads=int(sys.argv[2]), entries_searched=0))
found = index.shortlist(queries, 8)
print(hashlib.sha256(found.labels.tobytes() + found.similarities.tobytes()).hexdigest())
"""


@needs_scann
def test_two_processes_with_different_threads_build_the_same_index(request):
    folder = str(SUPPORT)
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST, folder, threads],
            cwd=request.config.rootpath, capture_output=True, text=True, check=True,
        ).stdout
        for threads in "12"
    ]  # fmt: skip
    assert len(digests[0]) == 65 and digests[0] == digests[1]


@needs_scann
def test_building_prints_nothing(capfd):
    LabelIndex.build(*catalogue()[:2])
    assert capfd.readouterr() == ("", "")


def test_a_small_tree_is_searched_whole_and_a_large_one_by_its_share_of_leaves():
    config = IndexConfig(leaves_searched=0.07, entries_searched=12_000)
    assert config.share(6_000, 400) == 2 and config.share(500_000, 400) == 0.07
    assert config.share(100_000, 400) == 0.12 and config.share(500_000, 200_000) == 0.4
    assert config.share(8_000_000, 400) == pytest.approx(0.14)


@needs_scann
def test_default_settings_find_nearly_all_of_the_nearest_labels():
    vectors, labels, queries = catalogue(labels=4_000, dimensions=32)
    found = LabelIndex.build(vectors, labels).shortlist(queries, 100)
    exact = LabelIndex.build(vectors, labels, EXACT).shortlist(queries, 100)
    assert recall(found, exact) >= 0.97


def test_recall_is_the_share_of_the_exact_labels_that_were_found():
    zeros = np.zeros((2, 3), np.float32)
    exact = Shortlist(np.array([[1, 2, 3], [4, 0, -1]], np.int32), zeros)
    found = Shortlist(np.array([[3, 9, 1], [2, 4, -1]], np.int32), zeros)
    assert recall(found, exact) == 3 / 5


@pytest.mark.parametrize(
    "wrong", [{"leaves_searched": 0.0}, {"reorder": 0}, {"threads": -1}, {"over_fetch": 0}]
)
def test_an_invalid_configuration_is_rejected(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        IndexConfig(**wrong)
