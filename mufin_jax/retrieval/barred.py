"""Labels that datapoints must not get: the items that they are, and those that a caller excludes.

A list is searched longer by as many labels as can drop out of it. It is never shorter for what is
barred, as long as the index has other labels.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from mufin_jax.retrieval.index import LabelIndex, shortlist_points
from mufin_jax.retrieval.shortlist import Shortlist

FEWEST_SPARE = 16
"""Labels that a list is searched longer by, at least, if any are barred ..."""
_GROWTH = 4
"""... and how much longer each next size is: few lengths are compiled."""


@dataclasses.dataclass(frozen=True)
class Barred:
    """What each datapoint of a block must not get.

    Attributes:
        own: labels barred for one datapoint, distinct; -1 fills a row up.
        everywhere: labels barred for all datapoints, ascending, distinct.
    """

    own: Int32[np.ndarray, "b o"]
    everywhere: Int32[np.ndarray, " e"]

    @functools.cached_property
    def spare(self) -> Int64[np.ndarray, " b"]:
        """By how many labels the list of each datapoint is searched longer."""
        counts = (self.own >= 0).sum(1) + len(self.everywhere)
        spare = np.where(counts > 0, FEWEST_SPARE, 0)
        while (spare < counts).any():
            spare = np.where(spare < counts, spare * _GROWTH, spare)
        return spare.astype(np.int64)

    def at(self, rows: Int[np.ndarray, " n"]) -> "Barred":
        """Return what is barred for some datapoints."""
        return Barred(self.own[rows], self.everywhere)

    def allows(self, labels: Int32[np.ndarray, "b c"]) -> Bool[np.ndarray, "b c"]:
        """Return which labels of each datapoint are real and not barred."""
        allowed = (labels >= 0) & ~np.isin(labels, self.everywhere)
        for column in self.own.T:
            allowed &= labels != column[:, None]
        return allowed

    def cut(self, lists: Shortlist, k: int) -> Shortlist:
        """Return lists without what is barred, and of length k; labels after it move up."""
        allowed = self.allows(lists.labels)
        order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
        allowed = np.take_along_axis(allowed, order, 1)
        labels = np.where(allowed, np.take_along_axis(lists.labels, order, 1), -1)
        near = np.where(allowed, np.take_along_axis(lists.similarities, order, 1), -np.inf)
        return Shortlist(labels.astype(np.int32), near.astype(np.float32))


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
    labels = np.full((len(x), k), -1, np.int32)
    similarities = np.full((len(x), k), -np.inf, np.float32)
    for spare in np.unique(barred.spare):
        rows = np.flatnonzero(barred.spare == spare)
        wide = k + min(int(spare), len(index.entries.offsets) - 1)
        found = barred.at(rows).cut(shortlist_points(index, x[rows], wide), k)
        labels[rows], similarities[rows] = found.labels, found.similarities
    return Shortlist(labels, similarities)
