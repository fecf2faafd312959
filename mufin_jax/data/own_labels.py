"""Which label a datapoint is itself: in product-to-product data, most products are both."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64
from scipy.sparse import csr_matrix

from mufin_jax.data.strings import Strings


def own_labels(points: Strings, labels: Strings) -> Int64[np.ndarray, " n"]:
    """Return for each point the number of the label that is the same item, -1 if there is none.

    Two items are the same if their whole ids are equal. Of several labels with the same id, the
    last counts, as for the overlap filter. The dict holds the smaller of the two sides.

    Args:
        points: the ids of the datapoints.
        labels: the ids of the labels.
    """
    if len(labels) <= len(points):
        label_of = {uid: label for label, uid in enumerate(labels)}
        return np.fromiter((label_of.get(uid, -1) for uid in points), np.int64, len(points))
    numbers: dict[str, int] = {}
    number = [numbers.setdefault(uid, len(numbers)) for uid in points]
    own = np.full(len(numbers), -1, np.int64)
    for label, uid in enumerate(labels):
        if (found := numbers.get(uid)) is not None:
            own[found] = label
    return own[np.array(number, np.int64)]


class LabelFinder:
    """Finds labels by their ids; holds two numbers a label instead of a dict of Python strings.

    Args:
        ids: of all labels.
        labels: those that can be found.
    """

    def __init__(self, ids: Strings, labels: Int64[np.ndarray, " f"]):
        hashes = np.fromiter((hash(ids[int(label)]) for label in labels), np.int64, len(labels))
        order = np.argsort(hashes, kind="stable")
        self._ids, self._hashes, self._labels = ids, hashes[order], labels[order]

    def find(self, uid: str) -> int:
        """Return the label with this id, the last of several, or -1."""
        return next(self.all_of(uid), -1)

    def all_of(self, uid: str) -> Iterator[int]:
        """Yield the labels with this id, the last one first."""
        place = int(np.searchsorted(self._hashes, hash(uid), "right"))
        while place and self._hashes[place - 1] == hash(uid):
            place -= 1
            if self._ids[label := int(self._labels[place])] == uid:
                yield label


def warm_points(own: Int64[np.ndarray, " n"], pairs: csr_matrix) -> Bool[np.ndarray, " n"]:
    """Return which points are warm: each is a label that has a training pair. Others are cold.

    Args:
        own: the label that each point is itself, -1 if there is none (`own_labels`).
        pairs: training points x labels, nonzero where relevant, without the pairs of the overlap
            filter: the first matrix of `data.dataset.training_pairs`.
    """
    pairs = csr_matrix(pairs, dtype=bool, copy=True)
    pairs.eliminate_zeros()
    return np.isin(own, pairs.indices)
