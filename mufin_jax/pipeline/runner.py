"""A run's stages, one after another: which are finished, which are needed, which must be redone.

A stage that is finished needs nothing of the stages before it but what it reads. A stage whose
folder is gone is therefore made again only if something is left to do that reads it. The report is
made from finished stages in a minute: it is made again whenever its settings or its sources change.
"""

import contextlib
import functools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.memory_survey import HOLDS, abstract_model, foresee, sizes_of
from mufin_jax.pipeline.old_runs import made_with
from mufin_jax.pipeline.redo import clear_removed, remove_stages
from mufin_jax.pipeline.sources import keep_sources
from mufin_jax.pipeline.stage_table import STAGES, context, option_of, stages_of
from mufin_jax.pipeline.time_plan import log_time_plan
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import Run, flatten
from mufin_jax.runtime.storage.files import jsonable, load_json
from mufin_jax.training.finetune_batches import check_depth
from mufin_jax.training.follower import Callback
from mufin_jax.training.teacher import check_teacher

log = logging.getLogger(__name__)

OUTCOMES = ("finetune", "select", "evaluate", "report")
"""Stages that are made for their own sake: people and servers read what they write."""
REMADE = "report"
"""The stage that is made again without being asked to."""


class Runner:
    """Runs stages on a folder that this process holds.

    Args:
        experiment: what to run, and where.
        held: the run's folder.
        mesh: all devices.
        callbacks: called while training stages run, and after each stage.
    """

    def __init__(
        self, experiment: Experiment, held: Run, mesh: Mesh, callbacks: Sequence[Callback] = ()
    ):
        self.experiment, self.held, self.mesh = experiment, held, mesh
        self.callbacks = callbacks
        self.fits = False

    def check(self, name: str, settings: Mapping[str, Any]) -> None:
        """Reject a stage that was begun with other settings, unless it starts again anyway."""
        again = name == REMADE or (name == "prepare" and not self.held.finished(name))
        if again:
            return
        option = functools.partial(option_of, self.experiment, name)
        try:
            self.held.check(name, settings, made_with, option)
        except InputError as error:
            named = self.experiment.data is not None and re.search("[( ]data: ", str(error))
            if name != "prepare" or not named:
                raise
            stands = "or leave --data out, as the prepared data stand without it"
            raise InputError(f"{error}, {stands}") from None

    def redo(self, first: str | None, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Remove a stage and those after it; a removal that was interrupted is not begun again.

        Args:
            first: the stage, or "all"; None only completes an earlier removal.
            wanted: the settings of the stages of this run.

        Raises:
            InputError: a folder that would be removed is no stage's.
        """
        names, begun = list(STAGES), self.held.facts().get("redo")
        clear_removed(self.held.workdir, names)
        if first is None:
            return
        names = names[0 if first == "all" else names.index(first) :]
        same = not any(
            self.held.changes(name, wanted[name], made_with) for name in names if name in wanted
        )
        if begun == first and same:
            log.info("--redo=%s: resumes what an earlier call began", first)
            return
        remove_stages(self.held.workdir, names, f"--redo={first}")
        self.held.record(redo=first)

    def is_left(self, name: str) -> bool:
        """Return whether a stage is neither finished nor spared."""
        return not self.held.finished(name) and not self._is_spared(name)

    def take(self, name: str, ahead: Sequence[str], only: bool) -> None:
        """Run a stage, unless it is finished with the settings of the experiment.

        Args:
            name: the stage.
            ahead: this stage and those that will follow. All of them must fit the machine.
            only: run it even if nothing that is left to do reads it.

        Raises:
            InputError: if the stage's folder was made with other settings.
        """
        if not only and processes.decide(lambda: self._is_spared(name)):
            log.info("%s: gone, and nothing that is left to do reads it", name)
            return
        if processes.decide(lambda: self._finished(name)):
            log.info("%s: already finished", name)
            return
        if name in HOLDS and not self.fits:
            self._foresee(ahead)
            self.fits = True
        log.info("%s", name)
        folder, settings = self.held.workdir / name, STAGES[name].settings(self.experiment)
        keep = functools.partial(keep_sources, folder, name, flatten(jsonable(settings)))
        processes.once("sources are known", keep)
        with self.held.timed(name):
            given = context(self.experiment, name, self.mesh, self.callbacks)
            STAGES[name].run(self.experiment, given)
        self.held.mark_finished(name)
        found = (measured(self.held) if name == "evaluate" else None) or {}
        for callback in self.callbacks:
            callback(name, None, found)

    def reject_unwanted(self) -> None:
        """Reject a folder with a stage that the experiment does not have: it would be served.

        Raises:
            InputError: if there is one.
        """
        for name in STAGES.keys() - stages_of(self.experiment):
            folder = self.held.workdir / name
            if (folder / "settings.json").exists():
                raise InputError(
                    f"{folder}: these settings have no stage {name}; expected those that the "
                    "folder was made with: give them, choose another --workdir, or remove it and "
                    f"make the stages after it again by --redo={name}"
                )

    def _is_spared(self, name: str) -> bool:
        """Return whether a stage is gone, and no stage that is left to make reads it."""
        gone = not (self.held.workdir / name / "settings.json").exists()
        return gone and not self._is_needed(name)

    def _is_needed(self, name: str) -> bool:
        """Return whether a stage that is not finished must be made."""
        readers = (later for later in stages_of(self.experiment) if name in self._needs(later))
        return name in OUTCOMES or any(
            not self.held.finished(later) and self._is_needed(later) for later in readers
        )

    def _needs(self, name: str) -> Sequence[str]:
        """Return the stages that a stage reads; rankings of given answers also read Module I."""
        asks = (self.held.workdir / "prepare" / "questions.npz").exists()
        more = ("pretrain",) if name == "evaluate" and asks else ()
        return [other for other in stages_of(self.experiment) if other in STAGES[name].needs + more]

    def _first_missing(self, name: str) -> str:
        """Return the first stage that is not finished and that a stage needs, or the stage."""
        missing = (other for other in self._needs(name) if not self.held.finished(other))
        first = next(missing, None)
        return name if first is None else self._first_missing(first)

    def _finished(self, name: str) -> bool:
        """Return whether a stage is finished; prepare its folder if it is not.

        Raises:
            InputError: if a stage that it reads is not finished, or a stage that reads it has
                begun.
        """
        workdir = self.held.workdir
        settings = STAGES[name].settings(self.experiment)
        again = self._starts_again(name, settings)
        if again or not self.held.finished(name):
            for other in self._needs(name):
                if not self.held.finished(other):
                    raise InputError(_missing(name, other, workdir, self._first_missing(other)))
        if again:
            remove_stages(workdir, [name], f"{name} is made again")
        if self.held.finished(name):
            self.held.guard(name, settings, made_with)
            return True
        stages = stages_of(self.experiment)
        for later in stages[stages.index(name) + 1 :]:
            folder = workdir / later
            if later != REMADE and (folder / "settings.json").exists():
                raise InputError(
                    _broken(workdir / name)
                    or f"{folder} was made from another {name}: put that one back, choose another "
                    f"--workdir, or make the stages again by --redo={name}"
                )
        if (workdir / name).is_symlink() and not (workdir / name).exists():
            (workdir / name).unlink()
        if name != REMADE and (workdir / REMADE).exists():
            remove_stages(workdir, [REMADE], f"{REMADE} was made from another {name}")
        self.held.guard(name, settings, made_with)
        return False

    def _starts_again(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Return whether other settings need no other folder: nothing of the stage is lost."""
        again = name == REMADE or (name == "prepare" and not self.held.finished(name))
        return again and bool(self.held.changes(name, settings, made_with))

    def _foresee(self, ahead: Sequence[str]) -> None:
        """Check the prepared data, log the plans, and reject a run that cannot work.

        Raises:
            InputError: if the data are damaged, a stage cannot fit, or Module IV requires more
                places of the shortlists than Module II will write.
        """
        prepared = self.experiment.folder / "prepare"
        log.info("checking the prepared data against their checksums")
        check = functools.partial(Dataset.load, prepared, verify=True)
        processes.once("the prepared data are whole", check)
        experiment = self.experiment
        dataset = context(experiment, "pretrain", self.mesh).dataset()
        i, iv = experiment.pretrain, experiment.finetune
        if "finetune" in ahead:
            check_depth(iv, experiment.retrieve.shortlist, dataset.num_labels)
        trained = experiment.folder / "pretrain" if self.held.finished("pretrain") else None
        mufin = abstract_model(dataset, experiment.model, self.mesh, trained)
        sizes = sizes_of(
            dataset,
            experiment.model,
            experiment.initialize.table,
            self.mesh,
            pretrain=i.shapes(i.batch_size),
            finetune=(iv.batch_size * (iv.positives + iv.negatives), iv.batch_size),
            optimizers=(i.optimizer, iv.optimizer),
            index=experiment.retrieve.index,
            frozen_neighbours=experiment.evaluate.frozen_neighbours,
            mined_side=i.mined_side,
            teacher=_teacher_width(experiment),
            prototypes=iv.prototypes,
            mufin=mufin,
            select=experiment.select,
        )
        foresee(sizes, ahead, self.mesh)
        modules = (i if "pretrain" in ahead else None, iv if "finetune" in ahead else None)
        start = context(experiment, "pretrain", self.mesh).start
        log_time_plan(*modules, mufin, dataset, self.mesh, 1.0 if start is None else start.steps)


def measured(held: Run) -> dict[str, Any] | None:
    """Return the metrics of a run; None before it has been evaluated."""
    path = held.workdir / "metrics.json"
    known = processes.decide(lambda: held.finished("evaluate") and path.exists())
    return load_json(path) if known else None


def _missing(name: str, other: str, workdir: Path, first: str) -> str:
    """Return the message on a stage that is not finished and that another one reads.

    Args:
        name: the stage that reads.
        other: the stage that is not finished.
        workdir: the run's folder.
        first: the stage to run first: `other`, or one that `other` needs.
    """
    begin = first if first == other else f"{first} first"
    return _broken(workdir / other) or (
        f"stage {name} needs {other}, which is not finished in {workdir}: run --stage={begin} or "
        "--stage=all"
    )


def _teacher_width(experiment: Experiment) -> int:
    """Return the width of the teacher's vectors; 0 without a teacher, or where they are gone."""
    if not (teacher := experiment.pretrain.teacher):
        return 0
    with contextlib.suppress(InputError):  # a finished Module I needs them no more
        return check_teacher(teacher, experiment.folder / "pretrain")
    return 0


def _broken(path: Path) -> str:
    """Return the message on a stage that is a link to a folder that is gone; "" for another one."""
    if not path.is_symlink() or path.exists():
        return ""
    return (
        f"{path} is a link to {path.readlink()}, which is gone (moved or deleted): put that folder "
        "back, or in the place of the link, or make the stage and those after it again by "
        f"--redo={path.name}"
    )
