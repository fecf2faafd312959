"""The co-purchase walk g: two steps over the training pairs rank labels without any content.

In product-to-product data, a query is usually a label itself: it was bought with other products.
The walk steps from the query to the training points that have it among their labels, and from each
point to its labels, and to the label that is the point itself:

    g(q -> l) = sum over points i of (Y_iq / n_i) (Y_il / n_i + [l is point i])

Y are the training pairs and n_i is the number of labels of point i. Rows that name one label are
the walk; rows that spread over several labels, such as a softmax over the nearest, are the soft
walk. A query costs what the rows of its points cost, for any number of labels.
"""

import dataclasses
from collections.abc import Iterator
from typing import cast

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

PRODUCTS = 1 << 22
"""Bound on the multiplications of a block of queries, and so on its memory (~0.2 GB)."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """The two steps of the walk; `Walk.build` makes them.

    Attributes:
        to_points: labels x points, Y_iq / n_i.
        to_labels: points x labels, Y_il / n_i + [l is point i].
    """

    to_points: csr_matrix
    to_labels: csr_matrix

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
        return cls(csr_matrix(steps.T), csr_matrix(steps + itself))

    @property
    def num_labels(self) -> int:
        """L, the number of labels."""
        return len(self.to_points.indptr) - 1

    def scores(self, queries: csr_matrix) -> csr_matrix:
        """Return the walk's score of every label that it reaches, queries x labels.

        All queries are one block: `blocks` bounds the memory.

        Args:
            queries: queries x labels; a row says which labels stand for the query.
        """
        return _product(_product(queries, self.to_points), self.to_labels)

    def blocks(self, queries: csr_matrix) -> Iterator[tuple[slice, csr_matrix]]:
        """Yield runs of queries that cost at most `PRODUCTS` (at least one), and their scores.

        Args:
            queries: queries x labels; a row says which labels stand for the query.
        """
        per_label = _ones(self.to_points) @ np.diff(self.to_labels.indptr)
        cost = np.cumsum(_ones(queries) @ per_label)
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


def _ones(matrix: csr_matrix) -> csr_matrix:
    """Return ones where the matrix stores anything."""
    return csr_matrix((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape)


def _product(left: csr_matrix, right: csr_matrix) -> csr_matrix:
    """Return left @ right at the cost of the rows that take part.

    SciPy's product also costs a row of all columns, which is most of one query's time.
    """
    (count, _), (_, width) = (cast(tuple[int, int], side.shape) for side in (left, right))
    rows, place = np.unique(left.indices, return_inverse=True)
    left = csr_matrix((left.data, place, left.indptr), (count, len(rows)))
    taken = csr_matrix(right[rows])
    columns, place = np.unique(taken.indices, return_inverse=True)
    small = csr_matrix((taken.data, place, taken.indptr), (len(rows), len(columns)))
    found = csr_matrix(left @ small)
    return csr_matrix((found.data, columns[found.indices], found.indptr), (count, width))
