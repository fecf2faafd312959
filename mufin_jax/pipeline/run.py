"""Run an experiment: each stage reads the folders of earlier stages and writes its own."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.readers.product_files import is_product_file
from mufin_jax.model.label_table import ROWS
from mufin_jax.pipeline.checkpoints import check_checkpoints
from mufin_jax.pipeline.experiment import Experiment, StageName
from mufin_jax.pipeline.memory_survey import HOLDS, abstract_model, foresee, sizes_of
from mufin_jax.pipeline.old_runs import unrecorded
from mufin_jax.pipeline.refit import check_refit
from mufin_jax.pipeline.stage_table import STAGES, context, stages_of
from mufin_jax.pipeline.time_plan import log_time_plan
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import Run, environment, use_compile_cache
from mufin_jax.runtime.shared_stages import link_stages
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.files import load_json
from mufin_jax.stages.select import SelectConfig
from mufin_jax.training.finetune_batches import check_depth
from mufin_jax.training.teacher import check_teacher

log = logging.getLogger(__name__)


def run(
    experiment: Experiment,
    stage: StageName = "all",
    mesh: Mesh | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Any] | None:
    """Run one stage or all of them; return the metrics, if the run has been evaluated.

    Args:
        experiment: what to run, and where.
        stage: "all", or one of STAGES. All stages before that one must be finished.
        mesh: the devices; all of them by default.
        others: folders of other runs. A stage becomes a link if one of them has finished it with
            the same settings, and all stages before it with the same settings too.

    Raises:
        InputError: wrong data, or a folder made with another configuration.
        Held: another run uses the folder.
        Stopped: after a signal; the same call resumes.
    """
    _check(experiment, stage)
    experiment = experiment.resolved()
    mesh = mesh or make_mesh()
    if ROWS % mesh.size:
        raise InputError(
            f"{mesh.size} devices: the label table requires a number that divides {ROWS}, such as "
            "1, 2, 4 or 8; use fewer devices"
        )
    if experiment.refit_of is not None:
        others = (*others, experiment.refit_of)
        processes.once("the run to refit is checked", lambda: _check_refit(experiment))
    with Run(experiment.folder) as held:
        use_compile_cache(experiment.folder)
        if stage != "select":  # the stage itself rejects questions
            experiment = _answerable(experiment)
        runner = _Runner(experiment, held, mesh)
        stages = stages_of(experiment)
        names = stages if stage == "all" else [stage]
        wanted = {n: STAGES[n].settings(experiment) for n in _through(stages, names[-1])}
        link_stages(experiment.folder, wanted, others, unrecorded)
        for name, settings in wanted.items():  # before hours of work begin
            held.check(name, settings, runner.unrecorded(name, settings))
        processes.once("unwanted stages are checked", runner.reject_unwanted)
        processes.once("inputs are checked", lambda: _check_inputs(experiment, names, held))
        held.record(experiment=experiment.options(), **environment())
        for place, name in enumerate(names):
            check_stop(name)
            if STAGES[name].wanted(runner.experiment):
                runner.take(name, names[place:])
            if name == "prepare":
                runner.experiment = _answerable(experiment)
        path = experiment.folder / "metrics.json"
        known = processes.decide(lambda: held.finished("evaluate") and path.exists())
        return load_json(path) if known else None


def _check(experiment: Experiment, stage: StageName) -> None:
    """Reject what can be seen to be wrong before anything is read.

    Raises:
        InputError: an unknown stage, no data folder, or settings that contradict each other.
    """
    if stage != "all" and stage not in STAGES:
        raise InputError(f"stage={stage!r}: expected all or one of {', '.join(STAGES)}")
    data = experiment.data
    if data is not None and not data.is_dir() and not is_product_file(data):
        raise InputError(f"--data={data}: no such folder, nor a file of products such as .csv")
    if stage != "all" and not STAGES[stage].wanted(experiment):
        raise InputError(f"stage={stage}: the settings name no parts; add, say, --select.parts z v")
    if experiment.prepare.validation_share:
        return
    if experiment.select.parts:
        raise InputError(
            f"--select.parts {' '.join(experiment.select.parts)}: their weights are fitted on "
            "validation points, and there are none; add --prepare.validation-share=0.1"
        )
    for name in ("pretrain", "finetune"):
        if every := getattr(experiment, name).validate.every:
            raise InputError(
                f"--{name}.validate.every={every}: the best step is chosen on validation points, "
                "and there are none; add --prepare.validation-share=0.1"
            )


def _check_inputs(experiment: Experiment, names: Sequence[str], held: Run) -> None:
    """Check the files that the stages ahead read in addition to the data, before the first stage.

    Raises:
        InputError: a checkpoint, tokenizer or teacher cannot be used.
    """
    ahead = [name for name in names if not held.finished(name)]
    if "prepare" in ahead:
        check_checkpoints(experiment.prepare, experiment.model)
    if "pretrain" in ahead and experiment.pretrain.teacher:
        check_teacher(experiment.pretrain.teacher, experiment.folder / "pretrain")


def _check_refit(experiment: Experiment) -> None:
    """Reject a refit of a folder that is no finished run with the same settings."""
    plain = dataclasses.replace(experiment, refit_of=None)
    stages = [name for name in stages_of(plain) if name not in ("evaluate", "report")]
    check_refit(experiment, {n: STAGES[n].settings(plain) for n in stages}, unrecorded)


def _answerable(experiment: Experiment) -> Experiment:
    """Return the experiment, without parts of the score if its prepared data have questions.

    Parts rank all labels, and not the given answers of a question.
    """
    questions = experiment.folder / "prepare" / "questions.npz"
    if not experiment.select.parts or not processes.decide(questions.exists):
        return experiment
    log.info(
        "the test points are questions with given answers: the parts of the score (%s) are left "
        "out, and the paper's mix of c and a answers them",
        " ".join(experiment.select.parts),
    )
    return dataclasses.replace(experiment, select=SelectConfig())


def _teacher_width(experiment: Experiment) -> int:
    """Return the width of the teacher's vectors; 0 without a teacher, or where they are gone."""
    if not (teacher := experiment.pretrain.teacher):
        return 0
    with contextlib.suppress(InputError):  # a finished Module I needs them no more
        return check_teacher(teacher, experiment.folder / "pretrain")
    return 0


