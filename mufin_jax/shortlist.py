"""The shortlist R_i of a datapoint: what Module II hands to Module IV and to prediction."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from mufin_jax import files
from mufin_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """The labels retrieved for each datapoint, best first; a row short of labels ends in -1."""

    labels: Int32[np.ndarray, "b k"]  # -1 where there is no label
    similarities: Float32[np.ndarray, "b k"]  # cosine; -inf where there is no label

    @classmethod
    def concatenate(cls, parts: "list[Shortlist]") -> "Shortlist":
        """Stacks shortlists of the same k."""
        return cls(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.similarities for part in parts]),
        )

    def save(self, path: Path) -> None:
        """Writes `labels` and `similarities` to an npz file, which appears only when complete."""
        with files.replacing(path) as file:
            np.savez(file, labels=self.labels, similarities=self.similarities)

    @classmethod
    def load(cls, path: Path) -> "Shortlist":
        """Reads what `save` wrote; InputError if the file is missing or is something else."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                labels, similarities = arrays["labels"], arrays["similarities"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: no shortlist ({error}); run --stage=retrieve") from error
        if labels.ndim != 2 or labels.shape != similarities.shape:
            raise InputError(
                f"{path}: labels {labels.shape} and similarities {similarities.shape} should be "
                "matrices of one shape; delete the file and run --stage=retrieve"
            )
        return cls(labels, similarities)


def recall(approximate: Shortlist, exact: Shortlist) -> float:
    """Share of the exact shortlists' labels, over all rows, that the approximate ones hold."""
    width = max(approximate.labels.max(initial=0), exact.labels.max(initial=0)) + 1

    def keys(shortlist: Shortlist) -> np.ndarray:
        rows, columns = np.nonzero(shortlist.labels >= 0)
        return rows * np.int64(width) + shortlist.labels[rows, columns]

    wanted = keys(exact)
    return float(np.isin(wanted, keys(approximate)).mean()) if len(wanted) else 1.0
