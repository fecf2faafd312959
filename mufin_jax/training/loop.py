"""The one training loop, used by Module I and Module IV.

A stage provides a jitted step and a function that makes batch i. The loop provides progress, logs,
checkpoints and resuming. Batch i is a pure function of (seed, stage, i), so a run that was killed
and started again computes, to the bit, what an uninterrupted one does. Several processes run the
loop in step: they vote on what their clocks and signals report.

A step whose loss or gradients are not finite changes nothing and is reported (nonfinite.py).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax

from mufin_jax.data.loader import prefetch
from mufin_jax.runtime.distributed.mesh import one_ahead
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.signals import stop_requested, unsaved
from mufin_jax.runtime.storage import orbax
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.early_stopping import Validate, Validations
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.follower import Callback, Follower
from mufin_jax.training.nonfinite import Skips
from mufin_jax.training.saving import Saver

log = logging.getLogger(__name__)

S = TypeVar("S")
"""The state of a stage, any pytree of arrays: parameters, optimizer state, label table."""
B = TypeVar("B")
"""The batches of a stage."""


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
    validate: Validate[S] | None = None,
    callbacks: Sequence[Callback] = (),
) -> S:
    """Train to `steps`, from the newest checkpoint if there is one, and return the last state.

    With validation it is the best state, and training may end early.

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
        validate: how states are compared on validation points.
        callbacks: called with the metrics of logged steps; what one raises ends the training.

    Raises:
        NonFinite: if more than `MOST_SKIPPED` steps in a row, or a weight, are not finite.
        Stopped: after a signal, once the state is saved.
    """
    orbax.get_ready()  # the first checkpoint must not wait for their imports
    writer.get_ready()
    start, state = _resume(state, checkpoints)
    done = start or 0
    writer.resume(done)
    skips, segment = Skips(name, writer, ids), refresh_every or steps
    saver = Saver(name, steps, start, config, checkpoints, skips)
    with Follower(name, steps, done, config, plateau, writer, callbacks) as follow:
        validations = Validations(validate, steps, done, writer, saver)
        validations(done, state)
        while done < steps and not validations.over:
            first = done - done % segment
            if refresh is not None:
                if 0 < done == first:  # a resumed run never needs a refresh before this one
                    saver.now(done, state)
                refresh(first, state)
            last = min(first + segment, steps)
            made = follow.waits_for(prefetch(make_batch, done, last, config.threads))
            for batch in one_ahead(made, put_batch):
                state, metrics = step(state, batch)
                unsaved.set()
                done += 1
                skips(done, metrics)
                follow(done, metrics)
                saver.after(done, state, stop_requested())
                validations(done, state)
                if validations.over:
                    break
        return validations.best_state(done, state, checkpoints)


def _resume(state: S, checkpoints: Checkpoints) -> tuple[int | None, S]:
    """Return the step of the newest checkpoint with its state; None with the same state."""
    found = checkpoints.restore(state, free=True)
    if found is None:
        return None, state
    log.info("resuming at step %d", found[0])
    return found[:2]
