"""Run an experiment: each stage reads the folders of earlier stages and writes its own."""

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.data.readers.product_files import is_product_file
from mufin_jax.model.label_table import ROWS
from mufin_jax.pipeline.checkpoints import check_checkpoints
from mufin_jax.pipeline.experiment import Experiment, StageName
from mufin_jax.pipeline.more_epochs import add_epochs
from mufin_jax.pipeline.old_runs import made_with
from mufin_jax.pipeline.refit import check_refit
from mufin_jax.pipeline.runner import Runner, measured
from mufin_jax.pipeline.sources import reject_absent, stands_without, with_prepared_data
from mufin_jax.pipeline.stage_table import STAGES, stages_of
from mufin_jax.pipeline.start import recorded_start, with_run
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import show_lines
from mufin_jax.runtime.run_folder import Run, environment, read_only, use_compile_cache
from mufin_jax.runtime.shared_stages import link_stages
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.disk import disk_error
from mufin_jax.runtime.storage.paths import Given, user_path
from mufin_jax.runtime.surroundings import check_precision
from mufin_jax.stages.select import SelectConfig
from mufin_jax.training.follower import Callback
from mufin_jax.training.teacher import check_teacher

log = logging.getLogger(__name__)


def run(
    experiment: Experiment,
    stage: StageName = "all",
    mesh: Mesh | None = None,
    others: Sequence[Given] = (),
    redo: StageName | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any] | None:
    """Run one stage or all of them; return the metrics, if the run has been evaluated.

    Args:
        experiment: what to run, and where.
        stage: "all", or one of STAGES. All stages before that one must be finished.
        mesh: the devices; all of them by default.
        others: folders of other runs. A stage becomes a link if one of them has finished it with
            the same settings, and all stages before it with the same settings too.
        redo: remove this stage and those after it first; "all" for every stage. If the run is
            interrupted, the same call resumes.
        callbacks: called while training stages run, and after each stage. What one raises ends the
            run, and the same call resumes.

    Raises:
        InputError: wrong data, or a folder made with another configuration.
        Held: another run uses the folder.
        Stopped: after a signal; the same call resumes.
    """
    show_lines()
    _check_types(experiment, mesh, others)
    experiment = with_prepared_data(experiment)
    _check(experiment, stage, redo)
    experiment = with_run(experiment)
    experiment, others = experiment.resolved(), [user_path(other) for other in others]
    check_precision()
    mesh = mesh or make_mesh()
    _check_devices(mesh)
    if experiment.refit_of is not None:
        others = (*others, experiment.refit_of)
        processes.once("the run to refit is checked", lambda: _check_refit(experiment))
    if redo is None and processes.decide(lambda: read_only(experiment.folder)):
        return _finished_before(experiment, stage, mesh)
    with Run(experiment.folder) as held:
        use_compile_cache(experiment.folder)
        if stage != "select":  # the stage itself rejects questions
            experiment = _answerable(experiment)
        runner = Runner(experiment, held, mesh, callbacks)
        stages = stages_of(experiment)
        names = stages if stage == "all" else [stage]
        wanted = {n: STAGES[n].settings(experiment) for n in _through(stages, names[-1])}
        _begin(runner, wanted, others, redo)
        processes.once("inputs are checked", lambda: _check_inputs(experiment, names, runner))
        held.record(experiment=experiment.options(), **environment())
        for place, name in enumerate(names):
            check_stop(name)
            if STAGES[name].wanted(runner.experiment):
                runner.take(name, names[place:], only=stage != "all")
            if name == "prepare":
                runner.experiment = _answerable(experiment)
        if begun := [name for name in ("redo", "more") if held.facts().get(name)]:
            held.record(**dict.fromkeys(begun))
        return measured(held)


def _check_devices(mesh: Mesh) -> None:
    """Reject a number of devices that the rows of the label table do not divide over."""
    if ROWS % mesh.size:
        raise InputError(
            f"{mesh.size} devices: the label table requires a number that divides {ROWS}, such as "
            "1, 2, 4 or 8; use fewer devices"
        )


def _begin(
    runner: Runner,
    wanted: Mapping[str, Mapping[str, Any]],
    others: Sequence[Path],
    redo: StageName | None,
) -> None:
    """Remove, prolong and link stages, and reject a folder that was made in another way.

    Args:
        runner: holds the run's folder.
        wanted: the settings of the stages of this call, by name.
        others: folders of other runs, to link to.
        redo: the first stage that is removed.
    """
    held, experiment = runner.held, runner.experiment
    processes.once("stages are removed", lambda: runner.redo(redo, wanted))
    added = functools.partial(add_epochs, held, wanted, stages_of(experiment))
    processes.once("epochs are added", added)
    link_stages(experiment.folder, wanted, others, made_with)
    for name, settings in wanted.items():  # before hours of work begin
        runner.check(name, settings)
    processes.once("unwanted stages are checked", runner.reject_unwanted)


