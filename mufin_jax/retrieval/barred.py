"""Which labels a datapoint may get: not the item that it is, nor those that a caller excludes.

A caller may also restrict answers to some labels. Lists are never shorter for any of this, as long
as the index has other labels: a list that comes short is searched again, longer. Few allowed labels
are compared exactly.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32
from scipy.sparse import csr_matrix

from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex, shortlist_points
from mufin_jax.retrieval.searcher import ExactSearcher
from mufin_jax.retrieval.shortlist import Shortlist

FEWEST_SPARE = 16
"""Labels that a list is searched longer by at first, at least, if any are barred ..."""
_GROWTH = 4
"""... and how much longer each next search is: few lengths are compiled."""
_MARGIN = 1.5
"""A first search is longer by so many times what drops out of a list on average."""
_EXACT = 100_000
"""Entries of allowed labels that are compared exactly, at most: this bounds their memory."""


class Within:
    """The labels to which answers are restricted; it keeps what it made of each index.

    Args:
        labels: ascending, distinct.
    """

    def __init__(self, labels: Int32[np.ndarray, " n"]):
        self.labels = labels
        self._indices: dict[int, tuple[LabelIndex, LabelIndex]] = {}
        self._parts: dict[tuple[int, int], Within] = {}

    def index_of(self, index: LabelIndex) -> LabelIndex | None:
        """Return an exact index of the allowed labels alone, in their order; None if too many."""
        if id(index) not in self._indices:  # the index is kept, too: its id stays its own
            entries = index.entries
            counts = entries.offsets[self.labels + 1] - entries.offsets[self.labels]
            if counts.sum() > _EXACT:
                return None
            offsets = np.concatenate([[0], np.cumsum(counts)])
            rows = np.repeat(entries.offsets[self.labels] - offsets[:-1], counts)
            vectors = np.asarray(entries.vectors)[rows + np.arange(offsets[-1])]
            some = LabelEntries(vectors, offsets)
            self._indices[id(index)] = index, LabelIndex(some, index.config, ExactSearcher(some))
        return self._indices[id(index)][1]

    def part(self, start: int, stop: int) -> "Within":
        """Return the allowed labels of start to stop, numbered from 0."""
        if (start, stop) not in self._parts:
            self._parts[start, stop] = Within(_part(self.labels, start, stop))
        return self._parts[start, stop]


@dataclasses.dataclass(frozen=True)
class Barred:
    """What each datapoint of a block must not get.

    Attributes:
        own: labels barred for one datapoint, distinct; -1 fills a row up.
        everywhere: labels barred for all datapoints, ascending, distinct.
        within: the labels that are allowed at all; None allows all.
    """

    own: Int32[np.ndarray, "b o"]
    everywhere: Int32[np.ndarray, " e"]
    within: Within | None = None

    @property
    def rows(self) -> Bool[np.ndarray, " b"]:
        """Whether anything is barred for each datapoint."""
        if len(self.everywhere) or self.within is not None:
            return np.ones(len(self.own), bool)
        return np.asarray((self.own >= 0).any(1))

    def at(self, rows: Int[np.ndarray, " n"]) -> "Barred":
        """Return what is barred for some datapoints."""
        return dataclasses.replace(self, own=self.own[rows])

    def part(self, start: int, stop: int) -> "Barred":
        """Return what is barred of the labels of start to stop, numbered from 0."""
        here = (self.own >= start) & (self.own < stop)
        within = None if self.within is None else self.within.part(start, stop)
        own = np.where(here, self.own - start, -1).astype(np.int32)
        return Barred(own, _part(self.everywhere, start, stop), within)

    def allows(self, labels: Int32[np.ndarray, "b c"]) -> Bool[np.ndarray, "b c"]:
        """Return which labels of each datapoint are real and not barred."""
        allowed = (labels >= 0) & self._anyone(labels)
        for column in self.own.T:
            allowed &= labels != column[:, None]
        return allowed

    def _anyone(self, labels: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Return which labels are not barred for all datapoints."""
        allowed = ~np.isin(labels, self.everywhere)
        return allowed if self.within is None else allowed & np.isin(labels, self.within.labels)

    def cut(self, lists: Shortlist, k: int) -> Shortlist:
        """Return lists without what is barred, and of length k; labels after it move up."""
        allowed = self.allows(lists.labels)
        order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
        allowed = np.take_along_axis(allowed, order, 1)
        labels = np.where(allowed, np.take_along_axis(lists.labels, order, 1), -1)
        near = np.where(allowed, np.take_along_axis(lists.similarities, order, 1), -np.inf)
        return Shortlist(labels.astype(np.int32), near.astype(np.float32))

    def left(self, scores: csr_matrix) -> csr_matrix:
        """Return datapoints x labels without what is barred."""
        counts = np.diff(scores.indptr)
        rows = np.repeat(np.arange(len(counts)), counts)
        kept = self._anyone(scores.indices)
        for column in self.own.T:
            kept &= scores.indices != column[rows]
        ends = np.concatenate([[0], np.cumsum(kept)])[scores.indptr]
        return csr_matrix((scores.data[kept], scores.indices[kept], ends), scores.shape)


