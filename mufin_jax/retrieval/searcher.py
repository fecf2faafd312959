"""How an index searches: exactly with numpy, exactly or approximately over a mesh, or with ScaNN.

Every searcher returns labels with their exact similarities. It differs in which entries it looks
at, and in what it must do to get k distinct labels out of the nearest entries.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int64

from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries, best_first
from mufin_jax.retrieval.scann import Tree
from mufin_jax.retrieval.sharded import MeshSearch
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed.mesh import make_mesh

_CELLS = 1 << 21  # retrieved entries held at once
_WIDENINGS = 2  # a search that looks further: 3 k entries, 12 k, 48 k
_FEWEST = 200  # entries that ScaNN is asked for, at least: fewer do not make the search faster
_CANDIDATES = 0.4  # labels compared exactly, for each entry that approximate search is asked for

Queries = Float32[np.ndarray, "b d"]
Found = tuple[Int64[np.ndarray, "b m"], Float32[np.ndarray, "b m"]]
"""Entries (-1: none) and their cosines, best first."""


@runtime_checkable  # tests check types when they run
class Searcher(Protocol):
    """Finds the labels whose entries are nearest to queries."""

    @property
    def exact(self) -> bool:
        """Whether a search compares the query with every entry."""
        ...

    def shortlist(self, queries: Queries, k: int) -> Shortlist:
        """Return the k nearest labels that the search finds, with their exact similarities.

        Best first; equal similarities are ordered by label.
        """
        ...

    def warm_up(self, queries: Queries, k: int) -> None:
        """Compile what `shortlist` needs for so many queries, whatever the queries are."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a search needs besides the entries, if anything, to an index's folder."""
        ...


@dataclasses.dataclass(frozen=True)
class ExactSearcher:
    """Compares queries with all entries, in numpy."""

    entries: LabelEntries
    exact: bool = True

    def shortlist(self, queries: Queries, k: int) -> Shortlist:
        """Return the k nearest labels; see `Searcher`."""
        return Shortlist(*self.entries.exact_search(queries, k))

    def warm_up(self, queries: Queries, k: int) -> None:
        """Do nothing: numpy compiles nothing."""

    def save(self, folder: Path) -> None:
        """Write nothing: the entries are enough."""


@dataclasses.dataclass(frozen=True)
class MeshSearcher:
    """Searches entries that are split over the devices.

    With several processes, all of them must ask the same.

    Attributes:
        entries: of all labels, on the host.
        search: the entries on the devices.
        over_fetch: entries to find first, in multiples of k.
    """

    entries: LabelEntries
    search: MeshSearch
    over_fetch: int

    @property
    def exact(self) -> bool:
        """Whether a search compares the query with every entry."""
        return not self.search.approximate

    def shortlist(self, queries: Queries, k: int) -> Shortlist:
        """Return the k nearest labels; see `Searcher`."""

        def find(queries: Queries, widening: int) -> tuple[Found, bool]:
            fetch = self._fetch(k, widening)
            return self.search.search(queries, fetch), fetch == self.search.size

        fetch = self.over_fetch * k
        if self.exact:  # the best entry of a label that it found is the label's best of all
            return _distinct(self.entries, find, queries, k, k, fetch)
        candidates = _distinct(self.entries, find, queries, k, _candidates(k, fetch), fetch)
        return _compared(self.entries, queries, candidates, k)

    def warm_up(self, queries: Queries, k: int) -> None:
        """Compile searches that look further as well.

        They happen where few labels own the nearest entries, which these queries may not meet.
        """
        self.shortlist(queries, k)
        for widening in range(1, _WIDENINGS + 1):
            self.search.search(queries, self._fetch(k, widening))

    def save(self, folder: Path) -> None:
        """Write nothing: the entries are enough."""

    def _fetch(self, k: int, widening: int) -> int:
        return min(4**widening * min(self.over_fetch * k, self.search.size), self.search.size)


