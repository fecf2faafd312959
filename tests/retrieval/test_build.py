"""Claims about the label side of retrieval: which entries a label has, and what is found."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from mufin_jax.model.embed_side import SideEmbedding
from mufin_jax.retrieval.build import centroids, complete_index, entry_writer, write_shortlists
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex, shortlist_points
from mufin_jax.retrieval.searcher import MeshSearcher
from mufin_jax.retrieval.sharded import MeshSearch
from mufin_jax.retrieval.shortlist import Shortlist

EXACT = IndexConfig(backend="exact")
# Four labels in three dimensions: two descriptors, one, none, and one.
MASK = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], bool)
BAGS = np.array(
    [
        [[2, 0, 0], [0, 3, 0]],
        [[9, 9, 9], [0, 0, 5]],
        [[7, 0, 0], [7, 0, 0]],
        [[3, 4, 0], [1, 1, 1]],
    ],
    np.float32,
)
# Label 0 has the points 0 and 1, label 2 the point 2, label 3 two points that cancel out.
RELEVANCE = sparse.csr_matrix(
    np.array([[1, 0, 0, 0], [3, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]], np.float32)
)
X = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [1, 0, 0], [-1, 0, 0]], np.float32)


@pytest.fixture
def labels():
    vectors = np.where(MASK[..., None], BAGS, 0).sum(1)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return SideEmbedding(vectors / np.where(norms > 0, norms, 1), BAGS, MASK)


@pytest.fixture
def build(labels, tmp_path, one_device):
    """Return a function that builds an index of the labels, in blocks of a given size."""

    def make(pooled=False, block=4, relevance=RELEVANCE) -> LabelIndex:
        with entry_writer(tmp_path / "index", relevance, X, pooled) as entries:
            for start in range(0, len(MASK), block):
                rows = np.arange(start, min(start + block, len(MASK)))
                part = SideEmbedding(labels.vector[rows], BAGS[rows], MASK[rows])
                entries.append(rows, part)
        complete_index(tmp_path / "index", entries.offsets(), EXACT, one_device)
        return LabelIndex.load(tmp_path / "index", one_device)

    return make


def test_a_centroid_is_the_unit_mean_of_the_labels_points_without_weights(build):
    owners, means = centroids(RELEVANCE.astype(bool).astype(np.float32).T.tocsr(), X)
    assert owners.tolist() == [0, 2]  # label 1 has no point; those of label 3 have no direction
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5, 0], [0, 0.6, 0.8]], atol=1e-6)
    weighted = build().entries.vectors  # one point of label 0 has three times the other's weight
    np.testing.assert_array_equal(build(relevance=RELEVANCE.astype(bool)).entries.vectors, weighted)


@pytest.mark.parametrize("block", [1, 3, 4])
def test_a_label_enters_with_its_bag_and_its_centroid_all_of_unit_length(build, block):
    entries = build(block=block).entries
    assert np.diff(entries.offsets).tolist() == [3, 1, 1, 1]
    half = 0.5**0.5
    expected = [[1, 0, 0], [0, 1, 0], [half, half, 0], [0, 0, 1], [0, 0.6, 0.8], [0.6, 0.8, 0]]
    np.testing.assert_allclose(entries.vectors, expected, atol=1e-6)


@pytest.mark.parametrize("block", [3, 4])
def test_pooled_labels_enter_once_and_without_centroid(build, labels, block):
    entries = build(pooled=True, block=block).entries
    assert np.diff(entries.offsets).tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(entries.vectors, labels.vector[[0, 1, 3]], atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_entries_written_in_blocks_are_bit_identical_to_those_grouped_in_memory(
    tmp_path, one_device, size
):
    rng, count, dim = np.random.default_rng(0), 64, 5
    mask = rng.random((count, 3)) < 0.6
    bag = rng.normal(size=(count, 3, dim)).astype(np.float32)
    x = rng.normal(size=(90, dim)).astype(np.float32)
    relevance = sparse.random_array((90, count), density=0.05, rng=rng, format="csr")
    with entry_writer(tmp_path, sparse.csr_matrix(relevance), x) as entries:
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            entries.append(rows, SideEmbedding(bag[rows, 0], bag[rows], mask[rows]))
    complete_index(tmp_path, entries.offsets(), EXACT, one_device)
    found = LabelIndex.load(tmp_path, one_device).entries
    vectors = bag[mask] / np.linalg.norm(bag[mask], axis=1, keepdims=True)
    sums = np.asarray(relevance.astype(bool).astype(np.float32).T @ x)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    (central,) = np.nonzero(norms[:, 0])
    wanted = LabelEntries.group(
        np.concatenate([vectors, sums[central] / norms[central]]),
        np.concatenate([np.nonzero(mask)[0], central]),
        count,
    )
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    np.testing.assert_array_equal(found.vectors, wanted.vectors)


def test_a_label_is_found_by_its_best_entry_and_an_empty_datapoint_finds_nothing(build):
    queries = np.array([[0.8, 0.6, 0], [0, 0, 0], [0, 0, 1]], np.float32)
    found = shortlist_points(build(), queries, k=3)
    assert found.labels.tolist() == [[0, 3, 2], [-1, -1, -1], [1, 2, 0]]
    # Label 0 by its centroid, 1.4 sqrt(1/2); 3 by .8 .6 + .6 .8; 2 by .6 .6.
    np.testing.assert_allclose(found.similarities[0], [1.4 * 0.5**0.5, 0.96, 0.36], atol=1e-6)
    assert np.isneginf(found.similarities[1]).all()


def test_no_datapoints_give_an_empty_shortlist(build, tmp_path):
    index = build()
    assert shortlist_points(index, np.zeros((0, 3), np.float32), k=3).labels.shape == (0, 3)
    write_shortlists(index, iter([]), 0, 3, tmp_path / "none")
    assert Shortlist.load(tmp_path / "none").labels.shape == (0, 3)


def test_the_manifest_of_a_side_appears_last(build, tmp_path, monkeypatch):
    renamed, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renamed.append(Path(b).name), replace(a, b)))
    index, renamed[:] = build(), []
    write_shortlists(index, iter([X]), len(X), 2, tmp_path / "train")
    assert renamed == ["similarities.npy", "labels.npy", "manifest.json"]


def test_a_sharded_index_is_written_without_placing_its_entries(
    labels, tmp_path, monkeypatch, mesh
):
    monkeypatch.setattr(MeshSearch, "build", None)
    with entry_writer(tmp_path / "index", RELEVANCE, X) as entries:
        entries.append(np.arange(4), labels)
    complete_index(tmp_path / "index", entries.offsets(), IndexConfig(backend="sharded"), mesh)
    monkeypatch.undo()
    index = LabelIndex.load(tmp_path / "index", mesh)
    assert isinstance(index.searcher, MeshSearcher) and index.config.backend == "sharded"


def test_shortlists_written_in_blocks_equal_those_made_at_once(build, tmp_path):
    queries = np.concatenate([X, -X, X[:1] * 0])
    index, blocks = build(), (queries[start : start + 4] for start in range(0, 11, 4))
    write_shortlists(index, blocks, 11, 2, tmp_path / "train")
    found, wanted = Shortlist.load(tmp_path / "train"), shortlist_points(index, queries, 2)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.similarities, wanted.similarities)
