"""The co-purchase walk: its scores by hand, its blocks, and its figures on a real catalogue."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.data import readers
from mufin_jax.data.own_labels import own_labels
from mufin_jax.data.preparation.overlap import overlap_filter
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.strings import Strings
from mufin_jax.evaluation.metrics import rank, spare_places
from mufin_jax.evaluation.rankings import evaluate_ranking
from mufin_jax.retrieval import walk as walk_module
from mufin_jax.retrieval.walk import Walk, one_hot

PAIRS = csr_matrix([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0]])
OWN = np.array([2, -1])  # point 0 is label 2
WALK = Walk.build(PAIRS, OWN)
FROM_1 = [1 / 4, 1 / 4 + 1 / 9, 1 / 2 + 1 / 9, 1 / 9, 0]


def dense(queries):
    return WALK.scores(csr_matrix(queries)).toarray()


def test_a_query_reaches_the_labels_of_its_points_and_the_points_themselves():
    found = WALK.scores(one_hot(np.array([1, 0, 4, -1]), 5))
    from_0 = [1 / 4, 1 / 4, 1 / 2, 0, 0]
    np.testing.assert_allclose(found.toarray(), [FROM_1, from_0, [0] * 5, [0] * 5], atol=1e-12)
    assert np.diff(found.indptr).tolist() == [4, 3, 0, 0]  # labels not reached have no entry


def test_a_soft_query_is_the_sum_of_its_labels_walks():
    alone = dense(np.eye(5))
    mixed = dense([[0.5, 0, 0.25, 0, 0.25], [0, 1, 0, 0, 0]])
    np.testing.assert_allclose(mixed, [0.5 * alone[0] + 0.25 * alone[2], FROM_1], atol=1e-12)


def test_pairs_stored_as_zero_are_no_pairs():
    stored = csr_matrix(np.ones((2, 5)))
    stored.data[:] = PAIRS.toarray().ravel()
    found = Walk.build(stored, OWN).to_points.toarray()
    np.testing.assert_array_equal(found, WALK.to_points.toarray())
    assert stored.nnz == 10  # the argument is not changed


def test_scores_do_not_depend_on_the_blocks(monkeypatch):
    queries = one_hot(np.array([1, -1, 3, 0, 4]), 5)
    monkeypatch.setattr(walk_module, "PRODUCTS", 4)
    found = list(WALK.blocks(queries))
    assert [(rows.start, rows.stop) for rows, _ in found] == [(0, 1), (1, 3), (3, 5)]
    joined = np.concatenate([scores.toarray() for _, scores in found])
    np.testing.assert_array_equal(joined, WALK.scores(queries).toarray())


def test_a_hub_steps_to_evenly_spread_points_with_the_same_sum_of_shares(monkeypatch):
    rng = np.random.default_rng(1)
    pairs = rng.random((30, 6)) < 0.1
    pairs[:, 0] = np.arange(30) % 30 < 25  # the hub
    walks = [Walk.build(csr_matrix(pairs), np.full(30, -1))]
    assert np.diff(walks[0].to_points.indptr).max() == 25
    for most in (25, 4):
        monkeypatch.setattr(walk_module, "POINTS", most)
        walks.append(Walk.build(csr_matrix(pairs), np.full(30, -1)))
    whole, same, capped = (one.to_points.toarray() for one in walks)
    np.testing.assert_array_equal(same, whole)  # the bound is not reached
    chosen = np.flatnonzero(capped[0])
    assert chosen.tolist() == [0, 6, 12, 18]
    np.testing.assert_allclose(capped[0].sum(), whole[0].sum())
    np.testing.assert_allclose(np.ptp(capped[0, chosen] / whole[0, chosen]), 0, atol=1e-12)
    few = (whole > 0).sum(1) <= 4
    assert few.any() and (capped > 0).sum(1).max() == 4
    np.testing.assert_array_equal(capped[few], whole[few])
    np.testing.assert_array_equal(walks[2].to_labels.toarray(), walks[0].to_labels.toarray())


def test_a_block_costs_the_bound_on_its_multiplications_at_most(monkeypatch):
    rng = np.random.default_rng(0)
    pairs = csr_matrix(rng.random((60, 40)) < 0.2)
    walk = Walk.build(pairs, rng.integers(-1, 40, 60))
    monkeypatch.setattr(walk_module, "PRODUCTS", 300)
    steps = pairs.toarray().astype(int)
    cost = steps.T @ np.diff(walk.to_labels.indptr)
    queries = one_hot(np.arange(40), 40)
    for rows, scores in walk.blocks(queries):
        assert cost[rows].sum() <= 300 or rows.stop - rows.start == 1
        assert scores.shape == (rows.stop - rows.start, 40)


def test_the_walk_alone_ranks_a_real_catalogue_well(shared_data):
    catalogue = readers.load_catalogue(shared_data("ikea") / "converted", Tally(0.05), 15, 10**8)
    _, filters = overlap_filter(catalogue, "reciprocal")
    train, test = catalogue.relevance["train"], catalogue.relevance["test"]
    ids = {name: Strings.pack(side.ids) for name, side in catalogue.sides.items()}
    walk = Walk.build(
        csr_matrix(train - train.multiply(filters["train"])), own_labels(ids["train"], ids["label"])
    )
    scores = walk.scores(one_hot(own_labels(ids["test"], ids["label"]), len(ids["label"])))
    ranking = rank(scores, 100 + spare_places(filters["test"]))
    found = evaluate_ranking(ranking, test, filters["test"], train)
    expected = {"P@1": 94.5, "P@5": 68.2, "R@10": 90.8}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.05)
