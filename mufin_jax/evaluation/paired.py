"""Two rankings of the same test points, compared point by point.

The interval of a difference comes from the bootstrap: the test points are drawn with replacement,
the same ones for both rankings, and the mean difference is taken of each such sample. It tells how
far another test set of the same kind might move the difference, and nothing of other seeds of the
training.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from mufin_jax.evaluation.metrics import Csr, listed_in, relevant_pairs
from mufin_jax.runtime.draws import Draw, generator

METRICS = ("P@1", "P@5", "nDCG@5", "R@10")
"""The metrics that are compared; that of questions with given answers is FITB."""

RESAMPLES = 2000
"""Samples of the bootstrap."""
CONFIDENCE = 0.95
SEED = 0
"""The seed of the samples."""
_CELLS = 1 << 22
"""Numbers of the samples that are held at a time."""

PerPoint = Mapping[str, Float[np.ndarray, " points"]]
"""Metric -> its value for each test point, in percent."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of one ranking minus that of another.

    Attributes:
        mean: over the test points, in percent.
        low, high: the bootstrap's interval; None for a single test point.
        won: test points where the first ranking is better.
        lost: test points where it is worse.
    """

    mean: float
    low: float | None
    high: float | None
    won: int
    lost: int


def per_point(ranking: Int[np.ndarray, "b k"], relevance: Csr) -> PerPoint:
    """Return `METRICS` of each test point: their means are those of `metrics.json`.

    Args:
        ranking: label ids, best first, after overlap filtering.
        relevance: the same.
    """
    hits = listed_in(ranking[:, :10], relevance)
    wide = np.zeros((len(hits), 10), bool)
    wide[:, : hits.shape[1]] = hits
    count = np.diff(relevant_pairs(relevance).indptr)
    discounts = 1 / np.log2(np.arange(5) + 2)
    ideal = np.concatenate([[1], np.cumsum(discounts)])[np.minimum(count, 5)]
    values = (
        wide[:, 0],
        wide[:, :5].mean(1),
        wide[:, :5] @ discounts / ideal,
        wide.sum(1) / np.maximum(count, 1),
    )
    return {name: 100.0 * value for name, value in zip(METRICS, values, strict=True)}


def per_question(
    ranking: Int[np.ndarray, "q c"], scores: Float[np.ndarray, "q c"], right: Int[np.ndarray, " q"]
) -> PerPoint:
    """Return FITB of each question; t answers that tie for the best score share it.

    Args:
        ranking: the answers, best first, -1 for those that the model does not see.
        scores: theirs.
        right: the label that is the right answer.
    """
    seen = ranking >= 0
    own: Bool[np.ndarray, "q c"] = (ranking == right[:, None]) & seen
    best = seen & (scores == scores[:, :1])
    return {"FITB": 100.0 * (own & best).any(1) / np.maximum(best.sum(1), 1)}


def compare(one: PerPoint, other: PerPoint, number: int = 0) -> dict[str, Difference]:
    """Return `one` minus `other` for each metric.

    Args:
        one: of the ranking that wins or loses.
        other: of the ranking that it is compared with.
        number: of the comparison: each has samples of its own.
    """
    gains = np.stack([one[name] - other[name] for name in one])
    low = high = np.full(len(gains), np.nan)
    if gains.shape[1] > 1:
        low, high = stats.bootstrap(
            (gains,), np.mean, axis=-1, vectorized=True, method="percentile",
            n_resamples=RESAMPLES, batch=max(_CELLS // gains.size, 1),
            confidence_level=CONFIDENCE, rng=generator(SEED, Draw.BOOTSTRAP, number),
        ).confidence_interval  # fmt: skip
    return {
        name: Difference(
            float(gain.mean()), _number(below), _number(above),
            int(np.count_nonzero(gain > 0)), int(np.count_nonzero(gain < 0)),
        )
        for name, gain, below, above in zip(one, gains, low, high, strict=True)
    }  # fmt: skip


def largest(gains: Float[np.ndarray, " points"], count: int) -> Int[np.ndarray, " found"]:
    """Return the test points of the largest gains above 0, at most `count`, the largest first."""
    order = np.argsort(-gains, kind="stable")[:count]
    return order[gains[order] > 0]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
