"""The parts of a score: each compares a datapoint with labels in its own way (docs/recipe.md).

    z    x1·z_l, the label as its own titles and pictures describe it
    mu   x1·mu_l, the label as the centroid of its training points
    c    x2_l·w_l, the label's classifier (paper, section 3)
    v    the vote of the training points nearest to x1, for their labels
    g    the walk over the training pairs, from the label that is the datapoint itself
    sg   the soft walk: the labels nearest to x1 stand for the datapoint
    t    the cosine of the words of the two titles
    tv   the vote of the training points with the most similar titles, for their labels

A part first answers with its own list of labels. Then every part scores the union of these lists.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import scipy.sparse
from jaxtyping import Float32, Int32, Int64
from scipy.sparse import csr_matrix

from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.prediction import scoring
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.retrieval.barred import Barred, allowed_points
from mufin_jax.retrieval.index import LabelIndex, shortlist_points
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.retrieval.sparse_scores import (
    best_labels,
    product,
    scores_at,
    share_rows,
    softmax_rows,
)
from mufin_jax.retrieval.walk import Walk, one_hot
from mufin_jax.retrieval.words import TitleWords
from mufin_jax.runtime.distributed.padding import next_multiple

PartName = Literal["z", "mu", "c", "v", "g", "sg", "t", "tv"]
PARTS: tuple[PartName, ...] = get_args(PartName)
WALKS: tuple[PartName, ...] = ("g", "sg")
"""The parts that read who was bought with whom, from the query on."""

WIDTH = 128
"""Candidates that classifiers score come in multiples of this: few shapes to compile."""


class Known(NamedTuple):
    """What is known of a block of datapoints besides their vectors.

    Attributes:
        titles: "" where there is none.
        own: the label with a training pair that is the same item, -1 if there is none: a datapoint
            is warm or cold.
    """

    titles: Sequence[str]
    own: Int64[np.ndarray, " b"]


@dataclasses.dataclass(frozen=True)
class Query:
    """What a block of datapoints asks with.

    Attributes:
        points: their embeddings on the devices; those after the first b are padding.
        x: x1 on the host; zero for a datapoint without any descriptor.
        known: their titles, and which labels they are.
        barred: labels that no part may list for them; None bars nothing.
    """

    points: Embedding
    x: Float32[np.ndarray, "b d"]
    known: Known
    barred: Barred | None = None


@runtime_checkable  # tests check types when they run
class Answer(Protocol):
    """What a part says of the labels, for one block of datapoints."""

    def shortlist(self, k: int) -> Shortlist:
        """Return the k best labels of the part; -1 where it knows no more."""
        ...

    def at(self, labels: Int32[np.ndarray, "b c"]) -> Float32[np.ndarray, "b c"]:
        """Return the part's values of labels; 0 where it knows nothing, and for label -1."""
        ...


@runtime_checkable  # tests check types when they run
class Part(Protocol):
    """One way to compare datapoints with labels."""

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        ...


