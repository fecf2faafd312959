"""Labels added after training, ready to answer: searched and scored next to those of training."""

import dataclasses
import functools

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Float32, Int
from scipy.sparse import csr_matrix

from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.prediction import scoring
from mufin_jax.prediction.joined import Joined
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.parts import (
    Classifiers,
    KnownWalk,
    Nearest,
    Part,
    SoftWalk,
    Titles,
    TitleVote,
    Vote,
)
from mufin_jax.prediction.segment import Segment
from mufin_jax.retrieval.barred import Barred, allowed_points
from mufin_jax.retrieval.build import centroids
from mufin_jax.retrieval.exact import LabelEntries, best_first
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.sparse_scores import softmax_rows
from mufin_jax.retrieval.words import TitleWords

_TEMPERATURE = 0.1
"""Of the softmax over the cosines of an added label with the labels that lend to it ..."""
_SHARE = 0.3
"""... and the share of their values that they lend: by all of them, added labels would displace
trained ones (docs/catalogue.md has the figures)."""


@dataclasses.dataclass(frozen=True)
class Base:
    """The labels of training, as a predictor has loaded them.

    Attributes:
        heads: where A_C and the devices come from.
        index: their entries.
        cache: their bags and classifiers.
        mix: the weight of c, where no parts rank.
        ranking: the parts that rank, if any do.
        lenders: labels of training that lend an added label a share of their votes and walks.
    """

    heads: Heads
    index: LabelIndex
    cache: LabelCache
    mix: float
    ranking: PartRanking | None
    lenders: int


@dataclasses.dataclass(frozen=True)
class Added:
    """Added labels, ready to answer together with the labels of training.

    Attributes:
        base: the labels of training.
        segment: the added labels.
        cache: their bags and classifiers.
        ranking: the base's parts, each joined with its part for the added labels, if parts rank.
    """

    base: Base
    segment: Segment
    cache: LabelCache
    ranking: PartRanking | None

    @classmethod
    def build(cls, segment: Segment, base: Base) -> "Added":
        """Index a segment as the base is indexed; every process must call this function."""
        block, mesh = base.heads.cross_attention, base.heads.mesh
        cache = LabelCache.build(segment.bags, segment.offsets, segment.z, block, mesh)
        if base.ranking is None:
            found = cls(base, segment, cache, None)
            _ = found.index
            return found
        vectors = LabelIndex.build_grouped(_entries(segment, True), base.index.config, mesh)
        alone = np.diff(segment.point_offsets) == 0
        lenders = None
        if base.lenders and alone.any():
            # One vector a label: among all entries, a label need not be nearest to itself.
            near = base.ranking.vectors() if base.ranking.vectors else base.index
            lenders = _lenders(near, base.ranking, segment.z, alone, base.lenders)
        joined = _joined(base.ranking, segment, vectors, cache, lenders)
        return cls(base, segment, cache, joined)

    @functools.cached_property
    def index(self) -> LabelIndex:
        """The entries of the added labels; only the paper's mix searches them."""
        base = self.base.index
        pooled = np.diff(base.entries.offsets).max(initial=0) <= 1
        entries = _entries(self.segment, bool(pooled))
        return LabelIndex.build_grouped(entries, base.config, self.base.heads.mesh)

    def rank(
        self, points: Embedding, x: Float[np.ndarray, "b d"], k: int, barred: Barred | None
    ) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
        """Return the k best labels by the paper's mix and their scores, best first.

        Args:
            points: the datapoints on the devices.
            x: x1 of the datapoints; those in `points` after them are padding.
            k: the length of a shortlist.
            barred: what each datapoint must not get.
        """
        base, offset = self.base, len(self.base.index.entries.offsets) - 1
        ours, theirs = None, None
        if barred is not None:
            ours = barred.part(0, offset)
            theirs = barred.part(offset, offset + len(self.segment))
        lists = allowed_points(base.index, x, k, ours)
        more = allowed_points(self.index, x, k, theirs)
        shifted = np.where(more.labels < 0, -1, more.labels + offset)
        labels, a = best_first(
            np.concatenate([lists.labels, shifted], axis=1),
            np.concatenate([lists.similarities, more.similarities], axis=1),
            k,
        )
        known = np.where(labels < offset, labels, -1)
        c = scoring.classify(base.heads, points, base.cache, known)
        new = np.where(labels >= offset, labels - offset, -1)
        c = np.where(new < 0, c, scoring.classify(base.heads, points, self.cache, new))
        real = labels >= 0
        scores = np.float32(base.mix) * c + np.float32(1 - base.mix) * np.where(real, a, 0)
        scores = np.where(real, scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(labels, order, 1), np.take_along_axis(scores, order, 1)


def _entries(segment: Segment, pooled: bool) -> LabelEntries:
    """Return the entries of added labels: their bags, or one vector each."""
    vectors, offsets = segment.bags, segment.offsets
    if pooled:
        vectors, offsets = segment.z, np.arange(len(segment) + 1)
    return LabelEntries(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), offsets)


