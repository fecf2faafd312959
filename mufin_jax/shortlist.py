"""The shortlist R_i of a datapoint: what Module II hands to Module IV and to prediction."""

import dataclasses
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

    def save(self, folder: Path) -> None:
        """Writes `labels.npy` and `similarities.npy`, each of which appears only when complete."""
        with files.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("similarities", "labels"):
            with files.replacing(folder / f"{name}.npy") as file:
                np.save(file, getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> "Shortlist":
        """Maps the arrays of a folder; InputError if one is missing or is something else."""
        again = f"delete {folder.parent} and the folders of later stages, and run the command again"
        arrays = []
        for name, dtype in (("labels", np.int32), ("similarities", np.float32)):
            path = folder / f"{name}.npy"
            try:
                array = np.lib.format.open_memmap(path, mode="r")
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: no shortlist ({error}); {again}") from error
            if array.ndim != 2 or array.dtype != dtype:
                raise InputError(f"{path}: wanted a matrix of {np.dtype(dtype)}; {again}")
            # A plain view: to index a memmap object costs more than to read what is in it.
            arrays.append(np.asarray(array))
        if arrays[0].shape != arrays[1].shape:
            raise InputError(
                f"{folder}: labels {arrays[0].shape} and similarities {arrays[1].shape} should be "
                f"matrices of one shape; {again}"
            )
        return cls(*arrays)


def recall(approximate: Shortlist, exact: Shortlist) -> float:
    """Share of the exact shortlists' labels, over all rows, that the approximate ones hold."""
    width = max(approximate.labels.max(initial=0), exact.labels.max(initial=0)) + 1

    def keys(shortlist: Shortlist) -> np.ndarray:
        rows, columns = np.nonzero(shortlist.labels >= 0)
        return rows * np.int64(width) + shortlist.labels[rows, columns]

    wanted = keys(exact)
    return float(np.isin(wanted, keys(approximate)).mean()) if len(wanted) else 1.0
