"""A refit: Modules I to IV again on all training points, for the steps that another run chose.

    python -m experiments.NAME --stage=all --workdir=NEW --refit-of=RUN [the flags of RUN]

RUN held validation points out: by them it chose steps (early_stopping.py) and the weights of the
parts (the stage select). The refit links to RUN's prepared data, trains on the held-out points,
too, and keeps steps and weights. RUN must stay where it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.run_folder import MadeWith, flatten
from mufin_jax.runtime.storage.files import jsonable, load_json
from mufin_jax.stages.context import Refit
from mufin_jax.training.early_stopping import best_step


def refit_of(experiment: Experiment) -> Refit | None:
    """Return what a refit takes from its run; None for an experiment that is no refit."""
    if (run := experiment.refit_of) is None:
        return None
    steps = {stage: chosen_step(run / stage) for stage in ("pretrain", "finetune")}
    return Refit(steps, run / "select")


def chosen_step(folder: Path) -> int | None:
    """Return the step after which a training stage was best; None if that is the last one."""
    found = dict(MetricsWriter(folder).validations())
    best = best_step(found)
    return None if not found or best == max(found) else best


def chosen_steps(experiment: Experiment, stage: str) -> dict[str, Any]:
    """Return what a training stage of a refit records in addition to its settings."""
    refit = refit_of(experiment)
    return {} if refit is None else {"refit": {"steps": refit.steps[stage]}}


def chosen_weights(experiment: Experiment) -> dict[str, Any]:
    """Return what the stage select of a refit records in addition to its settings."""
    if experiment.refit_of is None:
        return {}
    path = experiment.refit_of / "select" / "mixes.json"
    return {"refit": {"weights": load_json(path)["sha256"] if path.exists() else None}}


def check_refit(
    experiment: Experiment,
    settings: Mapping[str, Any],
    made_with: MadeWith,
) -> None:
    """Reject a refit of a folder that is no finished run with the same settings.

    Args:
        experiment: the refit.
        settings: of RUN's stages, by name, that the refit depends on.
        made_with: gives what a stage was made with.

    Raises:
        InputError: one line.
    """
    run = experiment.refit_of
    assert run is not None
    if not experiment.prepare.validation_share:
        raise InputError(
            f"--refit-of={run}: a refit trains on the points that a run held out, and these "
            "settings hold none out; expected --prepare.validation-share above 0"
        )
    if run.resolve() == experiment.folder.resolve():
        raise InputError(f"--refit-of={run}: this is the refit's own folder; choose another")
    for stage, wanted in settings.items():
        if not (run / stage / "done.json").is_file():
            raise InputError(
                f"--refit-of={run}: its stage {stage} is not finished; expected the folder of a "
                "finished run"
            )
        old, new = made_with(run, stage, wanted), flatten(jsonable(wanted))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name, ...) != new.get(name, ...):
                raise InputError(
                    f"--refit-of={run}: its {stage} was made with {name} = "
                    f"{old.get(name, 'absent')}, expected {new.get(name, 'absent')}; give the "
                    "settings of that run"
                )
