"""The catalogue: the labels that can be recommended now, with their numbers, ids and titles.

Labels of training have the numbers that they have in the prepared folder.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int32

from mufin_jax.data.dataset import Side
from mufin_jax.data.own_labels import LabelFinder
from mufin_jax.data.strings import Strings


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The labels that can be recommended now.

    Attributes:
        ids: of the labels of training.
        titles: of the labels of training, "" where there is none.
    """

    ids: Strings
    titles: Strings

    @classmethod
    def of(cls, labels: Side) -> "Catalogue":
        """Return the catalogue of all labels of training, and no other."""
        return cls(labels.ids, labels.titles)

    @property
    def num_labels(self) -> int:
        """How many numbers of labels there are."""
        return len(self.ids)

    def id_of(self, label: int) -> str:
        """Return the id of a label."""
        return self.ids[label]

    def title_of(self, label: int) -> str:
        """Return the title of a label, "" if it has none."""
        return self.titles[label]

    def all_of(self, uid: str) -> Iterator[int]:
        """Yield the labels with this id, the last one first."""
        yield from self.finder.all_of(uid)

    def labels_of(self, ids: Iterable[str]) -> Int32[np.ndarray, " n"]:
        """Return the labels with any of these ids, ascending; an id of no label has none."""
        return np.array(sorted({label for uid in ids for label in self.all_of(uid)}), np.int32)

    @functools.cached_property
    def finder(self) -> LabelFinder:
        """Finds labels of training by their ids; made when the first id is asked for, or before."""
        return LabelFinder(self.ids, np.arange(len(self.ids)))