@dataclasses.dataclass(frozen=True)
class TreeSearcher:
    """Searches some leaves of ScaNN's tree, then compares the labels found there exactly.

    Attributes:
        entries: of all labels; their vectors may be a map of a file.
        tree: the entries as ScaNN knows them, by their codes.
        config: how many leaves a query visits, and how many entries it takes.
    """

    entries: LabelEntries
    tree: Tree
    config: IndexConfig
    exact: bool = False

    def shortlist(self, queries: Queries, k: int) -> Shortlist:
        """Return the k nearest labels that the search finds; see `Searcher`."""
        fetch, size = max(self.config.reorder * k, _FEWEST), self.tree.size
        first = min(fetch, size)
        share = self.config.share(size, first)

        def find(queries: Queries, widening: int) -> tuple[Found, bool]:
            wanted, visited = min(4**widening * first, size), 4**widening * share
            found = self.tree.search(queries, wanted, visited)
            return found, wanted == size and visited >= 1

        candidates = _distinct(self.entries, find, queries, k, _candidates(k, fetch), fetch)
        return _compared(self.entries, queries, candidates, k)

    def warm_up(self, queries: Queries, k: int) -> None:
        """Search once: threads start, and pages of the tree are read."""
        self.shortlist(queries, k)

    def save(self, folder: Path) -> None:
        """Write the tree to the folder `tree`."""
        (folder / "tree").mkdir(exist_ok=True)
        self.tree.save(folder / "tree")


def searcher_on(
    how: str, entries: LabelEntries, config: IndexConfig, mesh: Mesh | None
) -> Searcher:
    """Return the searcher of a backend that needs nothing but the entries.

    Args:
        how: "exact", "sharded" or "sharded_approx".
        entries: of all labels.
        config: how far searches look.
        mesh: where a sharded search runs; all devices by default.
    """
    if how == "exact":
        return ExactSearcher(entries)
    search = MeshSearch.build(entries.vectors, mesh or make_mesh(), how == "sharded_approx")
    return MeshSearcher(entries, search, config.over_fetch)


def _candidates(k: int, fetch: int) -> int:
    """Return how many labels are compared exactly after an approximate search."""
    return max(k, math.ceil(_CANDIDATES * fetch))


def _compared(entries: LabelEntries, queries: Queries, candidates: Shortlist, k: int) -> Shortlist:
    """Return the k best of candidates by their exact similarities."""
    similarities = entries.exact_similarity(queries, candidates.labels)
    return Shortlist(*best_first(candidates.labels, similarities, k))


def _distinct(
    entries: LabelEntries,
    find: Callable[[Queries, int], tuple[Found, bool]],
    queries: Queries,
    k: int,
    most: int,
    fetch: int,
) -> Shortlist:
    """Return the best distinct labels among the entries that a search finds.

    A label's similarity is that of the best of its entries, as the search reports it.

    Args:
        entries: of all labels.
        find: searches for queries; with each widening it looks four times as far. It returns the
            entries found, and whether it has looked at all there are.
        queries: unit vectors.
        k: labels that a row must get, where there are so many; until then the search is widened.
        most: labels of a row.
        fetch: entries of a row in the first search; it bounds the rows that are searched together.
    """
    size, wanted = len(entries.vectors), min(k, len(entries.filled))
    labels = np.full((len(queries), most), -1, np.int32)
    similarities = np.full((len(queries), most), -np.inf, np.float32)
    short, widening, everything = np.arange(len(queries)), 0, False
    while len(short):
        for block in cut(len(short), _CELLS // min(4**widening * fetch, size)):
            rows = short[block]
            found, everything = find(queries[rows], widening)
            labels[rows], similarities[rows] = entries.first_distinct(*found, most)
        if everything:
            break
        # Where few labels own the nearest entries, look further, for those rows alone.
        short, widening = short[(labels[short] >= 0).sum(1) < wanted], widening + 1
    return Shortlist(labels, similarities)
