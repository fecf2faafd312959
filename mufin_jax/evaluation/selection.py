"""Fitting the weights of the parts of a score on validation points.

The objective is the mean of P@1, nDCG@5 and R@10 over the points, filtered as test points are. The
search starts from the best single part and changes one weight at a time, to the best value of a
fixed grid, as long as the objective grows by more than twice the standard error of that growth.

Few points do not tell which of two good mixes is better, and a search on them takes one and leaves
the other. So weights are searched on random samples of the points, drawn with replacement, and
averaged (bagging). If the average is below the best part on all points, this part is taken alone:
the mix is never below its best part on these points.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.metrics import Csr
from mufin_jax.prediction.mix import Weights
from mufin_jax.prediction.part_ranking import Candidates
from mufin_jax.runtime.draws import Draw, generator
from mufin_jax.runtime.signals import until_stopped

GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Weights that the search tries."""
OFFSETS = (-1.0, -0.5, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Offsets of labels without a training pair."""
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Scales of labels without a training pair."""
GAIN = 0.02
"""A change that gains less than this, in percent, is not made: a part more costs time."""
KNOW_ALL = ("z", "mu", "c")
"""The parts that have a value for each label."""
RESAMPLES = 20
"""Samples whose weights are averaged."""
SAMPLED = 1_000
"""Points of a sample at most."""
RARE = 0.1
"""A part that a smaller share of the samples gives a weight is left out: it costs time."""
FILL = (1e-3, 1e-4, 1e-5, 1e-6)
"""Weights of a part that fills up lists."""
ERRORS = 2.0
"""Standard errors that a change must gain. The best of some fifty changes gains one by chance: with
one, the mix lost 2 points of P@1 to its best part on the built-in catalogue's test points."""
_ROUNDS = 10
_PLACES = 10


@dataclasses.dataclass(frozen=True)
class Judged:
    """Candidates of validation points, with which of them count and are relevant.

    Attributes:
        found: the candidates.
        counts: False for labels that the overlap filter removes, and for free places.
        hits: whether a label that counts is relevant.
        positives: how many relevant labels a point has after filtering, listed or not.
    """

    found: Candidates
    counts: Bool[np.ndarray, "b c"]
    hits: Bool[np.ndarray, "b c"]
    positives: Int[np.ndarray, " b"]

    @classmethod
    def judge(cls, found: Candidates, relevance: Csr, filter: Csr) -> "Judged":
        """Return candidates with what the ground truth says of them.

        Args:
            found: candidates of some points.
            relevance: of these points, unfiltered.
            filter: the pairs of these points that are not scored.
        """
        wanted = metrics.relevant_pairs(relevance)
        points = np.repeat(np.arange(len(wanted.indptr) - 1), np.diff(wanted.indptr))
        wanted.data[metrics.stored(filter, points, wanted.indices)] = 0
        wanted.eliminate_zeros()
        removed = metrics.listed_in(found.labels, csr_matrix(filter))
        counts = (found.labels >= 0) & ~removed
        hits = metrics.listed_in(found.labels, wanted) & counts
        return cls(found, counts, hits, np.diff(wanted.indptr))

    def at(self, rows: Int[np.ndarray, " n"]) -> "Judged":
        """Return some points, some of them perhaps several times."""
        return Judged(self.found.at(rows), self.counts[rows], self.hits[rows], self.positives[rows])

    def objective(self, weights: Weights) -> float:
        """Return the mean of P@1, nDCG@5 and R@10 in percent, over points with a positive."""
        values = self.by_point(weights)
        return float(values.mean()) if len(values) else 0.0

    def by_point(self, weights: Weights) -> Float[np.ndarray, " p"]:
        """Return the mean of P@1, nDCG@5 and R@10 of each point that has a positive, in percent."""
        scores = weights.scores(self.found.values, self.found.trained)
        scores = np.where(self.counts, scores, -np.inf)
        scored = self.positives > 0
        order = _first(scores, _PLACES)
        hits = np.take_along_axis(self.hits, order, 1)[scored]
        hits = np.pad(hits, ((0, 0), (0, _PLACES - hits.shape[1])))
        positives = self.positives[scored]
        discounts = 1 / np.log2(np.arange(5) + 2)
        ideal = np.cumsum(discounts)[np.minimum(positives, 5) - 1]
        ndcg, recall = hits[:, :5] @ discounts / ideal, hits.sum(1) / positives
        return 100 * (hits[:, 0] + ndcg + recall) / 3


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of a search.

    Attributes:
        weights: the best that it found.
        objective: of these weights.
        alone: the objective of each part by itself.
        points: validation points that have a relevant label.
    """

    weights: Weights
    objective: float
    alone: dict[str, float]
    points: int


def fit_weights(judged: Judged, names: Sequence[str], seed: int = 0) -> Fit:
    """Search the weights of parts, and how labels without a training pair are shifted.

    Args:
        judged: validation points with their candidates.
        names: the parts that may get a weight, at least one.
        seed: of the samples.

    Raises:
        Stopped: after a signal.
    """
    alone = _alone(judged, names)
    shifts = bool((judged.hits & ~judged.found.trained).any())
    scored = judged.at(np.flatnonzero(judged.positives))
    points = len(scored.positives)
    weights = best = Weights({max(alone, key=lambda name: alone[name]): 1.0})
    if points:
        rng, size = generator(seed, Draw.SELECT_SAMPLES), min(points, SAMPLED)
        samples = (scored.at(rng.integers(points, size=size)) for _ in range(RESAMPLES))
        weights = _average([_searched(sample, names, shifts) for sample in samples])
    if judged.objective(weights) < max(alone.values()):
        weights = best
    weights = _filled(judged, weights, alone)
    return Fit(weights, judged.objective(weights), alone, points)


def _alone(judged: Judged, names: Sequence[str]) -> dict[str, float]:
    """Return the objective of each part by itself."""
    return {name: judged.objective(Weights({name: 1.0})) for name in names}


def _searched(judged: Judged, names: Sequence[str], shifts: bool) -> Weights:
    """Return the weights that a search from the best part finds, without those that are 0."""
    alone = _alone(judged, names)
    weights = Weights({max(alone, key=lambda name: alone[name]): 1.0})
    for _ in range(_ROUNDS):
        before = weights
        for change in _changes(names, shifts):
            weights = _best(judged, weights, until_stopped(change(weights), "select"))
        if weights == before:
            break
    kept = {name: weight for name, weight in weights.parts.items() if weight}
    return dataclasses.replace(weights, parts=kept)


def _average(found: Sequence[Weights]) -> Weights:
    """Return the average of weights, each scaled to a largest one of 1, without rare parts."""
    tops = [max(weights.parts.values()) for weights in found]
    names = dict.fromkeys(name for weights in found for name in weights.parts)
    parts = {}
    for name in names:
        scaled = [one.parts.get(name, 0.0) / top for one, top in zip(found, tops, strict=True)]
        if np.count_nonzero(scaled) >= RARE * len(found):
            parts[name] = _mean(scaled)
    offsets = [one.untrained_offset / top for one, top in zip(found, tops, strict=True)]
    scale = _mean([weights.untrained_scale for weights in found])
    return Weights(parts, scale, _mean(offsets))


def _mean(numbers: Sequence[float]) -> float:
    """Return the mean, to four places."""
    return round(float(np.mean(numbers)), 4)


def _best(judged: Judged, weights: Weights, others: Iterable[Weights]) -> Weights:
    """Return the best of other weights if it gains more than chance would, else these weights."""
    before = judged.by_point(weights)
    found, gain = weights, np.zeros_like(before)
    for new in others:
        if any(new.parts.values()):
            tried = judged.by_point(new) - before
            if tried.sum() > gain.sum():
                found, gain = new, tried
    error = gain.std() / max(len(gain), 1) ** 0.5 if len(gain) else 0.0
    return found if gain.sum() > max(GAIN, ERRORS * error) * len(gain) else weights


def _filled(judged: Judged, weights: Weights, alone: dict[str, float]) -> Weights:
    """Return weights with a tiny one for a part that knows all labels, if no other part does.

    The votes and the walks know few labels of a query. Without this weight, the places after those
    would stay free. It must not lower the objective.
    """
    knows_all = [name for name in KNOW_ALL if name in alone]
    if not knows_all or set(knows_all) & set(weights.parts):
        return weights
    best, value = max(knows_all, key=lambda name: alone[name]), judged.objective(weights)
    for tiny in FILL:
        new = dataclasses.replace(weights, parts=weights.parts | {best: tiny})
        if judged.objective(new) >= value:
            return new
    return weights


def _changes(names: Sequence[str], shifts: bool):
    """Yield one function for each coordinate: from weights to the weights to try in their place."""
    for name in names:
        yield lambda old, name=name: [
            dataclasses.replace(old, parts=old.parts | {name: weight}) for weight in GRID
        ]
    if shifts:
        yield lambda old: [dataclasses.replace(old, untrained_scale=value) for value in SCALES]
        yield lambda old: [dataclasses.replace(old, untrained_offset=value) for value in OFFSETS]


def _first(scores: Float[np.ndarray, "b c"], k: int) -> Int[np.ndarray, "b k"]:
    """Return the places of the k largest scores of each row, largest first, ties by place."""
    if scores.shape[1] <= 4 * k:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    some = np.sort(np.argpartition(-scores, 2 * k, axis=1)[:, : 2 * k], axis=1)
    taken = np.take_along_axis(scores, some, 1)
    order = np.argsort(-taken, axis=1, kind="stable")[:, :k]
    first = np.take_along_axis(some, order, 1)
    # Where scores that were not taken may tie with the k-th, their places decide, too.
    last = np.take_along_axis(taken, order[:, -1:], 1)[:, 0]
    tied = np.flatnonzero(last == taken.min(axis=1))
    first[tied] = np.argsort(-scores[tied], axis=1, kind="stable")[:, :k]
    return first
