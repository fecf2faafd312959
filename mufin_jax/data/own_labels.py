"""Which label each datapoint is itself: in product-to-product data, most products are both."""

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
