"""Teacher vectors: in Module I, the student's vectors take over the relations of given vectors.

The teacher is any set of ready vectors by item id, of any width. For each item of a batch, the
softmax of the student's cosines with the batch's other items of its side is drawn to that of the
teacher's cosines (`losses.relation_loss`). So no map between the two widths has to be learned, and
none is thrown away afterwards.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.readers.named_vectors import NamedVectors, check_named_vectors
from mufin_jax.data.readers.vectors import VectorContent
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import MAKE_ANEW, save_array
from mufin_jax.runtime.storage.npy import mapped, whole_npy

log = logging.getLogger(__name__)

VECTORS, ROWS = "teacher.npy", "teacher_rows.npy"
"""The stage's copy: a row an item that has a vector; and the row of each training point and then of
each label, or -1."""
_BLOCK, _ROUNDING = 16_384, 1e-6


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The vectors of a teacher: without their mean, and of length 1.

    Attributes:
        vectors: a row an item, mapped from the disk.
        rows: by the name of a side, the row of each of its items, or -1.
    """

    vectors: Float32[np.ndarray, "k w"]
    rows: dict[str, Int32[np.ndarray, " n"]]

    @classmethod
    def load(cls, path: Path, dataset: Dataset, out: Path) -> "Teacher":
        """Return the teacher's vectors of the training points and labels, copied to `out` once.

        A resumed run reads the copy, whatever has become of the original.

        Args:
            path: ready vectors by item id; the mean counts where an item has several.
            dataset: the prepared folder.
            out: the folder of the copy.

        Raises:
            InputError: if the vectors cannot be used, or the copy is damaged.
            DiskError: if the copy cannot be written.
            Stopped: after a signal.
        """
        if not processes.decide((out / ROWS).exists):
            processes.once("the teacher is copied", lambda: _copy(path, dataset, out))
        vectors, rows = np.asarray(mapped(out / VECTORS)), np.array(mapped(out / ROWS))
        points, labels = len(dataset.train), dataset.num_labels
        if len(rows) != points + labels or rows.max(initial=-1) >= len(vectors):
            raise InputError(
                f"{out / ROWS}: {len(rows):,} rows, expected {points + labels:,}; {MAKE_ANEW}"
            )
        return cls(vectors, {"train": rows[:points], "label": rows[points:]})

    def of(
        self, side: str, items: Int[np.ndarray, " b"], counted: Bool[np.ndarray, " b"]
    ) -> Float32[np.ndarray, "b w"]:
        """Return the vectors of some items of a side; zero for those without one.

        Args:
            side: "train" or "label".
            items: their numbers.
            counted: those that shall have a vector; the others only fill the batch, or are in it
                twice.
        """
        rows = np.where(counted, self.rows[side][items], -1)
        return np.where((rows >= 0)[:, None], self.vectors[np.maximum(rows, 0)], np.float32(0))


def check_teacher(path: str, out: Path) -> int:
    """Check a teacher's files, but for their values, unless they are copied; return their width.

    Args:
        path: what the setting names.
        out: the folder of the stage.

    Raises:
        InputError: a file is missing or damaged, or has another form.
    """
    if (out / ROWS).exists():
        return mapped(out / VECTORS).shape[1]
    return check_named_vectors(Path(path))


def _copy(path: Path, dataset: Dataset, out: Path) -> None:
    """Write the copy; the rows are its last file."""
    numbers: dict[str, int] = {}
    sides = (dataset.train.ids, dataset.labels.ids)
    items = [numbers.setdefault(uid, len(numbers)) for uid in itertools.chain(*sides)]
    found = NamedVectors.load(path, numbers, "teacher")
    known, starts = np.unique(found.items, return_index=True)
    row_of = np.full(len(numbers), -1, np.int32)
    row_of[known] = np.arange(len(known))
    if missing := len(numbers) - len(known):
        first = next(uid for uid, number in numbers.items() if row_of[number] < 0)
        log.warning(
            "%s: %d of %d training points and labels have no teacher vector; the first one is %r",
            path, missing, len(numbers), first,
        )  # fmt: skip
    del numbers
    bounds = np.append(starts, len(found.items))
    width, content = found.files[0].shape[1], VectorContent()
    total = np.zeros(width)
    for some in _means(found, bounds):
        total += some.sum(0)
        content.add(some)
    for warning in content.warnings(f"{path}: ", "teacher"):
        log.warning("%s: %s", path, warning)
    with whole_npy(out / VECTORS, (width,), rows=len(known)) as writer:
        for some in _means(found, bounds):
            writer.append(_centred(some, total / len(known)))
    save_array(out / ROWS, row_of[np.array(items, np.int64)])


def _centred(
    vectors: Float64[np.ndarray, "r w"], mean: Float64[np.ndarray, " w"]
) -> Float64[np.ndarray, "r w"]:
    """Return vectors without their mean, of length 1; zero for one that is the mean."""
    rest = vectors - mean
    norms, whole = (np.linalg.norm(some, axis=1, keepdims=True) for some in (rest, vectors))
    real = norms > _ROUNDING * whole
    return np.where(real, rest / np.where(real, norms, 1), 0)


def _means(
    found: NamedVectors, bounds: Int[np.ndarray, " k_plus_1"]
) -> Iterator[Float64[np.ndarray, "r w"]]:
    """Yield the mean vector of each item, block by block.

    Args:
        found: vectors, of which those of an item stand together.
        bounds: where each item's vectors begin, and the number of all.
    """
    for some in until_stopped(cut(len(bounds) - 1, _BLOCK), "pretrain"):
        own = bounds[some.start : some.stop + 1]
        vectors = found.read(slice(int(own[0]), int(own[-1]))).astype(np.float64)
        sums = np.add.reduceat(vectors, own[:-1] - own[0], axis=0)
        yield sums / np.diff(own)[:, None]
