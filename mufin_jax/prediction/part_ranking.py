"""Ranking by parts: the union of the parts' own lists, scored by every part, mixed by weights."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from mufin_jax.data.dataset import Side
from mufin_jax.data.own_labels import LabelFinder, own_labels
from mufin_jax.data.strings import Strings
from mufin_jax.model.heads import Embedding
from mufin_jax.prediction.mix import Mix
from mufin_jax.prediction.parts import WIDTH, Known, Part, Query
from mufin_jax.retrieval.barred import Barred
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.padding import next_multiple

_LAST = np.iinfo(np.int32).max
"""Stands for no label where labels are sorted."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Labels that some part has listed, with what every part says of them.

    Attributes:
        labels: ascending, distinct; -1 fills a row up.
        values: of each part, by name.
        trained: whether a label has a training pair.
        warm: whether a datapoint is a label with a training pair itself.
    """

    labels: Int32[np.ndarray, "b c"]
    values: dict[str, Float32[np.ndarray, "b c"]]
    trained: Bool[np.ndarray, "b c"]
    warm: Bool[np.ndarray, " b"]

    def at(self, rows: Int[np.ndarray, " n"]) -> "Candidates":
        """Return the candidates of some datapoints."""
        values = {name: value[rows] for name, value in self.values.items()}
        return Candidates(self.labels[rows], values, self.trained[rows], self.warm[rows])

    def among(self, labels: Int32[np.ndarray, "b w"]) -> "Candidates":
        """Return what is known of some of the candidates.

        Args:
            labels: of each datapoint, all of them candidates: a `union` of lists.
        """
        rows = np.arange(len(labels))[:, None] << 32  # keys grow within rows and from row to row
        own, asked = (rows | np.where(some < 0, _LAST, some) for some in (self.labels, labels))
        # A free place may be looked for in a row that has none: what is found there is not real.
        place = np.minimum(np.searchsorted(own.ravel(), asked.ravel()), own.size - 1)
        real = labels >= 0

        def take(array: np.ndarray) -> np.ndarray:
            return np.where(real, array.ravel()[place].reshape(labels.shape), array.dtype.type(0))

        values = {name: take(value) for name, value in self.values.items()}
        return Candidates(labels, values, take(self.trained), self.warm)

    @classmethod
    def joined(cls, blocks: Sequence["Candidates"]) -> "Candidates":
        """Return the candidates of all blocks, at least one, as one."""
        width = max(block.labels.shape[1] for block in blocks)

        def join(arrays: list[np.ndarray], fill: int) -> np.ndarray:
            wide = [
                np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=fill)
                for one in arrays
            ]
            return np.concatenate(wide)

        return cls(
            join([block.labels for block in blocks], -1),
            {name: join([block.values[name] for block in blocks], 0) for name in blocks[0].values},
            join([block.trained for block in blocks], 0),
            np.concatenate([block.warm for block in blocks]),
        )

    def mixed(self, mix: Mix) -> Float[np.ndarray, "b c"]:
        """Return the scores under a mix; -inf where there is no label."""
        scores = mix.scores(self.values, self.trained, self.warm)
        return np.where(self.labels >= 0, scores, -np.inf)

    def ranked(
        self, scores: Float[np.ndarray, "b c"], k: int
    ) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
        """Return the k labels of largest score and their scores, best first, ties by label."""
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        labels = np.full((len(scores), k), -1, np.int32)
        best = np.full((len(scores), k), -np.inf, np.float32)
        labels[:, : order.shape[1]] = np.take_along_axis(self.labels, order, 1)
        best[:, : order.shape[1]] = np.take_along_axis(scores, order, 1)
        return labels, best


@dataclasses.dataclass(frozen=True)
class PartRanking:
    """Ranks labels by the mix of several parts.

    Attributes:
        parts: those that can be asked, by name.
        mix: their weights; a part without a weight is not asked.
        trained: whether each label has a training pair.
        label_ids: of the labels that a datapoint can be; added labels come after these.
        vectors: loads the index of the labels' vectors z, whether the part z has a weight or not;
            None where there is no such index.
    """

    parts: Mapping[str, Part]
    mix: Mix
    trained: Bool[np.ndarray, " l"]
    label_ids: Strings
    vectors: Callable[[], LabelIndex] | None = None

    @functools.cached_property
    def _finder(self) -> LabelFinder:
        """Finds trained labels; made when an item is first asked for by its id, or before."""
        return LabelFinder(self.label_ids, np.flatnonzero(self.trained[: len(self.label_ids)]))

    @functools.cached_property
    def _own_of_sides(self) -> dict[str, tuple[Strings, Int64[np.ndarray, " n"]]]:
        return {}

    def known(self, titles: Sequence[str], ids: Sequence[str | None]) -> Known:
        """Return what is known of items with these titles and ids, some of which have no id."""
        own = [-1 if uid is None else self._finder.find(uid) for uid in ids]
        return Known(titles, np.array(own, np.int64))

    def known_of(self, side: Side, rows: Int[np.ndarray, " b"]) -> Known:
        """Return what is known of items of a side of a prepared folder."""
        ids, trained = self._own_of_sides.get(side.name, (None, None))
        if trained is None or ids is not side.ids:  # sides of other folders have the same names
            own = own_labels(side.ids, self.label_ids)
            trained = np.where(self.trained[own], own, -1)
            self._own_of_sides[side.name] = side.ids, trained
        return Known(side.titles.at(rows), trained[rows])

    def rank(
        self, query: Query, k: int
    ) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
        """Return the k best labels of datapoints and their scores, best first.

        Args:
            query: the datapoints.
            k: the length of a list, and of the list that each part brings.
        """
        named = {name: self.parts[name] for name in self.mix.names}
        found = candidates(named, query, k, self.trained)
        return found.ranked(found.mixed(self.mix), k)

    def warm_up(self, points: Embedding, x: Float32[np.ndarray, "b d"], k: int) -> None:
        """Compile what `rank` needs for so many datapoints, whatever they are.

        Args:
            points: embeddings of the shapes that are served.
            x: unit vectors, which the indices are asked for.
            k: as for `rank`.
        """
        own = Barred(np.zeros((len(x), 1), np.int32), np.zeros(0, np.int32))  # an item with an id
        query = Query(points, x, self.known([""] * len(x), [""] * len(x)))
        for name in self.mix.names:
            self.parts[name].ask(dataclasses.replace(query, barred=own)).shortlist(k)
            answer = self.parts[name].ask(query)
            answer.shortlist(k)
            if name == "c":
                for width in range(WIDTH, next_multiple(len(self.mix.names) * k, WIDTH) + 1, WIDTH):
                    answer.at(np.full((len(x), width), -1, np.int32))


def candidates(
    parts: Mapping[str, Part], query: Query, k: int, trained: Bool[np.ndarray, " l"]
) -> Candidates:
    """Return the union of the parts' lists of k labels, and what every part says of each.

    Args:
        parts: those that are asked.
        query: the datapoints.
        k: the length of a part's own list.
        trained: whether each label has a training pair.
    """
    return listed_candidates(parts, query, k, trained)[0]


def listed_candidates(
    parts: Mapping[str, Part], query: Query, k: int, trained: Bool[np.ndarray, " l"]
) -> tuple[Candidates, dict[str, Shortlist]]:
    """Return what `candidates` returns, and the lists of the parts by name."""
    answers = {name: part.ask(query) for name, part in parts.items()}
    lists = {name: answer.shortlist(k) for name, answer in answers.items()}
    labels = union(list(lists.values()))
    values = {name: answer.at(labels) for name, answer in answers.items()}
    known = trained[labels] & (labels >= 0)
    return Candidates(labels, values, known, query.known.own >= 0), lists


def union(lists: Sequence[Shortlist]) -> Int32[np.ndarray, "b c"]:
    """Return the distinct labels of several lists of each datapoint, ascending, then -1."""
    joined = np.concatenate([one.labels for one in lists], axis=1)
    joined = np.sort(np.where(joined < 0, _LAST, joined), axis=1)
    joined[:, 1:][joined[:, 1:] == joined[:, :-1]] = _LAST
    joined.sort(axis=1)
    width = max(int((joined < _LAST).sum(1).max(initial=0)), 1)
    return np.where(joined < _LAST, joined, -1)[:, :width].astype(np.int32)
