"""When training saves its state: at intervals, on a signal, in all processes at the same step."""

import dataclasses
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np

from mufin_jax.model import sparse_updates
from mufin_jax.runtime import machine
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import by_row, make_mesh, put, replicated
from mufin_jax.runtime.errors import NonFinite, Stopped
from mufin_jax.runtime.signals import unsaved
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.nonfinite import REMEDY, Skips

log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0
"""Seconds until the first checkpoint. Each further one takes twice as long, and at least ten times
as long as saving took, up to the configured interval. An unusable disk is found at once."""


class Saver:
    """Saves the state of a training now and then.

    Args:
        name: of the stage, for messages.
        steps: total number of steps.
        start: the step that training starts after; None if no checkpoint holds it.
        config: intervals.
        checkpoints: where the state is kept.
        skips: is read before each save, which it may prevent.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        start: int | None,
        config: FitConfig,
        checkpoints: Checkpoints,
        skips: Skips,
    ):
        self.name, self.steps, self.config = name, steps, config
        self.checkpoints, self.skips = checkpoints, skips
        self._saved, self._saved_at, self._patience = start, time.monotonic(), FIRST_SECONDS
        self._agree = _Agreement()

    def keep(self, step: int | None) -> None:
        """Keep the checkpoint of this step, instead of another one, whatever is saved later."""
        self.checkpoints = dataclasses.replace(self.checkpoints, pinned=step)

    def now(self, step: int, state: object) -> None:
        """Save the state after a step, unless a checkpoint holds it.

        Raises:
            NonFinite: if a weight is not finite.
        """
        if step == self._saved:
            return
        self.skips.read()
        if not _all_finite(state):
            raise NonFinite(f"some weights are not finite at step {step}; {REMEDY}")
        self.checkpoints.save(step, state, {})
        unsaved.clear()
        machine.give_back_memory()
        self._saved, self._saved_at = step, time.monotonic()

    def after(self, step: int, state: object, stop: bool) -> None:
        """Save the state after a step if it is time.

        Args:
            step: the step.
            state: after this step.
            stop: whether a signal asked this process to stop.

        Raises:
            NonFinite: if a weight is not finite.
            Stopped: if a process must stop, once the state is saved.
        """
        late = time.monotonic() - self._saved_at
        late = late > min(self._patience, self.config.checkpoint_seconds)
        overdue, stop = self._agree(late, stop)
        if step % self.config.checkpoint_every == 0 or overdue or step == self.steps:
            begun = time.monotonic()
            self.now(step, state)
            self._patience = max(2 * self._patience, 10 * (self._saved_at - begun))
            self._agree.forget()
        if stop:
            self.now(step, state)
            raise Stopped(
                f"{self.name}: stopped by a signal after step {step} of {self.steps}, which is "
                "saved; run the same command to resume"
            )


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


@jax.jit
def _all_finite(state: object) -> jax.Array:
    return jnp.array([sparse_updates.finite(leaf) for leaf in jax.tree.leaves(state)]).all()