def _through(stages: Sequence[str], name: str) -> Sequence[str]:
    """Return the stages up to one of them, which is the last."""
    return stages[: stages.index(name) + 1]


class _Runner:
    """Runs stages on a folder that this process holds."""

    def __init__(self, experiment: Experiment, held: Run, mesh: Mesh):
        self.experiment, self.held, self.mesh = experiment, held, mesh
        self.fits = False

    def take(self, name: str, ahead: Sequence[str]) -> None:
        """Run a stage, unless it is finished with the settings of the experiment.

        Args:
            name: the stage.
            ahead: this stage and those that will follow. All of them must fit the machine.

        Raises:
            InputError: if the stage's folder was made with other settings.
        """
        if processes.decide(lambda: self._finished(name)):
            log.info("%s: already finished", name)
            return
        if name in HOLDS and not self.fits:
            self._foresee(ahead)
            self.fits = True
        log.info("%s", name)
        with self.held.timed(name):
            STAGES[name].run(self.experiment, context(self.experiment, name, self.mesh))
        self.held.mark_finished(name)

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
                    "folder was made with: give them, choose another --workdir, or delete it and "
                    "the folders of later stages"
                )

    def unrecorded(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what an older version did not record of a stage."""
        return processes.decide(lambda: unrecorded(self.held.workdir, name, settings))

    def _finished(self, name: str) -> bool:
        """Return whether a stage is finished.

        Raises:
            InputError: if an earlier stage is not finished, or a later stage has begun.
        """
        stages = stages_of(self.experiment)
        *earlier, _ = _through(stages, name)
        for other in earlier:
            if not self.held.finished(other):
                raise InputError(
                    f"stage {name} needs {other}, which is not finished in "
                    f"{self.held.workdir}: run --stage={other} or --stage=all"
                )
        settings = STAGES[name].settings(self.experiment)
        self.held.guard(name, settings, unrecorded(self.held.workdir, name, settings))
        if self.held.finished(name):
            return True
        for later in stages[len(earlier) + 1 :]:
            folder = self.held.workdir / later
            if (folder / "settings.json").exists():
                raise InputError(
                    f"{folder} was made from another {name}: delete it and the "
                    "folders of the stages after it, or choose another --workdir"
                )
        return False

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
        mufin = abstract_model(dataset, experiment.model, self.mesh)
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
            mufin=mufin,
            select=experiment.select,
        )
        foresee(sizes, ahead, self.mesh)
        modules = (i if "pretrain" in ahead else None, iv if "finetune" in ahead else None)
        log_time_plan(*modules, mufin, dataset, self.mesh)