@dataclasses.dataclass(frozen=True)
class _Near:
    """The answer of `Nearest`."""

    index: LabelIndex
    query: Query

    def shortlist(self, k: int) -> Shortlist:
        return allowed_points(self.index, self.query.x, k, self.query.barred)

    def at(self, labels: Int32[np.ndarray, "b c"]) -> Float32[np.ndarray, "b c"]:
        entries = self.index.entries
        known = (labels >= 0) & entries.has_entry[labels]
        cosines = entries.exact_similarity(self.query.x, np.where(known, labels, -1))
        return np.where(known, cosines, 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Nearest:
    """z and mu: the cosine of x1 with one vector a label.

    Attributes:
        index: of these vectors; labels without one are not in it.
    """

    index: LabelIndex

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        return _Near(self.index, query)


@dataclasses.dataclass(frozen=True)
class _Classified:
    """The answer of `Classifiers`."""

    part: "Classifiers"
    query: Query

    def shortlist(self, k: int) -> Shortlist:
        return allowed_points(self.part.index, self.query.x, k, self.query.barred)

    def at(self, labels: Int32[np.ndarray, "b c"]) -> Float32[np.ndarray, "b c"]:
        part, count = self.part, labels.shape[1]
        spare = next_multiple(count, WIDTH) - count
        wide = np.pad(labels, ((0, 0), (0, spare)), constant_values=-1)
        return scoring.classify(part.heads, self.query.points, part.cache, wide)[:, :count]


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """c: the label's classifier, on the datapoint as A_C shows it to the label.

    Its list comes from x1·w_l, which needs no attention.

    Attributes:
        heads: where A_C comes from.
        cache: bags and classifiers of all labels.
        index: of the classifiers w_l.
    """

    heads: Heads
    cache: LabelCache
    index: LabelIndex

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        return _Classified(self, query)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The answer of a part that knows few labels of a datapoint.

    Attributes:
        scores: datapoints x labels.
        barred: labels that it may not list.
    """

    scores: csr_matrix
    barred: Barred | None

    def shortlist(self, k: int) -> Shortlist:
        """Return the k best labels; see `Answer`."""
        scores = self.scores if self.barred is None else self.barred.left(self.scores)
        return best_labels(scores, k)

    def at(self, labels: Int32[np.ndarray, "b c"]) -> Float32[np.ndarray, "b c"]:
        """Return the values of labels; see `Answer`."""
        return scores_at(self.scores, labels)


@dataclasses.dataclass(frozen=True)
class Vote:
    """v: the training points nearest to x1 vote for their labels.

    A vote weighs as the softmax of the cosines over the nearest points.

    Attributes:
        index: of the training points that have a training pair.
        pairs: training points x labels, 1 where relevant.
        neighbours: points that vote.
        temperature: of the softmax.
    """

    index: LabelIndex
    pairs: csr_matrix
    neighbours: int
    temperature: float

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        nearest = shortlist_points(self.index, query.x, self.neighbours)
        votes = softmax_rows(nearest, self.temperature, len(self.pairs.indptr) - 1)
        return Rows(product(votes, self.pairs), query.barred)


def _walked(walk: Walk, rows: csr_matrix) -> csr_matrix:
    """Return the scores of the walk, made in blocks of bounded memory."""
    return csr_matrix(scipy.sparse.vstack([scores for _, scores in walk.blocks(rows)]))


@dataclasses.dataclass(frozen=True)
class KnownWalk:
    """g: the walk from the label that is the datapoint itself; a cold datapoint has none."""

    walk: Walk

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        rows = one_hot(query.known.own, self.walk.num_labels)
        return Rows(_walked(self.walk, rows), query.barred)


@dataclasses.dataclass(frozen=True)
class SoftWalk:
    """sg: the walk from the labels nearest to x1, which stand for the datapoint.

    Attributes:
        walk: over the training pairs.
        index: of z.
        stand_ins: how many labels stand for a datapoint.
        temperature: of the softmax over their cosines.
    """

    walk: Walk
    index: LabelIndex
    stand_ins: int
    temperature: float

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        nearest = shortlist_points(self.index, query.x, self.stand_ins)
        rows = softmax_rows(nearest, self.temperature, self.walk.num_labels)
        return Rows(_walked(self.walk, rows), query.barred)


@dataclasses.dataclass(frozen=True)
class Titles:
    """t: the cosine of the words of the datapoint's title and of the label's."""

    words: TitleWords

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        return Rows(self.words.scores(query.known.titles), query.barred)


class TitleVote:
    """tv: the training points with the most similar titles vote for their labels.

    A vote weighs as its cosine, and the votes of a datapoint sum up to 1.

    Args:
        words: the words of titles.
        voters: training points x words, unit rows; those without a training pair are empty.
        pairs: training points x labels, 1 where relevant.
        neighbours: points that vote.
    """

    def __init__(self, words: TitleWords, voters: csr_matrix, pairs: csr_matrix, neighbours: int):
        self.words, self.pairs, self.neighbours = words, pairs, neighbours
        self._by_word = csr_matrix(voters.T)

    def over(self, pairs: csr_matrix) -> "TitleVote":
        """Return the vote of the same points for other labels; pairs: points x these labels."""
        other = copy.copy(self)
        other.pairs = pairs
        return other

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        similar = product(self.words.rows(query.known.titles), self._by_word)
        nearest = best_labels(similar, self.neighbours)
        votes = share_rows(nearest, len(self.pairs.indptr) - 1)
        return Rows(product(votes, self.pairs), query.barred)
