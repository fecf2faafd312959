"""The files that a run's first stages read: known by their content, for they move and go.

A stage that names raw data, ready vectors or checkpoints keeps fingerprints of them in its folder
(`sources.json`). The same files at another place count as the same setting. Once a stage is
finished, what it read may be deleted, and the command stays the same. Files with another content
are rejected.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mufin_jax.data.readers.forms import absent_data
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json
from mufin_jax.runtime.storage.fingerprint import (
    difference,
    fingerprint,
    load_sources,
    save_sources,
)

log = logging.getLogger(__name__)

SOURCES: dict[str, tuple[str, ...]] = {
    "prepare": ("data", "images", "tokenizer", "text_vectors", "image_vectors", "image_checkpoint"),
    "pretrain": ("model.text_checkpoint", "model.image_checkpoint", "teacher"),
}
"""The settings of each stage that name files."""

_OF_CHECKPOINTS = ("*.safetensors", "*.json", "*/*.json", "vocab.txt")
"""The files of a checkpoint's folder that are read."""


def keep_sources(folder: Path, stage: str, settings: Mapping[str, Any]) -> None:
    """Keep fingerprints of the files that a stage's settings name, next to those kept before.

    Preparation itself keeps those of the raw data, as it knows what it read. Checkpoints of the hub
    have none: their names do not change.

    Args:
        folder: of the stage.
        stage: its name.
        settings: of the stage, flat.

    Raises:
        DiskError: the file cannot be written.
    """
    before = load_sources(folder)
    known = {} if stage == "prepare" else before  # it begins again, whatever an earlier try left
    for name in SOURCES.get(stage, ()):
        given = settings.get(name)
        if name != "data" and name not in known and given and Path(given).exists():
            known = known | {name: fingerprint(Path(given), _files_of(name, Path(given)))}
    if known != before:
        save_sources(folder, known)


def as_named_now(folder: Path, name: str, old: Any, new: Any) -> Any:
    """Return the value of a setting that a stage was made with, as it is named now.

    Args:
        folder: of the stage.
        name: of the setting, one of `SOURCES`.
        old: what the stage recorded.
        new: what the settings name now.

    Returns:
        `new` if the same files lie there; or else `old`, with the file that has changed.
    """
    known = load_sources(folder).get(name)
    if not known or not isinstance(old, str) or not isinstance(new, str):
        return old
    changed, absent = difference(known, Path(new))
    if changed:
        return f"{old} with another {changed[0] or 'content'}"
    return old if absent else new  # at the old place, files may have been deleted since


def with_prepared_data(experiment: Experiment) -> Experiment:
    """Return the experiment with the raw data that its prepared folder was made from.

    A finished preparation stands without them: a run whose folder is named needs no --data.
    """
    if experiment.data is not None or experiment.workdir is None:
        return experiment
    made_from = processes.decide(lambda: _made_from(experiment.folder))
    if made_from is None:
        return experiment
    log.info("the prepared data of %s stand without --data", made_from)
    return dataclasses.replace(experiment, data=Path(made_from))


def stands_without(experiment: Experiment) -> bool:
    """Return whether raw data that are gone are those of a finished preparation."""
    data = experiment.data
    return data is not None and _made_from(experiment.folder) == str(data.resolve())


def _made_from(workdir: Path) -> str | None:
    """Return the raw data that a finished preparation was made from; None if there is none."""
    prepared = workdir / "prepare"
    if not (prepared / "done.json").is_file() or not (prepared / "settings.json").is_file():
        return None
    recorded = load_json(prepared / "settings.json").get("data")
    return recorded if isinstance(recorded, str) else None


def recorded_data(workdir: Path) -> Path | None:
    """Return the raw data that the run in a folder was begun with; None if it does not tell."""
    if (found := _made_from(workdir)) is not None:
        return Path(found)
    with contextlib.suppress(InputError):  # whoever needs the file will report the error
        facts = load_json(workdir / "run.json")
        options = facts.get("experiment") if isinstance(facts, dict) else None
        found = options.get("data") if isinstance(options, dict) else None
        return Path(found) if isinstance(found, str) else None
    return None


def reject_absent(data: Path, workdir: Path) -> None:
    """Reject raw data that do not exist.

    Raises:
        InputError: always; the message names what stands instead, if anything does.
    """
    found = _made_from(workdir)
    stands = f"; {workdir}/prepare stands without: leave --data out" if found else ""
    raise InputError(f"--data={absent_data(data)}{stands}")


def _files_of(name: str, path: Path) -> list[str] | None:
    """Return the names of the files of a checkpoint that are read; None for all files."""
    if "checkpoint" not in name and name != "tokenizer":
        return None
    found = (file for form in _OF_CHECKPOINTS for file in path.glob(form))
    return [file.relative_to(path).as_posix() for file in found]
