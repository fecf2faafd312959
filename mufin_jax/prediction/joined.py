"""A part of a score over two sets of labels: those of training, and those added afterwards."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32
from scipy.sparse import csr_matrix

from mufin_jax.prediction.parts import Answer, Part, Query, Rows
from mufin_jax.retrieval.exact import best_first
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.retrieval.sparse_scores import product


@dataclasses.dataclass(frozen=True)
class _Both:
    """The answer of `Joined`: each part is asked in its own numbers of labels."""

    base: Answer
    added: Answer | None
    offset: int

    def shortlist(self, k: int) -> Shortlist:
        lists = self.base.shortlist(k)
        if self.added is None:
            return lists
        more = self.added.shortlist(k)
        shifted = np.where(more.labels < 0, -1, more.labels + self.offset).astype(np.int32)
        labels = np.concatenate([lists.labels, shifted], axis=1)
        values = np.concatenate([lists.similarities, more.similarities], axis=1)
        return Shortlist(*best_first(labels, values, k))

    def at(self, labels: Int32[np.ndarray, "b c"]) -> Float32[np.ndarray, "b c"]:
        known = np.where(labels < self.offset, labels, -1).astype(np.int32)
        values = np.array(self.base.at(known))
        columns = np.flatnonzero((labels >= self.offset).any(0))
        if self.added is None or not len(columns):
            return values
        some = labels[:, columns]
        own = np.where(some >= self.offset, some - self.offset, -1).astype(np.int32)
        values[:, columns] = np.where(own < 0, values[:, columns], self.added.at(own))
        return values


@dataclasses.dataclass(frozen=True)
class Joined:
    """A part over the labels of training and over added labels, numbered after them.

    Attributes:
        base: the part over the labels of training.
        added: the part over the added labels, numbered from 0; None knows nothing of them.
        offset: L, the number of labels of training.
        count: how many labels were added.
        lenders: added labels x labels of training: the shares that added labels have of the values
            of others, where the part knows few labels of a datapoint; None lends nothing.
    """

    base: Part
    added: Part | None
    offset: int
    count: int
    lenders: csr_matrix | None = None

    def ask(self, query: Query) -> Answer:
        """Return what the part says of the labels."""
        base = self.base.ask(_about(query, 0, self.offset))
        query = _about(query, self.offset, self.offset + self.count)
        own = None if self.added is None else self.added.ask(query)
        if self.lenders is not None and isinstance(base, Rows):
            scores = product(base.scores, csr_matrix(self.lenders.T))
            if isinstance(own, Rows):
                scores = csr_matrix(scores + own.scores)
            own = Rows(scores, query.barred)
        return _Both(base, own, self.offset)


def _about(query: Query, start: int, stop: int) -> Query:
    """Return the query for the labels of start to stop, numbered from 0."""
    if query.barred is None:
        return query
    return dataclasses.replace(query, barred=query.barred.part(start, stop))
