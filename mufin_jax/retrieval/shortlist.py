"""The shortlist R_i of a datapoint: what Module II gives to Module IV and to prediction."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """The labels retrieved for each datapoint, best first; a row short of labels ends in -1.

    Attributes:
        labels: -1 where there is no label.
        similarities: cosines; -inf where there is no label.
    """

    labels: Int32[np.ndarray, "b k"]
    similarities: Float32[np.ndarray, "b k"]

    def __repr__(self) -> str:
        points, places = self.labels.shape
        return f"Shortlist({points:,} datapoints, {places:,} labels each)"

    def save(self, folder: Path) -> None:
        """Write `labels.npy`, `similarities.npy` and, last, the manifest of both."""
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("similarities", "labels"):
            files.save_array(folder / f"{name}.npy", getattr(self, name))
        files.seal(folder)

    @classmethod
    def load(cls, folder: Path) -> "Shortlist":
        """Map the arrays of a folder.

        Raises:
            InputError: if an array is missing or has changed.
        """
        files.check_seal(folder)
        # Plain views: to index a memmap object costs more than to read what is in it.
        arrays = (
            np.asarray(np.lib.format.open_memmap(folder / f"{name}.npy", mode="r"))
            for name in ("labels", "similarities")
        )
        return cls(*arrays)


def recall(approximate: Shortlist, exact: Shortlist) -> float:
    """Return the share of the exact shortlists' labels that the approximate ones hold."""
    width = max(approximate.labels.max(initial=0), exact.labels.max(initial=0)) + 1

    def keys(shortlist: Shortlist) -> np.ndarray:
        rows, columns = np.nonzero(shortlist.labels >= 0)
        return rows * np.int64(width) + shortlist.labels[rows, columns]

    wanted = keys(exact)
    return float(np.isin(wanted, keys(approximate)).mean()) if len(wanted) else 1.0
