"""Why a label has its score: the parts with their weights, and what attends to what."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mufin_jax.model.attention import AttentionBlock
from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.prediction import scoring
from mufin_jax.prediction.added import Added
from mufin_jax.prediction.answers import Explanation, PartOfScore, Prediction
from mufin_jax.prediction.label_cache import LabelCache, gather
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.parts import Known, Query
from mufin_jax.prediction.ranker import Ranker
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.distributed.mesh import fetch, replicated
from mufin_jax.runtime.distributed.padding import grown


class Source(NamedTuple):
    """Where labels are known: those of training, or those added later.

    Attributes:
        index: their entries.
        cache: their bags and classifiers.
        first: the number of the first of them.
    """

    index: LabelIndex
    cache: LabelCache
    first: int

    @property
    def count(self) -> int:
        """The number of labels."""
        return len(self.cache.offsets) - 1

    def own(self, labels: Int[np.ndarray, "b k"]) -> Int[np.ndarray, "b k"]:
        """Return labels by this source's numbers, -1 for those of others."""
        own = labels - self.first
        return np.where((labels >= 0) & (own >= 0) & (own < self.count), own, -1)


def explained(
    ranker: Ranker,
    points: Embedding,
    labels: Int[np.ndarray, "b k"],
    known: Known | None,
    added: Added | None = None,
) -> list[list[Explanation]]:
    """Return for each datapoint and each of its labels why it has its score.

    Args:
        ranker: what has ranked.
        points: the datapoints; those after the first b are padding.
        labels: of each, -1 for none.
        known: what is known of the datapoints, where parts rank.
        added: labels added after training.
    """
    heads, x = ranker.model.heads(), fetch(points.vector)[: len(labels)]
    known = known or Known([""] * len(labels), np.full(len(labels), -1))
    query, sources = Query(points, x, known), [Source(ranker.index, ranker.cache, 0)]
    ranking = ranker.ranking
    if added is not None:
        ranking = added.ranking or ranking
        if ranking is None:
            sources.append(Source(added.index, added.cache, sources[0].count))
        else:  # parts bring their own indices, and the attention needs none
            sources.append(Source(ranker.index, added.cache, sources[0].count))
    if ranking is None:
        parts = _mixed(heads, query, labels, sources, ranker.config.mix)
    else:
        parts = _of_parts(query, labels, ranking)
    shown = _attention(heads, points, labels, sources)
    return [
        [Explanation(parts[row][place], shown[row][place]) for place in range(labels.shape[1])]
        for row in range(len(labels))
    ]


def with_reasons(answer: Sequence[Prediction], why: Sequence[Explanation]) -> list[Prediction]:
    """Return predictions with their reasons; where there are fewer labels, reasons are left."""
    return [dataclasses.replace(one, why=own) for one, own in zip(answer, why, strict=False)]


Parts = list[list[dict[str, PartOfScore]]]
"""Of each datapoint and each of its labels."""


def _mixed(
    heads: Heads, query: Query, labels: np.ndarray, sources: Sequence[Source], mix: float
) -> Parts:
    """Return c and a of the paper's mix."""
    c, a = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)
    for source in sources:
        own = source.own(labels).astype(np.int32)
        mine = scoring.classify(heads, query.points, source.cache, own)
        near = source.index.entries.exact_similarity(query.x, own)
        c, a = np.where(own < 0, c, mine), np.where(own < 0, a, near)
    return [
        [
            {"c": PartOfScore(float(c[i, j]), mix), "a": PartOfScore(float(a[i, j]), 1 - mix)}
            for j in range(labels.shape[1])
        ]
        for i in range(len(labels))
    ]


def _of_parts(query: Query, labels: np.ndarray, ranking: PartRanking) -> Parts:
    """Return the parts that have a weight for a datapoint.

    A label without a training pair has scaled weights, and an offset, which counts as a part.
    """
    given = labels.astype(np.int32)
    values = {name: ranking.parts[name].ask(query).at(given) for name in ranking.mix.names}
    found: Parts = []
    for i, row in enumerate(labels):
        weights = ranking.mix.warm if query.known.own[i] >= 0 else ranking.mix.cold
        listed = []
        for j, label in enumerate(row):
            trained = label >= 0 and bool(ranking.trained[label])
            scale = 1.0 if trained else weights.untrained_scale
            own = {
                name: PartOfScore(float(values[name][i, j]), scale * weight)
                for name, weight in weights.parts.items()
                if weight
            }
            if not trained and weights.untrained_offset:
                own["offset"] = PartOfScore(1.0, weights.untrained_offset)
            listed.append(own)
        found.append(listed)
    return found


def _attention(
    heads: Heads, points: Embedding, labels: np.ndarray, sources: Sequence[Source]
) -> list[list[tuple[tuple[float, ...], ...] | None]]:
    """Return the weights of A_C, a mean over its heads; None for a model without them."""
    found: list[list[Any]] = [[None] * labels.shape[1] for _ in labels]
    if not isinstance(heads.cross_attention, AttentionBlock):
        return found
    real = np.asarray(fetch(points.mask))
    for source in sources:
        own = grown(source.own(labels).astype(np.int32), len(real), -1)
        slots, arrays = source.cache.slots(own), source.cache.arrays
        weights = np.asarray(fetch(_weights(heads, points, arrays, own, slots, heads.mesh)))
        for i, j in zip(*np.nonzero(own[: len(labels)] >= 0), strict=True):
            grid = weights[i, j][np.flatnonzero(real[i]), : (slots[i, j] >= 0).sum()]
            found[i][j] = tuple(tuple(map(float, row)) for row in grid)
    return found


@functools.partial(jax.jit, static_argnames="mesh")
def _weights(
    heads: Any, points: Embedding, arrays: Any, labels: Any, slots: Any, mesh: Mesh
) -> Float[jax.Array, "b c n m"]:
    whole = (points, labels, slots)
    points, labels, slots = jax.lax.with_sharding_constraint(whole, replicated(mesh))
    memory, _ = gather(arrays, labels, slots, mesh)
    return heads.cross_attention.weights(points.bag[:, None], memory).mean(-3)
