"""Section 4 of the paper: which pairs are scored, and the tables of the scores.

The overlap filter leaves out (datapoint, label) pairs that would be too easy: an item as its own
recommendation, and (b, a) if (a, b) is in training. Such pairs leave the predictions *and* the
ground truth. So lists must be longer than the `DEPTH` places that count, by
`spare_places(filter)`, to keep 100 labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.metrics import DEPTH, Csr, remove
from mufin_jax.evaluation.metrics import spare_places as spare_places
from mufin_jax.runtime.errors import InputError

METRICS = (
    *("P@1", "P@3", "P@5", "nDCG@1", "nDCG@3", "nDCG@5"),
    *("PSP@1", "PSP@3", "PSP@5", "R@10", "R@100", "AUC"),
)


class Scored(NamedTuple):
    """What remains to be scored after overlap filtering.

    Attributes:
        ranking: label ids, best first.
        relevance: the ground truth.
        without_positive: the number of datapoints without a relevant label, filtered or not. They
            score 0; print the number with the results.
    """

    ranking: Int[np.ndarray, "b k"]
    relevance: csr_matrix
    without_positive: int


def drop(ranking: Int[np.ndarray, "b k"], relevance: Csr, filter: Csr | None) -> Scored:
    """Remove the filter's pairs from predictions and ground truth; places below move up.

    Lists keep their width and end in -1. Zeros stored in the relevance are also removed.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    relevance = metrics.relevant_pairs(relevance)
    if filter is not None and filter.shape != relevance.shape:
        raise InputError(
            "the overlap filter is {} x {} and the relevance {} x {}, expected equal shapes: take "
            "both from the same split".format(*metrics.shape(filter), *metrics.shape(relevance))
        )
    if filter is not None and filter.nnz:
        points = np.repeat(np.arange(len(relevance.indptr) - 1), np.diff(relevance.indptr))
        relevance.data[metrics.stored(filter, points, relevance.indices)] = 0
        relevance.eliminate_zeros()
    without_positive = int(np.count_nonzero(np.diff(relevance.indptr) == 0))
    return Scored(remove(ranking, filter), relevance, without_positive)


def evaluate_ranking(
    ranking: Int[np.ndarray, "b k"], relevance: Csr, filter: Csr | None, train_relevance: Csr
) -> dict[str, float]:
    """Return all of `METRICS` after overlap filtering, in percent; AUC is a share.

    Args:
        ranking: label ids, best first, -1 in free places. Make it `spare_places(filter)` wider than
            `DEPTH`, or R@100 and AUC are of fewer than 100 places; more places do not count.
        relevance: of the test datapoints, unfiltered.
        filter: the pairs that do not count, or None.
        train_relevance: of the training datapoints, unfiltered, for the propensities.

    Raises:
        InputError: if the shapes do not fit each other, or a list names a label twice.
    """
    trained, tested = metrics.shape(train_relevance)[1], metrics.shape(relevance)[1]
    if trained != tested:
        raise InputError(
            f"train has {trained} labels and test {tested}, "
            "expected equal numbers: take both from the same data"
        )
    _reject_repeats(ranking)
    ranking, relevance, _ = drop(ranking, relevance, filter)
    weights = metrics.inverse_propensity(train_relevance)
    values = [metrics.precision(ranking, relevance, k) for k in (1, 3, 5)]
    values += [metrics.ndcg(ranking, relevance, k) for k in (1, 3, 5)]
    values += [metrics.psp(ranking, relevance, weights, k) for k in (1, 3, 5)]
    values += [metrics.recall(ranking, relevance, k) for k in (10, 100)]
    values += [metrics.auc(ranking, relevance, DEPTH)]
    return dict(zip(METRICS, values, strict=True))


def by_category(
    ranking: Int[np.ndarray, "b k"],
    relevance: Csr,
    codes: Int[np.ndarray, " labels"],
    names: Sequence[str],
    k: int = 5,
) -> dict[str, dict[str, float | int]]:
    """Return P@k by category (the supplement's table 6) of a ranking and relevance from `drop`.

    The category of a datapoint is that of most of its relevant labels; ties go to the smaller code.
    A datapoint without a relevant label of a known category is left out.

    Args:
        ranking: label ids, best first.
        relevance: of the same datapoints.
        codes: the category of each label, -1 if unknown.
        names: of the categories; the result keeps their order and leaves out empty ones.
        k: places that count.

    Returns:
        Category -> {"P@k": percent, "points": their number}.
    """
    known = np.flatnonzero(codes >= 0)
    one = np.ones(len(known), np.float32)
    of_label = csr_matrix((one, (known, codes[known])), (len(codes), len(names)))
    held = metrics.relevant_pairs(relevance)
    category = metrics.rank(csr_matrix(held @ of_label), 1)[:, 0]
    result = {}
    for code in np.unique(category[category >= 0]):
        rows = np.flatnonzero(category == code)
        value = metrics.precision(ranking[rows], held[rows], k)
        result[names[code]] = {f"P@{k}": value, "points": len(rows)}
    return result


def by_popularity(
    ranking: Int[np.ndarray, "b k"],
    relevance: Csr,
    train_relevance: Csr,
    k: int = 10,
    bins: int = 5,
) -> list[dict[str, float | int]]:
    """Return the part of each popularity bin in R@k (figure 4), of a ranking from `drop`.

    Labels, by falling number of training datapoints, are divided into bins of equal volume, the sum
    of these numbers. The first bin has few, frequent labels; the last has many rare labels and
    those never trained on. The bins' parts add up to R@k.

    Returns:
        One row per bin, the most popular first: {"R@k": percent, "labels": their number,
        "volume": their training pairs}.
    """
    frequency = metrics.frequencies(train_relevance)
    order = np.argsort(-frequency, kind="stable")
    # A label is in the bin of the middle of its own volume.
    middle = np.cumsum(frequency[order]) - frequency[order] / 2
    bin_of = np.empty(len(order), int)
    bin_of[order] = np.minimum(middle * bins // max(frequency.sum(), 1), bins - 1)

    top = ranking[:, :k]
    held = metrics.relevant_pairs(relevance)
    hit_points, places = np.nonzero(metrics.listed_in(top, held))
    share = 100 / np.maximum(np.diff(held.indptr), 1)[hit_points] / max(len(top), 1)
    parts = np.bincount(bin_of[top[hit_points, places]], share, minlength=bins)
    labels = np.bincount(bin_of, minlength=bins)
    volume = np.bincount(bin_of, frequency, minlength=bins)
    return [
        {f"R@{k}": float(parts[i]), "labels": int(labels[i]), "volume": int(volume[i])}
        for i in range(bins)
    ]


def _reject_repeats(ranking: Int[np.ndarray, "b k"]) -> None:
    """Reject a label listed twice: it would be a hit twice."""
    for rows in metrics.blocks(*ranking.shape):
        ordered = np.sort(ranking[rows], axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if repeated.any():
            row, place = (int(where[0]) for where in np.nonzero(repeated))
            raise InputError(
                f"row {rows.start + row} of the ranking names label {ordered[row, place]} twice, "
                "expected distinct labels: keep the better of its places"
            )
