"""Early stopping: validation at intervals, the best checkpoint kept, an end after no gain.

What is known is a line a validation in `validation.jsonl`. A resumed run drops the lines of later
steps, so the best step, and the end, depend on the steps alone and not on kills.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.saving import Saver

log = logging.getLogger(__name__)

S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """When a training is validated on held-out points, and when it ends early.

    Attributes:
        every: steps between two validations, of which the best state is kept; 0 validates never.
        patience: validations without a gain after which training ends; 0 takes all steps.
        points: validation points that are scored, at most.
        labels: labels that Module I ranks: those relevant to the points, and random others, at
            most.
    """

    every: int = 0
    patience: int = 0
    points: int = 1000
    labels: int = 20_000

    def __post_init__(self) -> None:
        """Reject negative intervals, and validation on nothing."""
        for name, least in (("every", 0), ("patience", 0), ("points", 1), ("labels", 1)):
            if (found := getattr(self, name)) < least:
                raise InputError(f"validate.{name}={found}: expected a whole number >= {least}")
        if self.patience and not self.every:
            raise InputError(
                f"validate.patience={self.patience}: nothing is validated; set the steps between "
                "two validations, validate.every"
            )


@dataclasses.dataclass(frozen=True)
class Validate(Generic[S]):
    """How a training is validated.

    Attributes:
        config: when.
        objective: of a state, more is better. All processes call it in the same order; process 0's
            result counts.
    """

    config: ValidateConfig
    objective: Callable[[S], float]


class Validations(Generic[S]):
    """The validations of one training, and what follows from them.

    A step is validated once its checkpoint is saved. A run that is killed in between validates it
    when it resumes.

    Args:
        validate: when and how; None validates never.
        steps: total number of steps; the last one is validated, too.
        start: the step that training starts after.
        writer: where the results go; it has dropped those after `start`.
        saver: saves each step that is validated, and keeps the best one.
    """

    def __init__(
        self,
        validate: Validate[S] | None,
        steps: int,
        start: int,
        writer: MetricsWriter,
        saver: Saver,
    ):
        self.validate, self.steps, self.writer, self.saver = validate, steps, writer, saver
        known = processes.decide(writer.validations) if validate is not None else []
        self.found = {step: value for step, value in known}
        self.saver.keep(self.best)

    @property
    def best(self) -> int | None:
        """The step of the best validation, the earliest of equals; None before the first."""
        return best_step(self.found)

    @property
    def over(self) -> bool:
        """Whether the last validations, as many as the patience, brought no gain."""
        if self.validate is None or not self.validate.config.patience or self.best is None:
            return False
        later = sum(step > self.best for step in self.found)
        return later >= self.validate.config.patience

    def __call__(self, step: int, state: S) -> None:
        """Validate the state after a step if it is due, and keep it if it is the best."""
        if self.validate is None or step in self.found:
            return
        if step % self.validate.config.every and step != self.steps:
            return
        self.saver.now(step, state)
        value = self.validate.objective(state)
        self.found[step] = processes.decide(lambda: value)
        self.writer.validation(step, self.found[step])
        self.saver.keep(self.best)
        best = max(self.found.values())
        log.info(
            "%s: step %d: %.2f on validation points; the best is %.2f of step %d",
            self.saver.name, step, self.found[step], best, self.best,
        )  # fmt: skip

    def best_state(self, step: int, state: S, checkpoints: Checkpoints) -> S:
        """Return the best state: this one if none is better, else that of its checkpoint.

        If that checkpoint is damaged, it is the best state of which one is whole.
        """
        for other in sorted(self.found, key=lambda step: (-self.found[step], step)):
            if other == step:
                return state
            reason = checkpoints.damage(other)
            if reason is None and (found := checkpoints.restore(state, step=other, free=True)):
                return found[1]
            if other == self.best:
                self._report_damage(checkpoints.folder / str(other), reason)
        return state

    def _report_damage(self, folder: Path, reason: str | None) -> None:
        """Log that the checkpoint of the best step is damaged, and what can be done."""
        if processes.is_main():
            log.warning(
                "%s: %s; it was the best, with %.2f on validation points, and the next best state "
                "is used; to have it again, delete %s and the folders of later stages, and run the "
                "command again",
                folder, reason, self.found[int(folder.name)], folder.parent.parent,
            )  # fmt: skip


def best_step(found: dict[int, float]) -> int | None:
    """Return the step of the largest value, the earliest of equals; None for no steps."""
    return max(found, key=lambda step: (found[step], -step), default=None)
