"""Converts the names and axes of a checkpoint's weights to ours, by a table complete both ways."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]
Layer = Sequence[tuple[str, str, Convert]]
"""A kind of layer: (suffix in torch, suffix here, how the values change) for each parameter."""


def same(values: np.ndarray) -> np.ndarray:
    """Return the values unchanged."""
    return values


def from_convolution(values: np.ndarray) -> np.ndarray:
    """Return (width, channel, row, column) as a matrix from (row, column, channel) to width."""
    return values.transpose(2, 3, 1, 0).reshape(-1, values.shape[0])


def to_convolution(values: np.ndarray) -> np.ndarray:
    """Return what `from_convolution` made of square patches of three channels."""
    side = math.isqrt(len(values) // 3)
    return values.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


def unsqueezed(values: np.ndarray) -> np.ndarray:
    """Return vectors as checkpoints hold tokens that stand in front of every batch: (1, n, d)."""
    return values.reshape(1, -1, values.shape[-1])


LINEAR: Layer = ((".weight", ".kernel", np.transpose), (".bias", ".bias", same))
NORM: Layer = ((".weight", ".scale", same), (".bias", ".bias", same))
WORDS: Layer = ((".weight", ".embedding", same),)
POSITIONS: Layer = ((".weight", "", same),)
SQUEEZED: Layer = (("", "", np.squeeze),)
PATCHES: Layer = ((".weight", ".kernel", from_convolution), (".bias", ".bias", same))
INVERSES: Mapping[Convert, Convert] = {
    same: same,
    np.transpose: np.transpose,
    np.squeeze: unsqueezed,
    from_convolution: to_convolution,
}
"""What undoes each change of values."""


def by_depth(config: Any) -> Iterable[tuple[int, ...]]:
    """Return the numbers of the blocks of a plain stack."""
    return ((n,) for n in range(config.depth))


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a checkpoint's names become ours; {} stands for a block's number."""

    prefix: str
    """The prefix of all names in a checkpoint where the network is part of a larger one."""
    table: Sequence[tuple[str, str, Layer]]
    """(name in the checkpoint, name here, kind of layer)."""
    older: Sequence[tuple[str, str]] = ()
    """(part of a name in older checkpoints, its replacement), applied in this order."""
    ignored: Sequence[str] = ()
    """Patterns of names that may be in a checkpoint and that our encoder does not use."""
    new: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)
    """Names here that a checkpoint may lack, either all or none of them, each with a function that
    computes its value from the encoder, whose other weights are filled."""
    renamed: bool = False
    """Whether files still have the older names."""
    blocks: Callable[[Any], Iterable[tuple[int, ...]]] = by_depth
    """From a config to the numbers that {} stands for; several where blocks contain blocks."""

    def modern(self, name: str) -> str:
        """Return a checkpoint's name without the prefix and in today's spelling."""
        name = name.removeprefix(self.prefix)
        for old, new in self.older:
            name = name.replace(old, new)
        return name

    def stored(self, name: str) -> str:
        """Return a modern name as files have it."""
        for old, new in reversed(self.older) if self.renamed else ():
            name = name.replace(new, old)
        return name

    def parameters(self, config: Any) -> Iterable[tuple[str, str, Convert]]:
        """Yield (modern name, name here, how the values change) of every possible parameter."""
        for theirs, ours, layer in self.table:
            for numbers in self.blocks(config) if "{" in ours else ((),):
                for their_end, our_end, convert in layer:
                    yield (
                        theirs.format(*numbers) + their_end,
                        ours.format(*numbers) + our_end,
                        convert,
                    )
