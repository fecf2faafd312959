"""Mining: which examples a step learns from (hard positives, hard negatives, alike labels).

Everything here is numpy, and a pure function of its arguments and of the random generator given.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

NEAR = 4
"""Mined negatives are drawn among this many times as many of the nearest items."""


def draw_positives(
    points_of: sparse.csr_matrix,
    labels: Int[np.ndarray, "c"],
    count: int,
    rng: np.random.Generator,
    z: Float[np.ndarray, "l d"] | None = None,
    x: Float[np.ndarray, "p d"] | None = None,
    limit: float = 0.9,
) -> tuple[Int[np.ndarray, "c k"], Bool[np.ndarray, "c k"]]:
    """Draw P_l of Module I: datapoints of each label, uniformly among its hard positives.

    A positive is hard if z_l·x_i <= limit. If a label has no hard one, its least similar ones are
    taken. Short sets are masked, never repeated. Without embeddings (before the first refresh) all
    positives count as hard.

    Args:
        points_of: relevance, labels x datapoints.
        labels: l.
        count: |P_l|.
        rng: generator of the draw.
        z: label vectors of the last refresh.
        x: datapoint vectors of the last refresh.
        limit: the largest similarity of a hard positive; 1 makes the draw uniform.

    Returns:
        Datapoints of each label, and which of them are real.
    """
    chosen = np.zeros((len(labels), count), np.int64)
    real = np.zeros((len(labels), count), bool)
    for place, label in enumerate(labels):
        points = row(points_of, label)
        if z is not None and x is not None and limit < 1 and len(points):
            similarity = x[points] @ z[label]
            hard = points[similarity <= limit]
            points = hard if len(hard) else points[np.argsort(similarity, kind="stable")[:count]]
        drawn = draw(points, count, rng)
        chosen[place, : len(drawn)] = drawn
        real[place, : len(drawn)] = True
    return chosen, real


def row(matrix: sparse.csr_matrix, index: int | np.integer) -> Int[np.ndarray, "k"]:
    """Return the column numbers of one row of a CSR matrix."""
    return matrix.indices[matrix.indptr[index] : matrix.indptr[index + 1]]


def draw(
    candidates: Int[np.ndarray, "k"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "j"]:
    """Return min(count, k) distinct candidates, uniformly.

    The authors' code draws with replacement. Without it, each row of the label table appears once
    in a batch of distinct labels.
    """
    return rng.permutation(candidates)[:count]


def thinned(
    candidates: Bool[np.ndarray, "c b"], count: int, rng: np.random.Generator
) -> Bool[np.ndarray, "c b"]:
    """Return at most `count` of the candidates of each row, drawn uniformly.

    This gives Module I random instead of hard negatives (table 4): the `count` hardest of `count`
    candidates are all of them.
    """
    lots = np.where(candidates, rng.random(candidates.shape), 2)
    drawn = np.argsort(lots, axis=1)[:, :count]
    kept = np.zeros_like(candidates)
    np.put_along_axis(kept, drawn, True, axis=1)
    return kept & candidates


def candidates(
    shortlist: Int[np.ndarray, "k"], blocked: Int[np.ndarray, "j"], drop_best: bool = False
) -> Int[np.ndarray, "i"]:
    """Return T_i of Module IV: the labels of a shortlist that may serve as hard negatives.

    Args:
        shortlist: R_i, best first; -1 marks an empty place.
        blocked: the datapoint's relevant labels, and its pairs in the overlap filter.
        drop_best: leave out the best-scored candidate, too.
    """
    # T_i = R_i without the blocked labels: a set difference that keeps the order of R_i.
    kept = shortlist[(shortlist >= 0) & ~np.isin(shortlist, blocked)]
    return kept[1:] if drop_best else kept


def clustered_order(
    vectors: Float[np.ndarray, "l d"], size: int, rng: np.random.Generator
) -> Int[np.ndarray, "l"]:
    """Order labels by clusters: alike labels are neighbours, and the clusters' order is random.

    Balanced spherical 2-means is applied to each half again, until a cluster holds at most `size`
    labels. It is an option of Module I that makes the negatives of a label harder (NGAME; the
    authors' code uses it after 20 epochs, on datapoints).
    """

    def bisect(rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) <= size:
            return [rows]
        centres = vectors[rng.choice(rows, 2, replace=False)]
        side = vectors[rows] @ (centres[0] - centres[1])
        for _ in range(8):
            order = np.argsort(-side, kind="stable")
            half = len(rows) // 2
            left, right = vectors[rows[order[:half]]].sum(0), vectors[rows[order[half:]]].sum(0)
            side = vectors[rows] @ (left / _norm(left) - right / _norm(right))
        order = np.argsort(-side, kind="stable")
        return bisect(rows[order[: len(rows) // 2]]) + bisect(rows[order[len(rows) // 2 :]])

    clusters = bisect(rng.permutation(len(vectors)))
    return np.concatenate([clusters[i] for i in rng.permutation(len(clusters))])


def _norm(vector: np.ndarray) -> float:
    return max(float(np.linalg.norm(vector)), 1e-12)
