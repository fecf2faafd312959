"""How the flat axes of a pool are laid out: which sizes they have, and who reads which rows."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from mufin_jax.data.record_images import Images
from mufin_jax.runtime.distributed.padding import pad_rows, padded_size


@dataclasses.dataclass(frozen=True)
class PoolSizes:
    """What the axes of a batch are padded to if they hold no more; beyond it, to their bucket.

    Attributes:
        descriptors: distinct ones, of batches that hold X0.
        texts: distinct ones, of batches that hold vectors of texts, or items of a joint model.
        width: tokens of a row of texts.
        rows: rows of texts.
        images: distinct ones.
    """

    descriptors: int = 0
    texts: int = 0
    width: int = 0
    rows: int = 0
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the flat axes of a pool are padded, and which rows this process reads.

    Attributes:
        devices: the number of devices that the axes divide over.
        own_rows: given the size of an axis, the rows that this process reads; the others stay
            zero. None: it reads all.
        padded: whether axes are padded at all.
    """

    devices: int = 1
    own_rows: Callable[[int], Int[np.ndarray, "_"]] | None = None
    padded: bool = True

    def pad(self, rows: np.ndarray, usual: int = 0, fill: int = 0) -> np.ndarray:
        """Append rows of one number up to the usual size or the next bucket."""
        return pad_rows(rows, self.devices, fill, usual) if self.padded else rows

    def read(
        self, source: np.ndarray | Images, rows: Int[np.ndarray, "r"], usual: int = 0
    ) -> np.ndarray:
        """Return rows of a source, padded; zero where another process reads them."""
        size = padded_size(len(rows), self.devices, usual) if self.padded else len(rows)
        own = np.arange(size) if self.own_rows is None else self.own_rows(size)
        own = own[own < len(rows)]
        read = np.asarray(source[rows[own]])
        padded = np.zeros((size, *read.shape[1:]), read.dtype)  # untouched pages take no memory
        padded[own] = read
        return padded
