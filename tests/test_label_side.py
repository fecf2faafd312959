"""Claims about the label side of retrieval: which entries a label has, and what is found."""

import numpy as np
import pytest
from scipy import sparse

from mufin_jax.embedding import SideEmbedding
from mufin_jax.label_side import build_index, centroids, embed_dataset, shortlist
from mufin_jax.retrieval import IndexConfig

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


def test_a_centroid_is_the_unit_mean_of_the_labels_points_whatever_their_weights():
    owners, means = centroids(RELEVANCE, X)
    assert owners.tolist() == [0, 2]  # label 1 has no point; those of label 3 have no direction
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5, 0], [0, 0.6, 0.8]], atol=1e-6)


def test_a_label_enters_with_its_bag_and_its_centroid_all_of_unit_length(labels):
    entries = build_index(labels, RELEVANCE, X, EXACT).entries
    assert np.diff(entries.offsets).tolist() == [3, 1, 1, 1]
    half = 0.5**0.5
    expected = [[1, 0, 0], [0, 1, 0], [half, half, 0], [0, 0, 1], [0, 0.6, 0.8], [0.6, 0.8, 0]]
    np.testing.assert_allclose(entries.vectors, expected, atol=1e-6)


def test_pooled_labels_enter_once_and_without_centroid(labels):
    entries = build_index(labels, RELEVANCE, X, EXACT, pooled=True).entries
    assert np.diff(entries.offsets).tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(entries.vectors, labels.vector[[0, 1, 3]], atol=1e-6)


def test_a_label_is_found_by_its_best_entry_and_a_datapoint_of_nothing_finds_nothing(labels):
    index = build_index(labels, RELEVANCE, X, EXACT)
    queries = np.array([[0.8, 0.6, 0], [0, 0, 0], [0, 0, 1]], np.float32)
    found = shortlist(index, queries, k=3)
    assert found.labels.tolist() == [[0, 3, 2], [-1, -1, -1], [1, 2, 0]]
    # Label 0 by its centroid, 1.4 sqrt(1/2); 3 by .8 .6 + .6 .8; 2 by .6 .6.
    np.testing.assert_allclose(found.similarities[0], [1.4 * 0.5**0.5, 0.96, 0.36], atol=1e-6)
    assert np.isneginf(found.similarities[1]).all()


def test_no_datapoint_at_all_gives_an_empty_shortlist(labels):
    index = build_index(labels, RELEVANCE, X, EXACT)
    assert shortlist(index, np.zeros((0, 3), np.float32), k=3).labels.shape == (0, 3)


def test_all_three_sides_are_embedded_and_only_labels_keep_their_bags(dataset, model):
    from mufin_jax.data.loader import Loader

    embedded = embed_dataset(model, Loader(dataset, "both", model.mesh.size))
    sizes = [len(side.vector) for side in (embedded.train, embedded.test, embedded.labels)]
    assert sizes == [26, 11, 13]
    assert embedded.train.bag is None and embedded.labels.bag.shape == (13, 4, 6)
