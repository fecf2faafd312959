"""A warm start: a run on new data starts from a finished run.

    mufin train --from=RUN --data=NEW --workdir=DIR [the flags of RUN]

What the model is made of, the tokenizer, the size of pictures, and the kind of the label table are
RUN's. A stage records a digest of what it reads of RUN, and not its path: RUN may be moved.
"""

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from mufin_jax.model.label_table import saved_config
from mufin_jax.model.saved import load_sizes
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.idle_options import flag_of, options_of
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import MANIFEST, load_json
from mufin_jax.stages.context import Start

_PICTURES = ("fit", "resample", "mean", "std")


def start_of(experiment: Experiment) -> Start | None:
    """Return what a warm start takes from its run; None for an experiment that is none."""
    if experiment.start_from is None:
        return None
    return Start(experiment.start_from, experiment.start.steps, experiment.start.rate)


def with_run(experiment: Experiment) -> Experiment:
    """Return the experiment with the sizes and kinds of the run that it starts from.

    Raises:
        InputError: in one line, if there is no finished run to start from.
    """
    run = experiment.start_from
    if run is None:
        return experiment
    check_run(run, experiment)
    sizes, _ = load_sizes(run / "finetune" / "model")
    manifest, prepare = load_json(run / "prepare" / MANIFEST), experiment.prepare
    prepare = dataclasses.replace(prepare, max_tokens=manifest["max_tokens"])
    if (tokenizer := run / "prepare" / "tokenizer.json").is_file():
        prompt = manifest.get("prompt", "")
        prepare = dataclasses.replace(prepare, tokenizer=str(tokenizer), prompt=prompt)
    if not sizes.config.image_checkpoint:
        processing = {name: getattr(sizes.processing, name) for name in _PICTURES}
        prepare = dataclasses.replace(prepare, image_size=sizes.processing.size, **processing)
    found = dataclasses.replace(experiment, model=sizes.config, prepare=prepare)
    kind = load_json(run / "finetune" / "settings.json").get("classifiers", "table")
    finetune = dataclasses.replace(found.finetune, classifiers=kind)
    initialize = found.initialize
    if (table := run / "finetune" / "table").is_dir():
        initialize = dataclasses.replace(initialize, table=saved_config(table))
    return dataclasses.replace(found, finetune=finetune, initialize=initialize)


def check_run(run: Path, experiment: Experiment) -> None:
    """Reject a folder that is no finished run, and data that the run's model cannot read.

    Raises:
        InputError: one line.
    """
    flag = f"--from={run}"
    if not run.is_dir():
        raise InputError(f"{flag}: found no such folder; expected the folder of a finished run")
    if run.resolve() == experiment.folder.resolve():
        raise InputError(f"{flag}: this is the run's own folder; choose another --workdir")
    if not (run / "finetune" / "done.json").is_file():
        raise InputError(
            f"{flag}: its stage finetune is not finished; expected the folder of a finished run"
        )
    if not (run / "prepare" / MANIFEST).is_file():
        raise InputError(
            f"{flag}: its prepared data are gone, and with them the ids of its labels and its "
            "tokenizer; make them again by its own command with --stage=prepare"
        )
    if experiment.data is None and experiment.miniature.PREPARED:
        raise InputError(
            f"{flag}: these built-in data are prepared as they are made, with a tokenizer of their "
            "own; expected --data"
        )
    sizes, _ = load_sizes(run / "finetune" / "model")
    given = experiment.prepare
    for kind, width, vectors in (
        ("text", sizes.text_vector_width, given.text_vectors),
        ("image", sizes.vector_width, given.image_vectors),
    ):
        if vectors is not None and width is None:
            raise InputError(
                f"{flag} with --prepare.{kind}-vectors={vectors}: that run has read no ready "
                f"{kind} vectors; leave one of the two out"
            )
        if vectors is None and width is not None and kind == "text":
            raise InputError(
                f"{flag}: that run has read ready {kind} vectors of {width} numbers; expected "
                f"those of the new data, by --prepare.{kind}-vectors"
            )


def reject_contradictions(experiment: Experiment, changed: dict[str, Any]) -> None:
    """Reject options that a command changes, and that the run to start from decides.

    Args:
        experiment: a warm start.
        changed: the options that the command changes, with their values, by their paths.

    Raises:
        InputError: with the option, its value, and that of the run.
    """
    found = with_run(experiment)
    taken = _taken(found) | {"prepare.vocab_size": "that of its tokenizer"}
    for path, value in changed.items():
        known = path in taken or path.startswith("model.")
        if known and (there := taken.get(path, "absent")) != value:
            raise InputError(
                f"{flag_of(path, value)} with --from={experiment.start_from}: that run has "
                f"{path} = {there}, and a run that starts from it keeps this; leave the option out"
            )


def _taken(experiment: Experiment) -> dict[str, Any]:
    """Return the options that are the run's, by their paths."""
    names = ("tokenizer", "prompt", "max_tokens", "image_size", *_PICTURES)
    found = {f"prepare.{name}": getattr(experiment.prepare, name) for name in names}
    found |= dict(options_of(experiment.model, "model."))
    found |= dict(options_of(experiment.initialize.table, "initialize.table."))
    return found | {"finetune.classifiers": experiment.finetune.classifiers}


def recorded_start(workdir: Path) -> str | None:
    """Return the run that the run in a folder was started from; None if from none."""
    with contextlib.suppress(InputError):  # whoever needs the file will report the error
        facts = _facts(workdir)
        found = facts.get("start_from")
        return found if isinstance(found, str) else None
    return None


def recorded_preset(run: Path) -> str | None:
    """Return the name of the experiment that a run was begun as; None if it does not tell."""
    with contextlib.suppress(InputError):
        found = _facts(run).get("name")
        return found if isinstance(found, str) else None
    return None


def _facts(workdir: Path) -> dict[str, Any]:
    path = workdir / "run.json"
    facts = load_json(path) if path.is_file() else {}
    options = facts.get("experiment") if isinstance(facts, dict) else None
    return options if isinstance(options, dict) else {}


def started(experiment: Experiment, stage: str) -> dict[str, Any]:
    """Return what a stage of a warm start records in addition to its settings."""
    start = start_of(experiment)
    if start is None:
        return {}
    lasts = {"steps": start.steps, "rate": start.rate}
    read: dict[str, dict[str, Any]] = {
        "pretrain": {"model": _digest(start.model, "model.json", f"weights/0/{MANIFEST}")} | lasts,
        "initialize": {
            "table": _digest(start.table, f"0/{MANIFEST}"),
            "labels": _digest(start.prepared, "label_ids.npz"),
        },
        "finetune": lasts,
    }
    return {"start": read[stage]}


def _digest(folder: Path, *names: str) -> str | None:
    """Return the SHA-256 of files; None if one is absent."""
    if not all((folder / name).is_file() for name in names):
        return None
    content = b"".join(hashlib.sha256((folder / name).read_bytes()).digest() for name in names)
    return hashlib.sha256(content).hexdigest()
