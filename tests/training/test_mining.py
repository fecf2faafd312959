"""Claims about which examples a step learns from."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from mufin_jax.data.dataset import training_pairs
from mufin_jax.training.mining import (
    candidates,
    clustered_order,
    draw,
    draw_positives,
    row,
    thinned,
)

# Label 0 has the points 0..5, label 1 the point 3, label 2 none.
POINTS_OF = sparse.csr_matrix(np.array([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0], [0] * 6], bool))


def on_circle(cosines) -> np.ndarray:
    """Unit vectors of the plane with these cosines to the first axis."""
    cosines = np.array(cosines)
    return np.stack([cosines, np.sqrt(1 - cosines**2)], 1)


def positives(count, seed=0, labels=(0,), **embeddings):
    rng = np.random.default_rng(seed)
    return draw_positives(POINTS_OF, np.array(labels), count, rng, **embeddings)


def test_only_hard_positives_are_drawn_if_there_are_any():
    z, x = on_circle([1.0, 1, 1]), on_circle([0.95, 0.5, 0.91, 0.89, 0.99, -0.3])
    seen = {int(p) for s in range(50) for p in positives(2, s, z=z, x=x, limit=0.9)[0].ravel()}
    assert seen == {1, 3, 5}


def test_a_similarity_equal_to_the_limit_is_hard():
    z, x = np.array([[1.0, 0]] * 3), np.array([[0.75, 0]] + [[0.875, 0]] * 5)
    chosen, real = positives(3, z=z, x=x, limit=0.75)
    assert chosen[real].tolist() == [0]


def test_without_hard_positives_the_least_similar_are_taken():
    z, x = on_circle([1.0, 1, 1]), on_circle([0.95, 0.92, 0.97, 0.91, 0.99, 0.96])
    chosen, real = positives(2, z=z, x=x, limit=0.9)
    assert real.all() and set(chosen[0]) == {1, 3}


def test_a_limit_of_one_draws_uniformly_among_all():
    z, x = on_circle([1.0, 1, 1]), on_circle([1.0, 1, 1, 1, 1, 1])
    draws = [positives(2, seed, z=z, x=x, limit=1.0)[0] for seed in range(600)]
    share = np.bincount(np.concatenate(draws).ravel(), minlength=6) / 600
    np.testing.assert_allclose(share, 1 / 3, atol=0.08)


def test_short_sets_are_masked_and_never_repeated():
    chosen, real = positives(4, labels=(1, 0, 2))
    assert real.tolist() == [[True, False, False, False], [True] * 4, [False] * 4]
    assert chosen[0, 0] == 3 and len(set(chosen[1])) == 4


def test_the_same_generator_draws_the_same():
    first, second, other = (positives(3, seed, labels=(0, 1))[0] for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_a_draw_is_of_distinct_candidates_and_all_of_them_if_there_are_few():
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = draw(np.array([3, 5, 8, 9]), 3, rng)
        assert len(set(drawn)) == 3 and set(drawn) <= {3, 5, 8, 9}
    assert set(draw(np.array([3, 5]), 12, rng)) == {3, 5}


def test_negatives_are_never_blocked_nor_padding():
    shortlist, blocked = np.array([6, 2, 9, 4, -1, -1]), np.array([9, 0, 6])
    assert candidates(shortlist, blocked).tolist() == [2, 4]


def test_the_best_negative_can_be_left_out():
    shortlist, blocked = np.array([6, 2, 9, 4, -1]), np.array([6])
    assert candidates(shortlist, blocked, drop_best=True).tolist() == [9, 4]
    assert candidates(np.array([-1]), blocked, drop_best=True).tolist() == []


@pytest.fixture
def side(dataset):
    """Three points by four labels, of whose pairs three are in the overlap filter."""
    relevance = sparse.csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]], np.float32))
    overlap = sparse.csr_matrix(np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]], np.float32))
    return dataclasses.replace(dataset.train, relevance=relevance, filter=overlap)


def test_pairs_of_the_overlap_filter_are_neither_positives_nor_negatives(side):
    relevance, blocked = training_pairs(side)
    assert [row(relevance, i).tolist() for i in range(3)] == [[1], [2], [1]]
    assert [sorted(row(blocked, i).tolist()) for i in range(3)] == [[0, 1], [2, 3], [1, 3]]


def test_without_a_filter_only_relevant_pairs_are_blocked(side):
    for empty in (None, sparse.csr_matrix((3, 4), dtype=np.float32)):
        relevance, blocked = training_pairs(dataclasses.replace(side, filter=empty))
        assert relevance.nnz == 5 and (relevance != blocked).nnz == 0


def test_clustered_order_is_a_permutation_with_similar_labels_next_to_each_other():
    rng = np.random.default_rng(1)
    centres = np.eye(6)
    group = rng.permutation(np.repeat(np.arange(4), 8))
    vectors = centres[group] + 0.05 * rng.normal(size=(32, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = clustered_order(vectors, 8, np.random.default_rng(2))
    assert sorted(order) == list(range(32))
    assert all(len(set(group[order[i : i + 8]])) == 1 for i in range(0, 32, 8))


def test_the_order_of_clusters_is_random_but_reproducible():
    vectors = np.random.default_rng(3).normal(size=(37, 5))
    orders = [clustered_order(vectors, 4, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any() and sorted(orders[2]) == list(range(37))


def test_equal_vectors_still_make_a_permutation():
    order = clustered_order(np.zeros((11, 3)), 2, np.random.default_rng(0))
    assert sorted(order) == list(range(11))


def test_thinned_rows_of_few_candidates_keep_them_and_nothing_else():
    given = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    kept = thinned(given, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(kept[:2], given[:2])
    assert kept[2].sum() == 3
