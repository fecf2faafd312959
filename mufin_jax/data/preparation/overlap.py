"""The overlap filter: (datapoint, label) pairs that are too easy to be scored.

A catalogue's products are on both sides, so a point can be its own label. Also, a test pair can be
the reverse of a training pair.
"""

from typing import Literal

import numpy as np
import scipy.sparse
from jaxtyping import Int64

from mufin_jax.data.readers.catalogue import Catalogue, RawSide

Overlap = Literal["given", "self", "reciprocal"]


def overlap_filter(
    catalogue: Catalogue, choice: Overlap
) -> tuple[Overlap, dict[str, scipy.sparse.csr_matrix]]:
    """Return the filtered pairs of both sides.

    Two items are the same if their whole ids are equal, including comma-joined ids.

    Args:
        catalogue: as its reader returned it.
        choice:
            "given": the catalogue's filter files; if one side has none, its filter is empty; if
                neither has one, as "reciprocal".
            "self": each point with the label that is the same item.
            "reciprocal": "self", and for testing every relevant pair (b, a) such that label b is
                relevant to the training point a.

    Returns:
        The choice that took effect, and CSR matrices of points x labels by "train" and "test".
    """
    if choice == "given" and catalogue.filters is not None:
        return choice, catalogue.filters
    choice = "reciprocal" if choice == "given" else choice
    label = catalogue.sides["label"]
    label_of = {uid: i for i, uid in enumerate(label.ids) if label.kept[i]}
    own = {name: _own_label(catalogue.sides[name], label_of) for name in ("train", "test")}
    filters = {name: own_pairs(labels, len(label)) for name, labels in own.items()}
    if choice == "reciprocal":
        train, test = (catalogue.relevance[name] for name in ("train", "test"))
        turned = reversed_pairs(train, own["train"], test, own["test"], len(label))
        filters["test"] = _ones(filters["test"] + turned)
    return choice, filters


def own_pairs(own: Int64[np.ndarray, " n"], num_labels: int) -> scipy.sparse.csr_matrix:
    """Return each point's pair with its own label; -1 in `own` is a point without one."""
    points = np.flatnonzero(own >= 0)
    ones = np.ones(len(points), np.float32)
    return scipy.sparse.csr_matrix((ones, (points, own[points])), (len(own), num_labels))


def reversed_pairs(
    trained: scipy.sparse.csr_matrix,
    trained_own: Int64[np.ndarray, " n"],
    relevance: scipy.sparse.csr_matrix,
    own: Int64[np.ndarray, " b"],
    num_labels: int,
) -> scipy.sparse.csr_matrix:
    """Return the relevant pairs (b, a) of some points whose reverse (a, b) is trained on.

    Args:
        trained: pairs of training points x labels.
        trained_own: the label that is the same item as each training point, or -1.
        relevance: of the points b, over the same labels.
        own: their own labels.
        num_labels: the number of labels.
    """
    pairs = trained.tocoo()
    # A training pair (row a, column b) as (label b, label a), if point a is also a label.
    both = trained_own[pairs.row] >= 0
    turned = scipy.sparse.csr_matrix(
        (np.ones(both.sum(), np.float32), (pairs.col[both], trained_own[pairs.row[both]])),
        (num_labels, num_labels),
    )
    reverse = scipy.sparse.csr_matrix(own_pairs(own, num_labels) @ turned)
    return scipy.sparse.csr_matrix(reverse.multiply(relevance))


def _own_label(side: RawSide, label_of: dict[str, int]) -> Int64[np.ndarray, " n"]:
    """Return the label that is the same item as each point, or -1."""
    own = [label_of.get(uid, -1) for uid in side.ids]
    return np.where(side.kept, np.array(own, np.int64), -1)


def _ones(matrix: scipy.sparse.spmatrix) -> scipy.sparse.csr_matrix:
    matrix = scipy.sparse.csr_matrix(matrix)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.data[:] = 1
    return matrix
