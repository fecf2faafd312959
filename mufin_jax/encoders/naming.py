"""How the names and the axes of a checkpoint's weights become ours: a table, complete both ways."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]
Layer = Sequence[tuple[str, str, Convert]]
"""A kind of layer: (suffix in torch, suffix here, how the values change) for each parameter."""


def same(values: np.ndarray) -> np.ndarray:
    """The values as they are."""
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
    """The numbers of the blocks of a plain stack."""
    return ((n,) for n in range(config.depth))


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a checkpoint's names become ours; {} stands for a block's number."""

    prefix: str
    """What stands in front of the names where the network is part of a larger one."""
    table: Sequence[tuple[str, str, Layer]]
    """(name in the checkpoint, name here, kind of layer)."""
    older: Sequence[tuple[str, str]] = ()
    """(part of a name in older checkpoints, what it became), applied in this order."""
    ignored: Sequence[str] = ()
    """Patterns of names that may be in a checkpoint and that our encoder has no use for."""
    new: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)
    """Names here that a checkpoint may lack, all of them or none, and the values that they then
    get of the encoder, whose other weights are filled."""
    blocks: Callable[[Any], Iterable[tuple[int, ...]]] = by_depth
    """The numbers that {} stands for, of a config; several where blocks lie in blocks."""

    def modern(self, name: str) -> str:
        """A checkpoint's name without the prefix and in today's spelling."""
        name = name.removeprefix(self.prefix)
        for old, new in self.older:
            name = name.replace(old, new)
        return name

    def parameters(self, config: Any) -> Iterable[tuple[str, str, Convert]]:
        """(modern name, name here, how the values change) of every parameter that may be there."""
        for theirs, ours, layer in self.table:
            for numbers in self.blocks(config) if "{}" in ours else ((),):
                for their_end, our_end, convert in layer:
                    yield (
                        theirs.format(*numbers) + their_end,
                        ours.format(*numbers) + our_end,
                        convert,
                    )
