"""What is seen of a training: its metrics, a progress bar or log lines, a warning of a collapse."""

import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.logs import MetricsWriter, progress
from mufin_jax.training.fit_config import FitConfig

log = logging.getLogger(__name__)

LOG_SECONDS = 20
"""Seconds between two log lines where there is no progress bar."""

AT_PLATEAU = 0.05
"""How far from the plateau, as a share of it, a loss still rests there. Batches of a collapsed
model differ by less; a model that learns leaves this range soon."""

COLLAPSED_COSINE = 0.95
"""The mean cosine of negatives above which a model has collapsed. A loss can also be near the
plateau by chance, but then negatives are less alike than this."""

COLLAPSED_STEPS = 200
"""Steps of rest before the warning. A model that starts from random weights may rest for less."""

TEACHER = "teacher"
"""The name of the teacher's part of the loss among the metrics. The plateau is that of the rest."""

B = TypeVar("B")
"""The batches of a stage."""

Callback = Callable[[str, int | None, Mapping[str, Any]], object]
"""Called with the name of a stage, a step and its metrics, at each step that is logged; and with
None and the stage's results when a stage is finished. Every process calls it."""


class Follower:
    """Writes metrics, shows progress, and warns once when training stays at the collapsed solution.

    Args:
        name: of the stage.
        steps: total number of steps.
        start: the step that training starts after.
        config: intervals.
        plateau: the loss when all similarities are equal.
        writer: where metrics go; it is closed with this object.
        callbacks: called with the metrics that are written.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        start: int,
        config: FitConfig,
        plateau: float | None,
        writer: MetricsWriter,
        callbacks: Sequence[Callback] = (),
    ):
        self.callbacks = callbacks
        self.name, self.steps, self.config = name, steps, config
        self.plateau, self.writer = plateau, writer
        self.bar = progress(total=steps, initial=start, desc=name, unit="step")
        self.resting, self.warned = 0, not processes.is_main()
        self.began: tuple[int, float] | None = None
        self.logged_at = self.looked_at = time.monotonic()
        self.waited = 0.0

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()
        self.bar.close()

    def waits_for(self, batches: Iterable[B]) -> Iterator[B]:
        """Yield batches that are made ahead, and measure how long the loop waits for them."""
        batches = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def __call__(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Count a step; at intervals, and after the last step, write and show its metrics."""
        self.bar.update()
        if step % self.config.log_every and step != self.steps:
            return
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        self.writer.write(step, values)
        loss, cosine = values["loss"], values["negative_cosine"]
        self._warn_of_collapse(loss - values.get(TEACHER, 0.0), cosine)
        text = f"loss {loss:.4f}, negative cosine {cosine:.3f}{self._input()}"
        self.bar.set_postfix_str(text)
        if self.bar.disable:  # no terminal: an occasional log line replaces the bar
            self._log(step, text)
        for callback in self.callbacks:
            callback(self.name, step, values)

    def _input(self) -> str:
        """Return the share of the time since the last call spent waiting for input, if large."""
        now = time.monotonic()
        share = self.waited / max(now - self.looked_at, 1e-9)
        self.waited, self.looked_at = 0.0, now
        return f", {share:.0%} of the time waiting for input" if share > 0.1 else ""

    def _log(self, step: int, text: str) -> None:
        """Log step, metrics, rate and an estimate, at most every `LOG_SECONDS`."""
        now = time.monotonic()
        if self.began is None:  # the first steps compile, so their rate means nothing
            self.began = step, now
        elif now - self.logged_at > LOG_SECONDS or step == self.steps:
            rate = (step - self.began[0]) / max(now - self.began[1], 1e-9)
            left = datetime.timedelta(seconds=round((self.steps - step) / max(rate, 1e-9)))
            log.info(
                "%s: step %d of %d, %s, %.2f steps/s, %s left",
                self.name, step, self.steps, text, rate, left,
            )  # fmt: skip
            self.logged_at = now

    def _warn_of_collapse(self, loss: float, cosine: float) -> None:
        at_rest = self.plateau is not None and abs(loss / self.plateau - 1) < AT_PLATEAU
        self.resting = self.resting + 1 if at_rest and cosine > COLLAPSED_COSINE else 0
        if self.resting * self.config.log_every >= COLLAPSED_STEPS and not self.warned:
            self.warned = True
            log.warning(
                "%s: the loss stays at %.3f, its value when all similarities are equal, and the "
                "mean cosine of negatives is %.3f: training has collapsed. Try a smaller batch, a "
                "lower rate, a longer warm-up, or start from pre-trained encoders",
                self.name,
                loss,
                cosine,
            )
