"""The overlap filter: (datapoint, label) pairs that are too easy to be scored.

A catalogue's products are on both sides, so a point can be its own label. Also, a test pair can be
the reverse of a training pair.
"""

from typing import Literal

import numpy as np
import scipy.sparse

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
    filters = {}
    for name in ("train", "test"):
        own = _own_label(catalogue.sides[name], label_of)
        points = np.flatnonzero(own >= 0)
        ones = np.ones(len(points), np.float32)
        shape = (len(own), len(label))
        filters[name] = scipy.sparse.csr_matrix((ones, (points, own[points])), shape)
    if choice == "reciprocal":
        filters["test"] = _ones(filters["test"] + _reversed_in_test(catalogue, label_of))
    return choice, filters


def _reversed_in_test(catalogue: Catalogue, label_of: dict[str, int]) -> scipy.sparse.csr_matrix:
    """Return the relevant test pairs (b, a) whose reverse (a, b) is relevant in training."""
    shape = (len(catalogue.sides["test"]), len(catalogue.sides["label"]))
    train = catalogue.relevance["train"].tocoo()
    # A training pair (row a, column b) as (label b, label a), if point a is also a label.
    own = _own_label(catalogue.sides["train"], label_of)
    both = own[train.row] >= 0
    turned = scipy.sparse.csr_matrix(
        (np.ones(both.sum(), np.float32), (train.col[both], own[train.row[both]])),
        (shape[1], shape[1]),
    )
    own = _own_label(catalogue.sides["test"], label_of)
    points = np.flatnonzero(own >= 0)
    pick = scipy.sparse.csr_matrix(
        (np.ones(len(points), np.float32), (points, own[points])), (shape[0], shape[1])
    )
    reverse = scipy.sparse.csr_matrix(pick @ turned)
    return scipy.sparse.csr_matrix(reverse.multiply(catalogue.relevance["test"]))


def _own_label(side: RawSide, label_of: dict[str, int]) -> np.ndarray:
    """Return the label that is the same item as each point, or -1."""
    own = [label_of.get(uid, -1) for uid in side.ids]
    return np.where(side.kept, np.array(own, np.int64), -1)


def _ones(matrix: scipy.sparse.spmatrix) -> scipy.sparse.csr_matrix:
    matrix = scipy.sparse.csr_matrix(matrix)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.data[:] = 1
    return matrix
