"""How the parts of a score are mixed: a weighted sum, other weights for known items than for new.

    s(q, l) = sum over parts p of weight_p * p(q, l)

A label without a training pair knows less of itself: its classifier and its centroid say nothing.
Its sum is scaled and shifted, so that it can be compared with the sums of trained labels.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights for one kind of query.

    Attributes:
        parts: the weight of each part by its name; a part that is absent has the weight 0.
        untrained_scale: multiplies the sum of a label without a training pair ...
        untrained_offset: ... and is added to it.
    """

    parts: dict[str, float]
    untrained_scale: float = 1.0
    untrained_offset: float = 0.0

    def scores(
        self,
        values: dict[str, Float32[np.ndarray, "b c"]],
        trained: Bool[np.ndarray, "b c"],
    ) -> Float[np.ndarray, "b c"]:
        """Return the weighted sums.

        Args:
            values: of the parts; those without a weight are not read.
            trained: whether a label has a training pair.
        """
        total = np.zeros(trained.shape, np.float32)
        for name, weight in self.parts.items():
            if weight:
                total += np.float32(weight) * values[name]
        shifted = np.float32(self.untrained_scale) * total + np.float32(self.untrained_offset)
        return np.where(trained, total, shifted)


@dataclasses.dataclass(frozen=True)
class Mix:
    """The weights for warm and for cold queries.

    Attributes:
        warm: for queries that are a label with a training pair themselves.
        cold: for all others.
    """

    warm: Weights
    cold: Weights

    @property
    def names(self) -> list[str]:
        """The parts that have a weight, in the order of their names' first mention."""
        both = self.warm.parts | self.cold.parts
        sides = (self.warm, self.cold)
        return [name for name in both if any(side.parts.get(name) for side in sides)]

    def scores(
        self,
        values: dict[str, Float32[np.ndarray, "b c"]],
        trained: Bool[np.ndarray, "b c"],
        warm: Bool[np.ndarray, " b"],
    ) -> Float[np.ndarray, "b c"]:
        """Return the weighted sums of queries, some of which are warm."""
        if warm.all():
            return self.warm.scores(values, trained)
        cold = self.cold.scores(values, trained)
        if not warm.any():
            return cold
        return np.where(warm[:, None], self.warm.scores(values, trained), cold)


def save_mixes(path: Path, mixes: dict[str, Mix]) -> None:
    """Write mixes by their names to a JSON file that carries its checksum."""
    files.save_sealed(path, {name: dataclasses.asdict(mix) for name, mix in mixes.items()})


def load_mixes(path: Path) -> dict[str, Mix]:
    """Load what `save_mixes` wrote.

    Raises:
        InputError: if the file is missing, damaged or holds anything else.
    """
    facts: dict[str, Any] = files.load_sealed(path)
    try:
        return {
            name: Mix(_checked(Weights(**sides["warm"])), _checked(Weights(**sides["cold"])))
            for name, sides in facts.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not weights ({error!r}); {files.MAKE_ANEW}") from error


def _checked(weights: Weights) -> Weights:
    """Return weights of a file; raise TypeError or ValueError unless all are finite numbers."""
    for number in (*weights.parts.values(), weights.untrained_scale, weights.untrained_offset):
        if not math.isfinite(number):
            raise ValueError(f"a weight is {number}")
    return weights