def _finished_before(experiment: Experiment, stage: StageName, mesh: Mesh) -> dict[str, Any] | None:
    """Return the metrics of a finished run in a folder that cannot be written.

    Raises:
        InputError: the folder was made with another configuration.
        DiskError: something is left to do.
    """
    held = Run(experiment.folder)  # nothing is written: it need not be held
    experiment = _answerable(experiment)
    runner, stages = Runner(experiment, held, mesh), stages_of(experiment)
    for name in _through(stages, stages[-1] if stage == "all" else stage):
        held.check(name, STAGES[name].settings(experiment), made_with)
    processes.once("unwanted stages are checked", runner.reject_unwanted)
    for name in stages if stage == "all" else [stage]:
        if runner.is_left(name):
            raise disk_error(experiment.folder, f"read-only, and {name} is not finished", 0)
    log.info("%s cannot be written; all stages are finished", experiment.folder)
    return measured(held)


def _check_types(experiment: object, mesh: object, others: object) -> None:
    """Reject arguments of another type, of which a later error would tell less.

    Raises:
        InputError: with the type that was found.
    """
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"experiment: found {type(experiment).__name__}; expected an Experiment, such as "
            "Experiment(data=DIR)"
        )
    if not isinstance(mesh, Mesh | None):
        raise InputError(f"mesh: found {type(mesh).__name__}; expected a jax.sharding.Mesh")
    if isinstance(others, str | os.PathLike):
        raise InputError(f"others: found {type(others).__name__}; expected a list of folders")


def _check(experiment: Experiment, stage: StageName, redo: StageName | None) -> None:
    """Reject what can be seen to be wrong before anything is read.

    Raises:
        InputError: an unknown stage, no data folder, or settings that contradict each other.
    """
    for option, name in (("stage", stage), ("redo", redo)):
        if name not in (None, "all", *STAGES):
            raise InputError(f"{option}={name!r}: expected all or one of {', '.join(STAGES)}")
    if redo is not None and stage not in ("all", redo):
        raise InputError(
            f"--redo={redo} with --stage={stage}: {redo} and the stages after it are removed, and "
            f"only {stage} would be made; leave --stage out, or give --stage={redo}"
        )
    reject_part_of_run(experiment.folder)
    if experiment.start_from is None and redo not in ("all", "prepare"):
        if (run := processes.decide(lambda: recorded_start(experiment.folder))) is not None:
            raise InputError(
                f"{experiment.folder} was begun with --from={run}: give it again, with the path "
                "that the folder has now, or choose another --workdir"
            )
    data = experiment.data
    if data is not None and not data.is_dir() and not is_product_file(data):
        keeps = redo not in ("all", "prepare") and processes.decide(
            lambda: stands_without(experiment)
        )
        if not keeps:
            reject_absent(data, experiment.folder)
        log.info("%s is gone; the prepared data stand without it", data)
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


def reject_part_of_run(workdir: Path) -> None:
    """Reject the folder of a stage where a run's is expected: a run would begin inside a run.

    Raises:
        InputError: with the run's folder.
    """
    run = workdir.absolute().parent
    if (workdir / "settings.json").is_file() and (run / "run.json").is_file():
        raise InputError(
            f"{workdir} is the folder of a stage: expected the run's, --workdir={workdir.parent}"
        )


def _check_inputs(experiment: Experiment, names: Sequence[str], runner: Runner) -> None:
    """Check the files that the stages ahead read in addition to the data, before the first stage.

    Raises:
        InputError: a checkpoint, tokenizer or teacher cannot be used.
    """
    ahead = [name for name in names if runner.is_left(name)]
    if "prepare" in ahead:
        check_checkpoints(experiment.prepare, experiment.model)
    if "pretrain" in ahead and experiment.pretrain.teacher:
        check_teacher(experiment.pretrain.teacher, experiment.folder / "pretrain")


def _check_refit(experiment: Experiment) -> None:
    """Reject a refit of a folder that is no finished run with the same settings."""
    plain, run = dataclasses.replace(experiment, refit_of=None), experiment.refit_of
    plain = _answerable(plain, run)  # a run on questions has no stage select
    stages = [name for name in stages_of(plain) if name not in ("evaluate", "report")]
    check_refit(experiment, {n: STAGES[n].settings(plain) for n in stages}, made_with)


def _answerable(experiment: Experiment, folder: Path | None = None) -> Experiment:
    """Return the experiment, without parts of the score if its prepared data have questions.

    Parts rank all labels, and not the given answers of a question.

    Args:
        experiment: which may have parts.
        folder: of the run that prepared the data; the experiment's own by default.
    """
    questions = (folder or experiment.folder) / "prepare" / "questions.npz"
    if not experiment.select.parts or not processes.decide(questions.exists):
        return experiment
    log.info(
        "the test points are questions with given answers: the parts of the score (%s) are left "
        "out, and the paper's mix of c and a answers them",
        " ".join(experiment.select.parts),
    )
    return dataclasses.replace(experiment, select=SelectConfig())


def _through(stages: Sequence[str], name: str) -> Sequence[str]:
    """Return the stages up to one of them, which is the last."""
    return stages[: stages.index(name) + 1]
