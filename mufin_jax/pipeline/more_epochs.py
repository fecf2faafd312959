"""More epochs for a finished training, from its last state.

    mufin train --workdir=RUN --finetune.epochs=+5 [the flags of RUN]

The stage trains on where its last checkpoint ends, and its rate rises and falls once more. It
records the addition (`more_epochs`): a run from nothing with the same settings gives the same bits.
The stages after it are made again. A call that is interrupted resumes when it is made again: what
it set out to do stands in run.json until its end.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mufin_jax.pipeline.old_runs import made_with
from mufin_jax.pipeline.redo import remove_stages
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import Run
from mufin_jax.runtime.storage.files import jsonable, load_json, save_json

log = logging.getLogger(__name__)

TRAININGS = ("pretrain", "finetune")
"""The stages that have epochs."""

_MADE_LAST = ("predictor", "table", "model")
"""What a training stage makes of its last state."""


def with_sums(arguments: Sequence[str], workdir: Path) -> list[str]:
    """Return arguments in which each --STAGE.epochs=+N names the epochs of a finished run.

    Args:
        arguments: of the command line.
        workdir: the run's folder.

    Raises:
        InputError: there is no finished training to add to, or another addition has begun.
    """
    found = list(arguments)
    for stage in TRAININGS:
        flag = f"--{stage}.epochs"
        for place, argument in enumerate(found):
            name, equals, value = argument.partition("=")
            if name != flag:
                continue
            end = place + 1
            if not equals:
                value, end = "".join(found[place + 1 : place + 2]), place + 2
            if value.startswith("+"):
                found[place:end] = _named(stage, value, workdir)
                break
    return found


def _named(stage: str, value: str, workdir: Path) -> list[str]:
    """Return the options that add epochs to a finished training."""
    flag, folder = f"--{stage}.epochs={value}", workdir / stage
    if not value[1:].isdecimal() or not int(value[1:]):
        raise InputError(f"{flag}: expected a number of epochs to add, such as +5")
    path = folder / "settings.json"
    before = load_json(path) if path.is_file() else {}
    begun = (_intended(workdir) or {}).get(stage)
    if begun is not None and begun[-1] != int(value[1:]):
        raise InputError(
            f"{flag}: an addition of {begun[-1]} epochs is not complete; give "
            f"--{stage}.epochs=+{begun[-1]} once more first"
        )
    if begun is None and not (folder / "done.json").is_file():
        raise InputError(
            f"{flag}: epochs are added to a finished training, and {folder} is not finished; run "
            "the command without the + first, to its end"
        )
    more = begun or [*before.get("more_epochs", ()), int(value[1:])]
    return [f"--{stage}.epochs={before['epochs']}", f"--{stage}.more-epochs", *map(str, more)]


def add_epochs(held: Run, wanted: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> None:
    """Make a finished training unfinished if the settings add epochs to it.

    Stages after it are removed. Nothing is changed if other settings of the training, or those of
    a stage before it, differ, too: the run is then rejected.

    Args:
        held: the run's folder.
        wanted: the settings of the stages of this call, by name, in their order.
        stages: the names of all stages, in their order.

    Raises:
        InputError: epochs cannot be added to this training.
    """
    intended = _intended(held.workdir) or {}
    added = {n: list(wanted[n]["more_epochs"]) for n in TRAININGS if _adds(held, n, wanted)}
    for name in wanted:
        if name in added:
            break
        if held.changes(name, wanted[name], made_with):
            return
    else:
        return
    _check(held.workdir / name, name, wanted[name])
    finished = (held.workdir / name / "done.json").is_file()
    if not finished and intended.get(name) != added[name]:
        return
    log.info("%s: more epochs (%s)", name, " ".join(map(str, added[name])))
    held.record(more=intended | added)
    later = stages[stages.index(name) + 1 :]
    remove_stages(held.workdir, later, f"--{name}.more-epochs")
    folder = held.workdir / name
    (folder / "done.json").unlink(missing_ok=True)
    for part in _MADE_LAST:
        shutil.rmtree(folder / part, ignore_errors=True)
    save_json(folder / "settings.json", wanted[name])


def _adds(held: Run, name: str, wanted: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether settings differ from those of a stage in that epochs are added."""
    if name not in wanted:
        return False
    changes = held.changes(name, wanted[name], made_with)
    if [change.partition(":")[0] for change in changes] != ["more_epochs"]:
        return False
    before = load_json(held.workdir / name / "settings.json").get("more_epochs", [])
    return jsonable(wanted[name])["more_epochs"][: len(before)] == before


def _check(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Reject a training that cannot be prolonged."""
    if folder.is_symlink():
        raise InputError(
            f"--{name}.more-epochs: {folder} is a link to the stage of another run, which would "
            "change, too; add the epochs there, or make the stage here by "
            f"--redo={name}"
        )
    if settings["validate"]["patience"]:
        raise InputError(
            f"--{name}.more-epochs with --{name}.validate.patience: the training ends by itself "
            "when validations bring no gain; more epochs do not prolong it"
        )


def _intended(workdir: Path) -> dict[str, list[int]] | None:
    """Return the additions that a call has begun in a run's folder, by stage."""
    path = workdir / "run.json"
    return load_json(path).get("more") if path.is_file() else None
