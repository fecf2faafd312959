"""The measures of the paper's tables, by the Extreme Classification Repository's conventions.

Means are over *all* datapoints: one without a relevant label scores 0 and counts. Results are in
percent, except AUC, which the paper prints as a share. Relevance is a CSR matrix of datapoints x
labels; every nonzero value means relevant. A ranking has label ids, best first, and -1 in free
places; if it is shorter than k, the missing places are misses. This file only needs NumPy and
SciPy, so anyone can check a number. Long rankings are processed in blocks of rows, never through a
dense matrix of datapoints x labels.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int, UInt
from scipy.sparse import csr_array, csr_matrix

from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.errors import InputError

Csr = csr_matrix | csr_array

DEPTH = 100
"""Places of a ranked list that count: the length of the paper's shortlists."""

BLOCK_CELLS = 1 << 22
"""Cells of a block's temporaries: some tens of MB for any number of datapoints."""


def precision(ranking: Int[np.ndarray, "b k"], relevance: Csr, k: int) -> float:
    """Return P@k: the share of the first k places with a relevant label, in percent."""
    hits = listed_in(ranking[:, :k], relevance)
    return _percent(hits.sum(), len(hits) * k)


def ndcg(ranking: Int[np.ndarray, "b k"], relevance: Csr, k: int) -> float:
    """Return nDCG@k: gain 1 / log2(place + 1), over that of min(k, relevant) hits, in percent."""
    hits = listed_in(ranking[:, :k], relevance)
    discounts = 1 / np.log2(np.arange(k) + 2)
    ideal = np.concatenate([[1], np.cumsum(discounts)])[np.minimum(_positives(relevance), k)]
    return _percent((hits @ discounts[: hits.shape[1]] / ideal).sum(), len(hits))


def psp(
    ranking: Int[np.ndarray, "b k"],
    relevance: Csr,
    inverse_propensities: Float[np.ndarray, " labels"],
    k: int,
) -> float:
    """Return PSP@k: the hits' inverse propensities, summed over all points, in percent of the most.

    This is a ratio of sums, not a mean of ratios. The ideal ranking of a datapoint begins with its
    relevant labels of largest inverse propensity.
    """
    top = ranking[:, :k]
    gained = inverse_propensities[top[listed_in(top, relevance)]].sum()
    worth = relevant_pairs(relevance)
    worth.data = inverse_propensities[worth.indices]
    ideal = rank(worth, k)
    return _percent(gained, inverse_propensities[ideal[ideal >= 0]].sum())


def recall(ranking: Int[np.ndarray, "b k"], relevance: Csr, k: int) -> float:
    """Return R@k: the share of a point's relevant labels in its first k places, in percent."""
    hits = listed_in(ranking[:, :k], relevance)
    return _percent((hits.sum(1) / np.maximum(_positives(relevance), 1)).sum(), len(hits))


def auc(ranking: Int[np.ndarray, "b k"], relevance: Csr, k: int = DEPTH) -> float:
    """Return AUC: the share of (relevant, irrelevant) pairs of a list of k in the right order.

    A list without one of the two kinds has 0. The result is a mean over datapoints, a share of 1.
    Free places are not labels and make no pairs. The repository's script counts them as irrelevant
    labels, which would reward a retriever for short lists; on full lists the two agree.
    """
    top = ranking[:, :k]
    hits, total = listed_in(top, relevance), 0.0
    for rows in blocks(*top.shape):
        misses = ~hits[rows] & (top[rows] >= 0)
        hits_above = np.cumsum(hits[rows], axis=1, dtype=np.int32)
        pairs = hits[rows].sum(1) * misses.sum(1)
        total += ((hits_above * misses).sum(1) / np.maximum(pairs, 1)).sum()
    return float(total / max(len(top), 1))