def _joined(
    ranking: PartRanking,
    segment: Segment,
    vectors: LabelIndex,
    cache: LabelCache,
    lenders: csr_matrix | None,
) -> PartRanking:
    """Return a ranking of the labels of training and the added ones.

    What reads training points (mu, v, g, sg, tv) knows the added labels that go with some. To
    others, labels of training that are like them lend a share of what v, g, sg and tv tell.
    """
    parts, offset = {}, len(ranking.trained)
    vote, goes_with = ranking.parts.get("v"), np.diff(segment.point_offsets) > 0
    for name, part in ranking.parts.items():
        own: Part | None = None
        if name == "z":
            own = Nearest(vectors)
        elif isinstance(part, Classifiers):
            own = Classifiers(part.heads, cache, vectors)
        elif isinstance(part, Titles):
            words = part.words
            rows = words.rows(segment.titles)
            own = Titles(TitleWords(words.vocabulary, words.weights, rows))
        elif name == "mu" and isinstance(vote, Vote) and goes_with.any():
            own = Nearest(_centroids(vote.index, segment))
        elif goes_with.any():
            own = _remembering(part, segment)
        lends = None if isinstance(part, Titles) else lenders
        parts[name] = Joined(part, own, offset, len(segment), lends)
    trained = np.concatenate([ranking.trained, goes_with])
    return dataclasses.replace(ranking, parts=parts, trained=trained)


def _remembering(part: Part, segment: Segment) -> Part | None:
    """Return a part that reads training points, over added labels instead of those of training."""
    if isinstance(part, Vote):
        return dataclasses.replace(part, pairs=segment.pairs(len(part.pairs.indptr) - 1))
    if isinstance(part, TitleVote):
        return part.over(segment.pairs(len(part.pairs.indptr) - 1))
    if isinstance(part, KnownWalk | SoftWalk):
        pairs = segment.pairs(len(part.walk.counts))
        return dataclasses.replace(part, walk=part.walk.to_others(pairs))
    return None


def _centroids(points: LabelIndex, segment: Segment) -> LabelIndex:
    """Return an index of the centroids of the training points that added labels go with.

    Args:
        points: of x1 of the training points.
        segment: the added labels.
    """
    entries = points.entries
    rows = (np.ones(len(entries.vectors)), np.arange(len(entries.vectors)), entries.offsets)
    pairs = segment.pairs(len(entries.offsets) - 1).T @ csr_matrix(rows)
    labels, means = centroids(csr_matrix(pairs), entries.vectors)
    means = np.asarray(means, np.float32)
    return LabelIndex.build(means, labels, points.config, len(segment))


def _lenders(
    index: LabelIndex,
    ranking: PartRanking,
    z: Float32[np.ndarray, "n d"],
    alone: Bool[np.ndarray, " n"],
    count: int,
) -> csr_matrix:
    """Return added labels x labels of training: the trained labels that are most like each.

    Args:
        index: of z of the labels of training.
        ranking: which of them are trained.
        z: of the added labels.
        alone: which of these go with no training point; to others, nothing is lent.
        count: of lenders, for a label.
    """
    untrained = np.flatnonzero(~ranking.trained).astype(np.int32)
    alike = Barred(np.full((len(z), 1), -1, np.int32), untrained)
    nearest = allowed_points(index, z, count, alike)
    lent = softmax_rows(nearest, _TEMPERATURE, len(ranking.trained))
    return csr_matrix(scipy.sparse.diags(_SHARE * alone) @ lent)
