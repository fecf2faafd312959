"""Converts the names and axes of a checkpoint's weights to ours, by a table complete both ways."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]
Layer = Sequence[tuple[str, str, Convert]]
"""A kind of layer: (suffix in torch, suffix here, how the values change) for each parameter."""


def same(values: np.ndarray) -> np.ndarray:
    """Return the values unchanged."""
    return values


LINEAR: Layer = ((".weight", ".kernel", np.transpose), (".bias", ".bias", same))
NORM: Layer = ((".weight", ".scale", same), (".bias", ".bias", same))
WORDS: Layer = ((".weight", ".embedding", same),)
POSITIONS: Layer = ((".weight", "", same),)
SQUEEZED: Layer = (("", "", np.squeeze),)
# A convolution's (width, channel, row, column) is here a matrix from (row, column, channel).
PATCHES: Layer = (
    (".weight", ".kernel", lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])),
    (".bias", ".bias", same),
)


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
    blocks: Callable[[Any], Iterable[tuple[int, ...]]] = by_depth
    """From a config to the numbers that {} stands for; several where blocks contain blocks."""

    def modern(self, name: str) -> str:
        """Return a checkpoint's name without the prefix and in today's spelling."""
        name = name.removeprefix(self.prefix)
        for old, new in self.older:
            name = name.replace(old, new)
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
