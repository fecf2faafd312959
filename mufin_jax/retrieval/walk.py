"""The co-purchase walk g: two steps over the training pairs rank labels without any content.

In product-to-product data, a query is usually a label itself: it was bought with other products.
The walk steps from the query to the training points that have it among their labels, and from each
point to its labels, and to the label that is the point itself:

    g(q -> l) = sum over points i of (Y_iq / n_i) (Y_il / n_i + [l is point i])

Y are the training pairs and n_i is the number of labels of point i. Rows that name one label are
the walk; rows that spread over several labels, such as a softmax over the nearest, are the soft
walk. A query costs what the rows of its points cost, for any number of labels.

A label with more than `POINTS` points, a hub, steps to so many of them: evenly spread over its
points in their order, with shares that are scaled to the same sum. Other labels step to all of
their points.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import scipy.sparse
from jaxtyping import Float64, Int, Int64
from scipy.sparse import csr_matrix

from mufin_jax.retrieval.sparse_scores import product

PRODUCTS = 1 << 22
"""Bound on the multiplications of a block of queries, and so on its memory (~0.2 GB)."""
POINTS = 1000
"""Points that a label steps to, at most. It bounds the time of a query that meets hubs."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """The two steps of the walk; `Walk.build` makes them.

    Attributes:
        to_points: labels x points, Y_iq / n_i; at most `POINTS` a label.
        to_labels: points x labels, Y_il / n_i + [l is point i].
        counts: n_i.
    """

    to_points: csr_matrix
    to_labels: csr_matrix
    counts: Int64[np.ndarray, " points"]

    @classmethod
    def build(cls, pairs: csr_matrix, own: Int[np.ndarray, " points"]) -> "Walk":
        """Return the walk over training pairs.

        Args:
            pairs: training points x labels, nonzero where relevant, without the pairs of the
                overlap filter: the first matrix of `data.dataset.training_pairs`.
            own: the label that each point is itself, -1 if there is none (`own_labels`).
        """
        pairs = csr_matrix(pairs, dtype=bool, copy=True)
        pairs.eliminate_zeros()
        counts = np.diff(pairs.indptr)
        # float64: sums of equal shares in another order stay equal when compared as float32.
        shares = np.repeat(1 / np.maximum(counts, 1), counts)
        steps = csr_matrix((shares, pairs.indices, pairs.indptr), pairs.shape)
        points = np.flatnonzero(own >= 0)
        itself = csr_matrix((np.ones(len(points)), (points, own[points])), pairs.shape)
        return cls(
            _capped(csr_matrix(steps.T)), csr_matrix(steps + itself), counts.astype(np.int64)
        )

    def to_others(self, pairs: csr_matrix) -> "Walk":
        """Return the walk from the same labels, by the same points, to other labels.

        Args:
            pairs: training points x other labels, nonzero where relevant.
        """
        shares = scipy.sparse.diags(1 / np.maximum(self.counts, 1))
        return dataclasses.replace(self, to_labels=csr_matrix(shares @ (pairs != 0)))

    @property
    def num_labels(self) -> int:
        """L, the number of labels."""
        return len(self.to_points.indptr) - 1

    @functools.cached_property
    def _cost(self) -> Float64[np.ndarray, " labels"]:
        """Multiplications of the walk from each label; made once, as it reads all pairs."""
        return _ones(self.to_points) @ np.diff(self.to_labels.indptr)

    def scores(self, queries: csr_matrix) -> csr_matrix:
        """Return the walk's score of every label that it reaches, queries x labels.

        All queries are one block: `blocks` bounds the memory.

        Args:
            queries: queries x labels; a row says which labels stand for the query.
        """
        return product(product(queries, self.to_points), self.to_labels)

    def blocks(self, queries: csr_matrix) -> Iterator[tuple[slice, csr_matrix]]:
        """Yield runs of queries that cost at most `PRODUCTS` (at least one), and their scores.

        Args:
            queries: queries x labels; a row says which labels stand for the query.
        """
        cost = np.cumsum(_ones(queries) @ self._cost)
        start = 0
        while start < len(cost):
            spent = cost[start - 1] if start else 0
            stop = max(int(np.searchsorted(cost, spent + PRODUCTS, "right")), start + 1)
            yield slice(start, stop), self.scores(csr_matrix(queries[start:stop]))
            start = stop


def one_hot(labels: Int[np.ndarray, " n"], num_labels: int) -> csr_matrix:
    """Return queries x labels with a 1 at the label of each query; -1 leaves a row empty."""
    known = labels >= 0
    indptr = np.concatenate([[0], np.cumsum(known)])
    return csr_matrix((np.ones(indptr[-1]), labels[known], indptr), (len(labels), num_labels))


def _capped(to_points: csr_matrix) -> csr_matrix:
    """Return the first step in which no label has more than `POINTS` points."""
    counts = np.diff(to_points.indptr)
    hubs = np.flatnonzero(counts > POINTS)
    if not len(hubs):
        return to_points
    kept, shares = np.ones(to_points.nnz, bool), to_points.data.copy()
    for label in hubs:
        first, count = to_points.indptr[label], counts[label]
        chosen = first + np.arange(POINTS) * count // POINTS
        span = slice(first, first + count)
        kept[span] = False
        kept[chosen] = True
        shares[chosen] *= to_points.data[span].sum() / to_points.data[chosen].sum()
    starts = np.concatenate([[0], np.cumsum(np.minimum(counts, POINTS))])
    return csr_matrix((shares[kept], to_points.indices[kept], starts), to_points.shape)


def _ones(matrix: csr_matrix) -> csr_matrix:
    """Return ones where the matrix stores anything."""
    return csr_matrix((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape)
