"""The one training loop, used by Module I and Module IV.

A stage provides a jitted step and a function that makes batch i. The loop provides progress, logs,
checkpoints and resuming. Batch i is a pure function of (seed, stage, i), so a run that was killed
and started again computes, to the bit, what an uninterrupted one does. Several processes run the
loop in step: they vote on what their clocks and signals report.

A step whose loss or gradients are not finite changes nothing and is reported (nonfinite.py).
"""

import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mufin_jax.data.loader import prefetch
from mufin_jax.model import sparse_updates
from mufin_jax.runtime import machine
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import by_row, make_mesh, one_ahead, put, replicated
from mufin_jax.runtime.errors import InputError, NonFinite, Stopped
from mufin_jax.runtime.logs import MetricsWriter, progress
from mufin_jax.runtime.signals import stop_requested, unsaved
from mufin_jax.runtime.storage import orbax
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.nonfinite import REMEDY, Skips

log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0
"""Seconds until the first checkpoint. Each further one takes twice as long, and at least ten times
as long as saving took, up to the configured interval. An unusable disk is found at once."""

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

S = TypeVar("S")
"""The state of a stage, any pytree of arrays: parameters, optimizer state, label table."""
B = TypeVar("B")
"""The batches of a stage."""


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How training is logged and saved; none of this changes what is learned.

    Attributes:
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints, at most.
        checkpoint_seconds: seconds between two checkpoints, at most. The first one after a start or
            a resumption comes much sooner, so a run that is often interrupted makes progress.
        threads: threads that make batches ahead of use; 0 makes each when it is used.
        cache_gb: gigabytes that the outputs of an encoder's frozen part may take on the disk
            (frozen_features.py); half of the host's memory by default. With 0 they are computed in
            every step; the numbers then differ by rounding only.
    """

    log_every: int = 20
    checkpoint_every: int = 500
    checkpoint_seconds: float = 60.0
    threads: int = 2
    cache_gb: float | None = None

    def __post_init__(self) -> None:
        """Reject invalid intervals."""
        for name, least in (("log_every", 1), ("checkpoint_every", 1), ("threads", 0)):
            if (found := getattr(self, name)) < least:
                raise InputError(f"fit.{name}={found}: expected a whole number >= {least}")
        if not self.checkpoint_seconds > 0:
            found = self.checkpoint_seconds
            raise InputError(f"fit.checkpoint_seconds={found}: expected more than 0")
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise InputError(f"fit.cache_gb={self.cache_gb}: expected a number >= 0")


def fit(
    state: S,
    step: Callable[[S, B], tuple[S, dict[str, jax.Array]]],
    make_batch: Callable[[int], B],
    put_batch: Callable[[B], B],
    *,
    name: str,
    steps: int,
    config: FitConfig,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    ids: Callable[[int], Mapping[str, list[str]]] | None = None,
    refresh: Callable[[int, S], None] | None = None,
    refresh_every: int | None = None,
    plateau: float | None = None,
) -> S:
    """Train to `steps`, from the newest checkpoint if there is one, and return the last state.

    Args:
        state: the initial state; its buffers are donated to the steps.
        step: jitted (state, batch) -> (state, metrics). Among the metrics are "loss" and
            "negative_cosine", the mean cosine of negatives. If "loss" or "gradient" is not finite,
            it returns the old state.
        make_batch: the numpy batch of a step; called ahead of time, in threads.
        put_batch: moves a batch to the devices.
        name: of the stage, for the progress bar and the log lines.
        steps: total number of steps.
        config: intervals.
        checkpoints: where the state is kept.
        writer: where metrics go.
        ids: of the items in the batch of a step, to report a bad batch: {"points": ids, ...}.
        refresh: called with (i, state) before step i for every multiple i of `refresh_every`, and
            again with the same i after a restart; batches made afterwards may depend on it.
        refresh_every: steps between two refreshes.
        plateau: the loss when all similarities are equal; staying there gives a warning.

    Raises:
        NonFinite: if more than `MOST_SKIPPED` steps in a row, or a weight, are not finite.
        Stopped: after a signal, once the state is saved.
    """
    orbax.get_ready()  # the first checkpoint must not wait for their imports
    writer.get_ready()
    start, state = _resume(state, checkpoints)
    writer.resume(start)
    follow = _Follower(name, config, plateau, writer)
    segment = refresh_every or steps
    saved, saved_at, patience = start, time.monotonic(), FIRST_SECONDS
    agree, skips = _Agreement(), Skips(name, writer, ids)
    bar = progress(total=steps, initial=start, desc=name, unit="step")
    with bar, contextlib.closing(writer):
        done = start
        while done < steps:
            first = done - done % segment
            if refresh is not None:
                if saved < done == first:  # a resumed run never needs a refresh before this one
                    _save(done, state, checkpoints, skips)
                    saved, saved_at = done, time.monotonic()
                refresh(first, state)
            last = min(first + segment, steps)
            made = follow.waits_for(prefetch(make_batch, done, last, config.threads))
            for batch in one_ahead(made, put_batch):
                state, metrics = step(state, batch)
                unsaved.set()
                done += 1
                bar.update()
                skips(done, metrics)
                if done % config.log_every == 0 or done == steps:
                    bar.set_postfix_str(follow(done, metrics))
                    if bar.disable:  # no terminal: an occasional log line replaces the bar
                        follow.log(done, steps)
                late = time.monotonic() - saved_at > min(patience, config.checkpoint_seconds)
                overdue, stop = agree(late, stop_requested())
                if done % config.checkpoint_every == 0 or overdue or done == steps:
                    begun = time.monotonic()
                    _save(done, state, checkpoints, skips)
                    saved, saved_at = done, time.monotonic()
                    patience = max(2 * patience, 10 * (saved_at - begun))
                    agree.forget()
                if stop:
                    if saved != done:
                        _save(done, state, checkpoints, skips)
                    raise Stopped(
                        f"{name}: stopped by a signal after step {done} of {steps}, which is "
                        "saved; run the same command to resume"
                    )
    return state


class _Agreement:
    """Makes all processes save, and stop, at the same step, though clocks and signals differ.

    In each step they cast votes, which the devices add up, and read the votes of the step before:
    no step waits for a round trip. A single process needs no vote.
    """

    def __init__(self) -> None:
        self._cast: jax.Array | None = None
        self._mesh = make_mesh() if processes.several() else None
        if self._mesh is not None:
            one = replicated(self._mesh)
            self._count = jax.jit(lambda votes: votes.any(0), out_shardings=one)

    def __call__(self, overdue: bool, stop: bool) -> tuple[bool, bool]:
        """Vote, and return whether a checkpoint is overdue and whether any process must stop.

        Only process 0 decides what is overdue.
        """
        if self._mesh is None:
            return overdue, stop
        vote = [overdue and processes.is_main(), stop]
        before, votes = self._cast, np.tile(vote, (self._mesh.size, 1))
        self._cast = self._count(put(votes, by_row(self._mesh)))
        if before is None:
            return False, False
        overdue, stop = map(bool, np.asarray(before))
        return overdue, stop

    def forget(self) -> None:
        """Drop the votes cast before the checkpoint that was just saved."""
        self._cast = None


def _resume(state: S, checkpoints: Checkpoints) -> tuple[int, S]:
    found = checkpoints.restore(state, free=True)
    if found is None:
        return 0, state
    log.info("resuming at step %d", found[0])
    return found[:2]


def _save(step: int, state: object, checkpoints: Checkpoints, skips: Skips) -> None:
    skips.read()
    if not _all_finite(state):
        raise NonFinite(f"some weights are not finite at step {step}; {REMEDY}")
    checkpoints.save(step, state, {})
    unsaved.clear()
    machine.give_back_memory()


@jax.jit
def _all_finite(state: object) -> jax.Array:
    return jnp.array([sparse_updates.finite(leaf) for leaf in jax.tree.leaves(state)]).all()


class _Follower:
    """Writes metrics, and warns once when training stays at the collapsed solution."""

    def __init__(self, name: str, config: FitConfig, plateau: float | None, writer: MetricsWriter):
        self.name, self.config, self.plateau, self.writer = name, config, plateau, writer
        self.resting, self.warned, self.text = 0, not processes.is_main(), ""
        self.began: tuple[int, float] | None = None
        self.logged_at = self.looked_at = time.monotonic()
        self.waited = 0.0

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

    def _input(self) -> str:
        """Return the share of the time since the last call spent waiting for input, if large."""
        now = time.monotonic()
        share = self.waited / max(now - self.looked_at, 1e-9)
        self.waited, self.looked_at = 0.0, now
        return f", {share:.0%} of the time waiting for input" if share > 0.1 else ""

    def log(self, step: int, steps: int) -> None:
        """Log step, metrics, rate and an estimate, at most every `LOG_SECONDS`."""
        now = time.monotonic()
        if self.began is None:  # the first steps compile, so their rate means nothing
            self.began = step, now
        elif now - self.logged_at > LOG_SECONDS or step == steps:
            rate = (step - self.began[0]) / max(now - self.began[1], 1e-9)
            left = datetime.timedelta(seconds=round((steps - step) / max(rate, 1e-9)))
            log.info(
                "%s: step %d of %d, %s, %.2f steps/s, %s left",
                self.name, step, steps, self.text, rate, left,
            )  # fmt: skip
            self.logged_at = now

    def __call__(self, step: int, metrics: dict[str, jax.Array]) -> str:
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        self.writer.write(step, values)
        loss, cosine = values["loss"], values["negative_cosine"]
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
        self.text = f"loss {loss:.4f}, negative cosine {cosine:.3f}{self._input()}"
        return self.text
