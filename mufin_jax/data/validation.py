"""The validation part of a prepared folder: training points that are held out, to select by."""

import dataclasses
from pathlib import Path

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int64

from mufin_jax.data.sparse import load_csr
from mufin_jax.runtime.storage.npy import load_arrays

HELD_OUT, POINTS, FILTER = "train_held_out.npz", "validation.npz", "validation_filter.npz"
"""The files: pairs that do not train, which points are validation points, and their filter."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """Training points that do not train and are scored like test points.

    Attributes:
      rows: their numbers among the training points, ascending.
      cold: whether a point is cold, as for test points: no label that still has a training pair is
        the same item.
      filter: validation points x labels, 1 where a pair is not scored.
      relevance: validation points x labels, 1 where relevant: rows of the training relevance.
    """

    rows: Int64[np.ndarray, " v"]
    cold: Bool[np.ndarray, " v"]
    filter: scipy.sparse.csr_matrix
    relevance: scipy.sparse.csr_matrix

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Validation({len(self):,} points, {int(self.cold.sum()):,} of them cold)"

    def save(self, folder: Path) -> None:
        """Write `validation.npz` and `validation_filter.npz`."""
        np.savez(folder / POINTS, rows=self.rows, cold=self.cold)
        scipy.sparse.save_npz(folder / FILTER, self.filter)

    @classmethod
    def load(cls, folder: Path, relevance: scipy.sparse.csr_matrix) -> "Validation":
        """Return what `save` wrote; `relevance` is of all training points.

        Raises:
          ValueError: if the files cannot be read, or do not match the relevance.
        """
        arrays = load_arrays(folder / POINTS)
        rows, cold, points = arrays["rows"], arrays["cold"], len(relevance.indptr) - 1
        if rows.dtype != np.int64 or rows.ndim != 1 or (np.diff(rows) <= 0).any():
            raise ValueError(f"validation points are {rows.dtype} {rows.shape}, or do not ascend")
        if len(rows) and not 0 <= rows[0] <= rows[-1] < points:
            raise ValueError(f"validation points go from {rows[0]} to {rows[-1]}, of {points:,}")
        if cold.dtype != np.bool_ or cold.shape != rows.shape:
            raise ValueError(f"{len(rows):,} validation points, cold: {cold.dtype} {cold.shape}")
        filter, relevance = load_csr(folder / FILTER, len(rows)), relevance[rows]
        if filter.shape != relevance.shape:
            raise ValueError(f"the validation filter has the shape {filter.shape}")
        return cls(rows, cold, filter, relevance)
