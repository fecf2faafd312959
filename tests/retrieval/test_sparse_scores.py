"""Scores of few labels as CSR rows: their best labels, lookups, and softmax weights, by hand."""

import numpy as np
from scipy.sparse import csr_matrix

from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.retrieval.sparse_scores import best_labels, product, scores_at, softmax_rows

SCORES = csr_matrix([[0, 0.5, 0, 0.5, 0.25], [0, 0, 0, 0, 0], [1, 0, -1, 0, 0]], dtype=np.float32)


def test_the_best_labels_come_first_and_ties_by_label():
    found = best_labels(SCORES, 2)
    assert found.labels.tolist() == [[1, 3], [-1, -1], [0, 2]]
    assert found.similarities.tolist() == [[0.5, 0.5], [-np.inf, -np.inf], [1, -1]]


def test_ties_at_the_end_of_a_list_go_to_the_smaller_label():
    tied = csr_matrix((np.ones(4), [4, 2, 3, 0], [0, 4]), (1, 5))
    assert best_labels(tied, 2).labels.tolist() == [[0, 2]]


def test_labels_that_are_not_stored_score_zero():
    labels = np.array([[4, 0, 3], [1, 2, -1], [-1, 2, 0]], np.int32)
    assert scores_at(SCORES, labels).tolist() == [[0.25, 0, 0.5], [0, 0, 0], [0, -1, 1]]


def test_lookups_do_not_require_sorted_rows():
    unsorted = csr_matrix((np.array([3.0, 1.0, 2.0]), [3, 1, 2], [0, 3]), (1, 5))
    assert scores_at(unsorted, np.array([[1, 2, 3, 4]], np.int32)).tolist() == [[1, 2, 3, 0]]


def test_a_product_of_few_rows_and_of_many_is_that_of_all_columns():
    """Few rows are multiplied in the columns that they have, many in all columns."""
    rng = np.random.default_rng(0)
    right = csr_matrix(np.where(rng.random((40, 30)) < 0.1, rng.normal(size=(40, 30)), 0))
    for share in (0.05, 1.0):
        left = csr_matrix(np.where(rng.random((7, 40)) < share, rng.normal(size=(7, 40)), 0))
        found = product(left, right)
        assert found.shape == (7, 30)
        np.testing.assert_allclose(found.toarray(), left.toarray() @ right.toarray(), atol=1e-12)
    assert product(csr_matrix((2, 40)), right).nnz == 0


def test_softmax_weights_are_of_the_listed_places_alone():
    lists = Shortlist(
        np.array([[2, 0], [1, -1], [-1, -1]], np.int32),
        np.array([[0.3, 0.1], [0.7, -np.inf], [-np.inf, -np.inf]], np.float32),
    )
    found = softmax_rows(lists, 0.1, 4).toarray()
    first = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(
        found, [[1 - first, 0, first, 0], [0, 1, 0, 0], [0, 0, 0, 0]], atol=1e-6
    )
