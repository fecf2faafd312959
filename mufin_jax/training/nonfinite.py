"""Steps of training whose loss or gradients are not finite: they change nothing and are reported.

A stage's step calls `kept_unless_finite` to choose its new state. The loop passes the metrics of
each step to `Skips`, which reports steps that were not finite and ends the run if they continue.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import NonFinite
from mufin_jax.runtime.logs import MetricsWriter

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_SKIPPED = 5
"""Steps in a row without an update that a run tolerates."""

REMEDY = "the last good checkpoint is kept: lower the learning rate, or look for broken input"


def gradient_norm(gradients: object) -> Float[Array, ""]:
    """Return the norm over all gradients; it is infinite where its square is beyond float32."""
    squares = [jnp.vdot(leaf, leaf).astype(jnp.float32) for leaf in jax.tree.leaves(gradients)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def kept_unless_finite(metrics: Mapping[str, Array], new: T, old: T) -> T:
    """Return the new state if a step's "loss" and "gradient" are finite, else the old one."""
    finite = is_finite(metrics)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)


def is_finite(metrics: Mapping[str, Array]) -> Bool[Array, ""]:
    """Return whether a step's "loss" and "gradient" (the gradients' norm) are finite."""
    return jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient"])


class Skips:
    """Reports the steps that were not finite and changed nothing; ends a run with too many.

    A step is read once the next one is on its way: no step waits for the host. A resumed run counts
    from 0 again.
    """

    def __init__(
        self,
        name: str,
        writer: MetricsWriter,
        ids: Callable[[int], Mapping[str, list[str]]] | None,
    ):
        self.name, self.writer, self.ids = name, writer, ids
        self._last: tuple[int, dict[str, jax.Array]] | None = None
        self._in_a_row = 0

    def __call__(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Read the step before, and keep this one for the next call."""
        self.read()
        self._last = step, metrics

    def read(self) -> None:
        """Read the step that was kept.

        Raises:
            NonFinite: if it is one too many.
        """
        if self._last is None:
            return
        (step, metrics), self._last = self._last, None
        values = {key: float(metrics[key]) for key in ("loss", "gradient") if key in metrics}
        broken = [
            f"its {key} is {value}" for key, value in values.items() if not math.isfinite(value)
        ]
        if not broken:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        too_many = self._in_a_row > MOST_SKIPPED
        if not (processes.is_main() or too_many):  # one process reports for all
            return
        ids = self.ids(step - 1) if self.ids else {}
        path = self.writer.skip(step, values, ids)
        batch = [
            f"{side} {', '.join(some[:3])}{', ...' * (len(some) > 3)}" for side, some in ids.items()
        ]
        report = f"{self.name}: step {step} changed nothing, as {broken[0]}"
        report = "; ".join([report, *batch, f"all of its batch in {path}"])
        if too_many:
            raise NonFinite(f"{report}; {self._in_a_row} such steps in a row; {REMEDY}")
        log.warning("%s; at most %d in a row", report, MOST_SKIPPED)
