"""Labels added after training, as they lie on the disk: names, bags and vectors.

They have no training points and no row of the label table: their classifier is w = z (alpha = 1).
The folder holds `ids.npz`, `titles.npz`, `bags.npy` (float32 (e, D): Z1, label after label),
`offsets.npy` (int64 (n + 1,)), `w.npy` (float32 (n, D)), and which training points each label goes
with: `points.npy` (int64, their rows, label after label) and `point_offsets.npy` (int64 (n + 1,)).
`fields.npz` holds their fields for filters, if there are any (`data.kept_fields`).
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from scipy.sparse import csr_matrix

from mufin_jax.data.kept_fields import KeptFields
from mufin_jax.data.strings import Strings, check_offsets
from mufin_jax.runtime.storage import files

_ARRAYS = {
    "bags": "bags", "offsets": "offsets", "z": "w", "points": "points",
    "point_offsets": "point_offsets",
}  # fmt: skip
"""The arrays of a segment, and the names of their files."""
_FIELDS = "fields.npz"


@dataclasses.dataclass(frozen=True)
class Segment:
    """Labels added after training.

    Attributes:
        ids: of the labels.
        titles: "" where there is none.
        bags: Z1 of their descriptors, label after label.
        offsets: where the descriptors of each label start, and where the last ones end.
        z: their vectors, which are their classifiers, too.
        points: rows of the training points that each label goes with, label after label.
        point_offsets: where the points of each label start, and where the last ones end.
        kept: their fields for filters; None if there are none.
    """

    ids: Strings
    titles: Strings
    bags: Float32[np.ndarray, "e d"]
    offsets: Int64[np.ndarray, " n_plus_1"]
    z: Float32[np.ndarray, "n d"]
    points: Int64[np.ndarray, " p"]
    point_offsets: Int64[np.ndarray, " n_plus_1"]
    kept: KeptFields | None = None

    @property
    def fields(self) -> KeptFields:
        """The fields of the labels that are kept for filters."""
        return KeptFields(len(self)) if self.kept is None else self.kept

    @classmethod
    def empty(cls, dim: int) -> "Segment":
        """Return a segment without any label, of vectors of this width."""
        vectors, start = np.zeros((0, dim), np.float32), np.zeros(1, np.int64)
        return cls(Strings.pack([]), Strings.pack([]), vectors, start, vectors, start[:0], start)

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.z)

    def followed_by(self, other: "Segment") -> "Segment":
        """Return the labels of both segments."""
        return Segment(
            Strings.pack([*self.ids, *other.ids]),
            Strings.pack([*self.titles, *other.titles]),
            np.concatenate([self.bags, other.bags]),
            np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            np.concatenate([self.z, other.z]),
            np.concatenate([self.points, other.points]),
            np.concatenate([self.point_offsets, self.point_offsets[-1] + other.point_offsets[1:]]),
            self.fields.followed_by(other.fields),
        )

    def only(self, kept: Bool[np.ndarray, " n"]) -> "Segment":
        """Return some of the labels."""
        rows, counts = np.flatnonzero(kept), np.diff(self.offsets)
        points = np.diff(self.point_offsets)
        return Segment(
            Strings.pack(self.ids.at(rows)),
            Strings.pack(self.titles.at(rows)),
            self.bags[np.repeat(kept, counts)],
            np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
            self.z[kept],
            self.points[np.repeat(kept, points)],
            np.concatenate([[0], np.cumsum(points[kept])]).astype(np.int64),
            self.fields.at(rows),
        )

    def pairs(self, num_points: int) -> csr_matrix:
        """Return training points x labels of the segment, 1 where they go together."""
        ones = np.ones(len(self.points), np.float32)
        shape = (len(self), num_points)
        return csr_matrix(csr_matrix((ones, self.points, self.point_offsets), shape).T)

    def save(self, folder: Path) -> None:
        """Write the files of the segment to a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        self.ids.save(folder / "ids.npz")
        self.titles.save(folder / "titles.npz")
        for name, file in _ARRAYS.items():
            files.save_array(folder / f"{file}.npy", getattr(self, name))
        if self.fields.fields:
            self.fields.save(folder / _FIELDS)

    @classmethod
    def load(cls, folder: Path, dim: int) -> "Segment":
        """Load what `save` wrote; raise ValueError if the files do not fit together."""
        arrays = {
            name: np.load(folder / f"{file}.npy", allow_pickle=False)
            for name, file in _ARRAYS.items()
        }
        ids, titles = (Strings.load(folder / f"{name}.npz") for name in ("ids", "titles"))
        found = cls(ids, titles, **arrays, kept=_load_fields(folder))
        check_offsets(found.offsets, len(found.bags))
        check_offsets(found.point_offsets, len(found.points))
        counts = {len(found.ids), len(found.titles), len(found.z), len(found.offsets) - 1,
                  len(found.point_offsets) - 1, len(found.fields)}  # fmt: skip
        if len(counts) > 1 or found.z.shape[1:] != (dim,) or found.bags.shape[1:] != (dim,):
            raise ValueError(f"{sorted(counts)} labels, vectors {found.z.shape}, expected D={dim}")
        return found


@dataclasses.dataclass(frozen=True)
class Changes:
    """How the labels that can be recommended differ from those of training.

    Attributes:
        added: labels that training did not know.
        removed: labels of training that are gone, ascending: their tombstones.
        kept: the fields of the labels of training, where they are others than before.
    """

    added: Segment
    removed: Int32[np.ndarray, " r"]
    kept: KeptFields | None = None

    @classmethod
    def none(cls, dim: int) -> "Changes":
        """Return no changes; D is the width of vectors."""
        return cls(Segment.empty(dim), np.zeros(0, np.int32))

    def save(self, folder: Path) -> None:
        """Write `added/`, `removed.npy` and perhaps `fields.npz` to a folder."""
        self.added.save(folder / "added")
        files.save_array(folder / "removed.npy", self.removed)
        if self.kept is not None:
            self.kept.save(folder / _FIELDS)

    @classmethod
    def load(cls, folder: Path, dim: int, num_labels: int, num_points: int) -> "Changes":
        """Load what `save` wrote; raise ValueError if it does not fit so many labels and points.

        Args:
            folder: where it was written.
            dim: D.
            num_labels: L, the labels of training.
            num_points: N, the training points.
        """
        removed = np.load(folder / "removed.npy", allow_pickle=False)
        if removed.dtype != np.int32 or removed.ndim != 1 or (np.diff(removed) <= 0).any():
            raise ValueError(f"removed.npy is {removed.dtype} {removed.shape}, or out of order")
        if len(removed) and not 0 <= removed[0] <= removed[-1] < num_labels:
            raise ValueError(f"removed.npy names labels up to {removed[-1]} of {num_labels}")
        added = Segment.load(folder / "added", dim)
        if len(added.points) and not 0 <= added.points.min() <= added.points.max() < num_points:
            raise ValueError(f"points.npy names training points up to {added.points.max()}")
        kept = _load_fields(folder)
        if kept is not None and len(kept) != num_labels:
            raise ValueError(f"{_FIELDS} has {len(kept)} of {num_labels} labels")
        return cls(added, removed, kept)


def _load_fields(folder: Path) -> KeptFields | None:
    """Return the fields in a folder; None if it has none."""
    path = folder / _FIELDS
    return KeptFields.load(path) if path.exists() else None
