"""The catalogue: the labels that can be recommended now, with their numbers, ids and titles.

They are the labels of training, without those that were removed, and the labels that were added.
Labels of training have the numbers that they have in the prepared folder; those of added labels
come after them, and may change with the next version of the catalogue.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from mufin_jax.data.dataset import Side
from mufin_jax.data.kept_fields import KeptFields
from mufin_jax.data.own_labels import LabelFinder
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.segment import Changes, Segment
from mufin_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Names:
    """The labels of training: their ids, their titles, and a finder.

    Attributes:
        ids: of the labels.
        titles: "" where there is none.
        kept: their fields for filters; None if there are none.
    """

    ids: Strings
    titles: Strings
    kept: KeptFields | None = None

    def __repr__(self) -> str:
        return f"Names({self.ids!r})"

    @functools.cached_property
    def finder(self) -> LabelFinder:
        """Finds labels by their ids; made when the first id is asked for, or before."""
        return LabelFinder(self.ids, np.arange(len(self.ids)))


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The labels that can be recommended now.

    Attributes:
        base: the labels of training.
        changes: which labels were added, and which of those of training were removed.
        version: of the folder that the changes were loaded from; 0 without one.
    """

    base: Names
    changes: Changes
    version: int = 0

    @classmethod
    def of(cls, labels: Side, dim: int, kept: KeptFields | None = None) -> "Catalogue":
        """Return the catalogue of all labels of training, and no other.

        Args:
            labels: those of training.
            dim: D.
            kept: their fields for filters.
        """
        return cls(Names(labels.ids, labels.titles, kept), Changes.none(dim))

    def changed(self, changes: Changes, version: int = 0) -> "Catalogue":
        """Return the catalogue of the same labels of training with other changes."""
        return Catalogue(self.base, changes, version)

    def __repr__(self) -> str:
        sizes = f"{len(self.base.ids):,} labels of training"
        changed = f"{len(self.added):,} added, {len(self.changes.removed):,} removed"
        return f"Catalogue({sizes}, {changed}, version {self.version})"

    @property
    def added(self) -> Segment:
        """The labels that were added."""
        return self.changes.added

    @property
    def num_labels(self) -> int:
        """How many numbers of labels there are, those of removed labels included."""
        return len(self.base.ids) + len(self.added)

    @functools.cached_property
    def recommended(self) -> Bool[np.ndarray, " l"]:
        """Whether the label of each number can be recommended."""
        found = np.ones(self.num_labels, bool)
        found[self.changes.removed] = False
        return found

    @functools.cached_property
    def fields(self) -> KeptFields:
        """The fields of all labels that are kept for filters, in the order of their numbers."""
        base = self.changes.kept or self.base.kept or KeptFields(len(self.base.ids))
        return base.followed_by(self.added.fields)

    def id_of(self, label: int) -> str:
        """Return the id of a label."""
        base = len(self.base.ids)
        return self.base.ids[label] if label < base else self.added.ids[label - base]

    def title_of(self, label: int) -> str:
        """Return the title of a label, "" if it has none."""
        base = len(self.base.ids)
        return self.base.titles[label] if label < base else self.added.titles[label - base]

    def all_of(self, uid: str) -> Iterator[int]:
        """Yield the labels with this id, removed or not, the last one first."""
        yield from (len(self.base.ids) + label for label in self._added_finder.all_of(uid))
        yield from self.base.finder.all_of(uid)

    def labels_of(self, ids: Iterable[str]) -> Int32[np.ndarray, " n"]:
        """Return the labels with any of these ids, ascending; an id of no label has none."""
        return np.array(sorted({label for uid in ids for label in self.all_of(uid)}), np.int32)

    def barred(self, ids: Iterable[str]) -> Int32[np.ndarray, " n"]:
        """Return the labels that no item gets, ascending: those with these ids, those removed."""
        excluded = self.labels_of(ids)
        if not len(self.changes.removed):
            return excluded
        return np.union1d(excluded, self.changes.removed)

    def holds(self, uid: str) -> bool:
        """Return whether a label with this id can be recommended."""
        return any(self.recommended[label] for label in self.all_of(uid))

    @functools.cached_property
    def _added_finder(self) -> LabelFinder:
        return LabelFinder(self.added.ids, np.arange(len(self.added)))

    def check_new(self, ids: Iterable[str], restored: Iterable[str]) -> None:
        """Reject ids that cannot be added.

        Args:
            ids: of all labels to add.
            restored: those that should come back as they were.

        Raises:
            InputError: if an id is recommended already, or one to be restored was never removed.
        """
        for uid in ids:
            if self.holds(uid):
                raise InputError(
                    f"labels to add: {uid!r:.80} is recommended already; update it instead"
                )
        for uid in restored:
            if not np.isin(self.labels_of([uid]), self.changes.removed).any():
                raise InputError(
                    f"labels to add: {uid!r:.80} has nothing to see, and is no removed label of "
                    "training; expected a title, titles or images"
                )

    def with_labels(self, new: Segment, restored: Sequence[str] = ()) -> Changes:
        """Return the changes of a catalogue that has some more labels.

        Args:
            new: labels with ids that differ.
            restored: ids of removed labels of training, which come back as they were.

        Raises:
            InputError: as `check_new`.
        """
        self.check_new([*new.ids, *restored], restored)
        back = self.labels_of(restored)
        removed = np.setdiff1d(self.changes.removed, back).astype(np.int32)
        return Changes(self.added.followed_by(new), removed, self.changes.kept)

    def without_labels(self, ids: Iterable[str]) -> Changes:
        """Return the changes of a catalogue that lacks the labels with these ids.

        Raises:
            InputError: if an id is that of no label that is recommended.
        """
        ids = list(ids)
        if missing := [uid for uid in ids if not self.holds(uid)]:
            raise InputError(
                f"labels to remove or update: {missing[0]!r:.80} is not recommended "
                f"({len(missing)} of {len(ids)} are not); expected ids of the catalogue"
            )
        gone, base = self.labels_of(ids), len(self.base.ids)
        removed = np.union1d(self.changes.removed, gone[gone < base]).astype(np.int32)
        kept = np.ones(len(self.added), bool)
        kept[gone[gone >= base] - base] = False
        added = self.added if kept.all() else self.added.only(kept)
        return Changes(added, removed, self.changes.kept)

    def with_fields(self, ids: Sequence[str], new: KeptFields, kinds: Mapping[str, str]) -> Changes:
        """Return the changes of a catalogue that keeps other fields of some labels.

        Args:
            ids: of the labels, each once; those of no label change nothing.
            new: the values of their fields.
            kinds: "number" or "text" for fields that are to be of this kind.

        Raises:
            InputError: if no id is that of a label.
        """
        found = [(label, row) for row, uid in enumerate(ids) for label in self.all_of(uid)]
        if not found:
            raise InputError(
                f"fields to keep: none of the {len(ids):,} ids is a label's; the first is "
                f"{ids[0] if ids else ''!r:.80}"
            )
        labels, rows = np.array(found, np.int64).T
        fields, base = self.fields.replaced(labels, new.at(rows), kinds), len(self.base.ids)
        own = fields.at(np.arange(base, self.num_labels))
        added = dataclasses.replace(self.added, kept=own)
        return Changes(added, self.changes.removed, fields.at(np.arange(base)))
