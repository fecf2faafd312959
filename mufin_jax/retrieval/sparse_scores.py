"""Scores of few labels a datapoint, as CSR rows: the best of them, and those of given labels."""

from typing import cast

import numpy as np
from jaxtyping import Float32, Int32
from scipy.sparse import csr_matrix

from mufin_jax.retrieval.shortlist import Shortlist


def best_labels(scores: csr_matrix, k: int) -> Shortlist:
    """Return the k labels of largest score of each row, best first, ties by label.

    Every stored pair counts; a row with fewer of them ends in -1 and -inf.

    Args:
        scores: datapoints x labels, each pair stored once.
        k: the length of a list.
    """
    rows = len(scores.indptr) - 1
    found = Shortlist(np.full((rows, k), -1, np.int32), np.full((rows, k), -np.inf, np.float32))
    for row in range(rows):
        span = slice(scores.indptr[row], scores.indptr[row + 1])
        labels, values = scores.indices[span], scores.data[span].astype(np.float32)
        if len(values) > k:  # all that tie with the k-th best stay in: the label decides
            enough = values >= np.partition(values, -k)[-k]
            labels, values = labels[enough], values[enough]
        order = np.lexsort((labels, -values))[:k]
        found.labels[row, : len(order)] = labels[order]
        found.similarities[row, : len(order)] = values[order]
    return found


def scores_at(scores: csr_matrix, labels: Int32[np.ndarray, "b c"]) -> Float32[np.ndarray, "b c"]:
    """Return the scores of labels; 0 for a label that a row does not store, and for label -1.

    Args:
        scores: datapoints x labels, each pair stored once.
        labels: of each datapoint.
    """
    values = np.zeros(labels.shape, np.float32)
    for row, chosen in enumerate(labels):
        span = slice(scores.indptr[row], scores.indptr[row + 1])
        order = np.argsort(scores.indices[span], kind="stable")
        stored, data = scores.indices[span][order], scores.data[span][order]
        if len(stored):
            place = np.minimum(np.searchsorted(stored, chosen), len(stored) - 1)
            values[row] = np.where(stored[place] == chosen, data[place], 0)
    return values


def softmax_rows(lists: Shortlist, temperature: float, width: int) -> csr_matrix:
    """Return shortlists as CSR rows whose values are the softmax of the similarities.

    Args:
        lists: of distinct numbers below `width`; places without one take no part.
        temperature: divides the similarities.
        width: the number of columns.
    """
    real = lists.labels >= 0
    best = np.where(real, lists.similarities, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    shifted = np.where(real, lists.similarities - np.where(np.isfinite(best), best, 0), 0)
    weights = np.where(real, np.exp(shifted.astype(np.float64) / temperature), 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    indptr = np.concatenate([[0], np.cumsum(real.sum(1))])
    return csr_matrix((weights[real], lists.labels[real], indptr), (len(real), width))


def share_rows(lists: Shortlist, width: int) -> csr_matrix:
    """Return shortlists as CSR rows whose values are the similarities divided by their sum.

    Args:
        lists: of distinct numbers below `width`, similarities >= 0; free places take no part.
        width: the number of columns.
    """
    real = lists.labels >= 0
    weights = np.where(real, lists.similarities, 0).astype(np.float64)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    indptr = np.concatenate([[0], np.cumsum(real.sum(1))])
    return csr_matrix((weights[real], lists.labels[real], indptr), (len(real), width))


def product(left: csr_matrix, right: csr_matrix) -> csr_matrix:
    """Return left @ right at the cost of the rows that take part.

    SciPy's product also costs a row of all columns, which is most of one query's time.
    """
    (count, _), (_, width) = (cast(tuple[int, int], side.shape) for side in (left, right))
    rows, place = np.unique(left.indices, return_inverse=True)
    left = csr_matrix((left.data, place, left.indptr), (count, len(rows)))
    taken = csr_matrix(right[rows])
    if taken.nnz > width:  # to find the columns that take part would cost more than all columns
        return csr_matrix(left @ taken)
    columns, place = np.unique(taken.indices, return_inverse=True)
    small = csr_matrix((taken.data, place, taken.indptr), (len(rows), len(columns)))
    found = csr_matrix(left @ small)
    return csr_matrix((found.data, columns[found.indices], found.indptr), (count, width))