def first_spare(k: int, barred: int, labels: int) -> int:
    """Return by how many labels the first search for k labels is longer.

    Args:
        k: the length of a list.
        barred: labels barred for all datapoints.
        labels: that the index has.
    """
    spare, share = FEWEST_SPARE, min(barred / max(labels, 1), 1)
    while spare * (1 - share) < _MARGIN * k * share and spare < labels:
        spare *= _GROWTH
    return spare


def allowed_points(
    index: LabelIndex, x: Float32[np.ndarray, "b d"], k: int, barred: Barred | None
) -> Shortlist:
    """Return the shortlists of datapoints without what is barred for each; see `shortlist_points`.

    The list of a datapoint does not depend on what is barred for the others of its block.

    Args:
        index: what is searched.
        x: x1 of the datapoints, zero for one without any descriptor.
        k: the length of a shortlist.
        barred: None bars nothing.
    """
    if barred is None:
        return shortlist_points(index, x, k)
    search, some, gone = functools.partial(shortlist_points, index), None, len(barred.everywhere)
    if barred.within is not None:
        some = barred.within.index_of(index)
        gone += len(index.entries.offsets) - 1 - len(barred.within.labels)
        if some is not None:
            search, gone = functools.partial(_search_within, barred.within, some), 0
    most = max(k, len((some or index).entries.filled))
    found = Shortlist(np.full((len(x), k), -1, np.int32), np.full((len(x), k), -np.inf, np.float32))
    free, short = np.flatnonzero(~barred.rows), np.flatnonzero(barred.rows)
    if len(free):
        lists = shortlist_points(index, x[free], k)
        found.labels[free], found.similarities[free] = lists.labels, lists.similarities
    spare = first_spare(k, gone, most)
    while len(short):
        wide = min(k + spare, most)
        lists = search(x[short], wide)
        kept = barred.at(short).cut(lists, k)
        found.labels[short], found.similarities[short] = kept.labels, kept.similarities
        # A list that has a free place before anything is cut out holds all that there is.
        more = (kept.labels[:, -1] < 0) & (lists.labels[:, -1] >= 0) & (wide < most)
        short, spare = short[more], spare * _GROWTH
    return found


def _search_within(
    within: Within, some: LabelIndex, x: Float32[np.ndarray, "b d"], k: int
) -> Shortlist:
    """Return the shortlists of datapoints by the index of the allowed labels alone."""
    found = shortlist_points(some, x, k)
    if not len(within.labels):
        return found
    labels = np.where(found.labels < 0, -1, within.labels[found.labels])
    return Shortlist(labels.astype(np.int32), found.similarities)


def _part(labels: Int32[np.ndarray, " n"], start: int, stop: int) -> Int32[np.ndarray, " m"]:
    """Return those of ascending labels that are in start to stop, minus start."""
    first, last = np.searchsorted(labels, [start, stop])
    return (labels[first:last] - start).astype(np.int32)