def inverse_propensity(
    train_relevance: Csr, A: float = 0.6, B: float = 2.6
) -> Float[np.ndarray, " labels"]:
    """Return 1 / p_l = 1 + C (N_l + B)^-A with C = (ln N - 1)(B + 1)^A, from *training* relevance.

    N is the number of training datapoints and N_l that of label l. With fewer than three
    datapoints C would be negative and is 0: every label then has the weight 1.
    """
    points = max(shape(train_relevance)[0], 1)
    C = max(np.log(points) - 1, 0) * (B + 1) ** A
    return 1 + C * (frequencies(train_relevance) + B) ** -A


def frequencies(relevance: Csr) -> Int[np.ndarray, " labels"]:
    """Return the number of datapoints for which each label is relevant."""
    return np.bincount(relevant_pairs(relevance).indices, minlength=shape(relevance)[1])


def rank(scores: Csr, k: int) -> Int[np.ndarray, "b k"]:
    """Return each row's k labels of largest score; see `best`."""
    return best(scores, k)[0]


def best(scores: Csr, k: int) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    """Return each row's k labels of largest score with their scores, compared as float32.

    Every stored pair is a candidate, also a stored 0; each pair must be stored once. Equal scores
    are ordered by label id. Rows with fewer pairs end in labels -1 and scores -inf.

    Raises:
        InputError: if a score is NaN.
    """
    values = np.asarray(scores.data, np.float32) + np.float32(0)  # + 0 turns -0 into 0
    if np.isnan(values).any():
        raise InputError("a score is NaN, expected a number: check how scores are made")
    widths = np.diff(scores.indptr)
    labels = np.full((len(widths), k), -1, np.int32)
    ranked = np.full((len(widths), k), -np.inf, np.float32)
    # By falling width: a block's rows have similar sizes, so padding costs little.
    order = np.argsort(-widths, kind="stable")[: np.count_nonzero(widths)]
    start = 0
    while start < len(order):
        width = int(widths[order[start]])
        rows = order[start : start + max(BLOCK_CELLS // width, 1)]
        start += len(rows)
        real = np.arange(width) < widths[rows, None]
        at = (scores.indptr[rows].astype(np.int64)[:, None] + np.arange(width))[real]
        keys = np.full((len(rows), width), np.iinfo(np.uint64).max, np.uint64)
        keys[real] = _sort_keys(values[at], scores.indices[at])
        if width > k:
            keys = np.partition(keys, k - 1, axis=1)[:, :k]
        keys.sort(axis=1)
        labels[rows, : keys.shape[1]], ranked[rows, : keys.shape[1]] = _read_keys(keys)
    return labels, ranked


def listed_in(ranking: Int[np.ndarray, "b k"], pairs: Csr) -> Bool[np.ndarray, "b k"]:
    """Return which of the listed labels have a nonzero value in their row of pairs.

    Raises:
        InputError: if the two differ in rows, or a label is not a column of pairs.
    """
    points, labels = shape(pairs)
    if len(ranking) != points:
        raise InputError(
            f"the ranking has {len(ranking)} rows and the matrix {points}, "
            "expected equal numbers: take both from the same split"
        )
    if ranking.size and ranking.max() >= labels:
        raise InputError(
            f"the ranking names label {ranking.max()}, expected ids below {labels}: "
            "take ranking and relevance from the same data"
        )
    pairs = relevant_pairs(pairs)
    found = np.zeros(ranking.shape, bool)
    for rows in blocks(*ranking.shape):
        line, place = np.nonzero(ranking[rows] >= 0)
        found[rows][line, place] = stored(pairs, line + rows.start, ranking[rows][line, place])
    return found


def stored(
    pairs: Csr, points: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return which (point, label) have a nonzero value in pairs."""
    if not len(points):  # for an empty index, SciPy returns a matrix and not an array
        return np.zeros(0, bool)
    return np.asarray(csr_matrix(pairs)[points, labels]).ravel() != 0


def fill_in_blank(scores: Float[np.ndarray, "q c"], right: Int[np.ndarray, " q"]) -> float:
    """Return FITB: the share of questions whose right answer scores highest, in percent.

    Of t answers that tie for the highest score, each is picked with the share 1/t. A right answer
    of score -inf is never picked.
    """
    own = scores[np.arange(len(right)), right]
    best = (own == scores.max(axis=1)) & (own > -np.inf)
    return _percent((best / (scores == own[:, None]).sum(axis=1)).sum(), len(right))


def separation(scores: Float[np.ndarray, " o"], compatible: Bool[np.ndarray, " o"]) -> float:
    """Return the compatibility AUC: the share of (compatible, other) pairs in order, ties half.

    The result is 0 if one of the two kinds is missing, as for `auc`.
    """
    pairs = int(compatible.sum()) * int((~compatible).sum())
    if not pairs:
        return 0.0
    _, place, times = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[place]  # ties share the mean rank
    count = int(compatible.sum())
    return float((ranks[compatible].sum() - count * (count + 1) / 2) / pairs)


def remove(ranking: Int[np.ndarray, "b k"], pairs: Csr | None) -> Int[np.ndarray, "b k"]:
    """Return the ranking without the pairs and without gaps: later labels move up, then -1."""
    closed = np.full_like(ranking, -1)
    kept = ranking >= 0
    if pairs is not None and pairs.nnz:
        kept &= ~listed_in(ranking, pairs)
    for rows in blocks(*ranking.shape):
        point, _ = np.nonzero(kept[rows])
        place = (np.cumsum(kept[rows], axis=1, dtype=np.int32) - 1)[kept[rows]]
        closed[rows][point, place] = ranking[rows][kept[rows]]
    return closed


def spare_places(filter: Csr | None) -> int:
    """Return how many places more than `DEPTH` lists need to keep `DEPTH` after filtering."""
    return int(np.diff(filter.indptr).max(initial=0)) if filter is not None else 0


def relevant_pairs(pairs: Csr) -> csr_matrix:
    """Return the nonzero pairs, sorted, each with value 1; the argument is not changed."""
    clean = csr_matrix(pairs, copy=True)
    clean.sum_duplicates()
    clean.eliminate_zeros()
    return csr_matrix((np.ones(clean.nnz, np.float32), clean.indices, clean.indptr), shape(pairs))


def shape(pairs: Csr) -> tuple[int, int]:
    """Return the numbers of datapoints and labels (SciPy's types leave the shape open)."""
    return cast(tuple[int, int], pairs.shape)


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Return slices that cover the rows, each of at most BLOCK_CELLS cells (at least one row)."""
    return cut(rows, BLOCK_CELLS // max(width, 1))


def _positives(relevance: Csr) -> Int[np.ndarray, " b"]:
    return np.diff(relevant_pairs(relevance).indptr)


def _percent(part: float | np.number, whole: float | int | np.number) -> float:
    return float(100 * part / whole) if whole else 0.0


def _sort_keys(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> UInt[np.ndarray, " n"]:
    """Return one integer per pair that sorts by falling score, then rising label.

    As integers, the bits of negative floats already grow as the floats fall. Those of positive
    floats do once they are inverted; their sign bit stays clear, so they come first.
    """
    bits = scores.view(np.uint32)
    falling = np.where(bits >> 31, bits, ~bits & 0x7FFFFFFF)
    return falling.astype(np.uint64) << 32 | labels.astype(np.uint64)


def _read_keys(
    keys: UInt[np.ndarray, "b k"],
) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    """Return labels and scores from their keys; the largest key is a free place."""
    labels = keys.astype(np.uint32).view(np.int32)  # the low half; all ones give -1
    falling = (keys >> 32).astype(np.uint32)
    bits = np.where(falling >> 31, falling, ~falling & 0x7FFFFFFF)
    return labels, np.where(labels >= 0, bits.view(np.float32), np.float32(-np.inf))
