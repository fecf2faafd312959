"""Runs of older versions: what their stages did not record is found in what they wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mufin_jax.pipeline.sources import SOURCES, as_named_now
from mufin_jax.runtime.run_folder import flatten
from mufin_jax.runtime.storage.files import jsonable, load_json

_NO_VALIDATION = {
    "validate.every": 0,
    "validate.patience": 0,
    "validate.points": 1000,
    "validate.labels": 20_000,
}

ADDED: dict[str, dict[str, Any]] = {
    "prepare": {
        "split": "given",
        "validation_share": 0.0,
        "prompt": None,
        "columns": [],
        "keep": [],
        "images": None,
        "text_vectors": None,
        "image_vectors": None,
        "missing_rows": 0.0,
        "test_share": None,
    },
    "pretrain": {
        "hard_negatives": True,
        "model.self_attention": "attention",
        "model.text.pooling": "mean",
        "model.text.normalise": False,
        "model.reduce_hidden": 512,
        "loss": "hinge",
        "least_steps": 0,
        "more_epochs": [],
        "crop": 0.0,
        "dropout": 0.0,
        "temperature": 0.07,
        "learn_temperature": False,
        "both_ways": True,
        "batches_over": "labels",
        "mined_negatives": 0,
        "random_others": 0,
        "modality_dropout": 0.0,
        "teacher": None,
        "teacher_weight": 1.0,
        "own_loss": None,
        "own_sampler": None,
        "optimizer.self_attention": "full",
        **_NO_VALIDATION,
        "optimizer.reduce": "full",
        "optimizer.reduce_rate": None,
    },
    "initialize": {"eta": "xavier", "cross_attention": "attention"},
    "finetune": {
        "loss": "cosine",
        "least_steps": 0,
        "more_epochs": [],
        "temperature": 0.07,
        "modality_dropout": 0.0,
        "prototypes": False,
        "own_loss": None,
        "optimizer.self_attention": "full",
        **_NO_VALIDATION,
        "optimizer.reduce": "full",
        "optimizer.reduce_rate": None,
    },
    "evaluate": {"missing_pictures": []},
}
"""Settings that a stage did not have in older versions, and the values that it acted by."""

ACCEPTED: dict[str, tuple[str, ...]] = {"evaluate": ("frozen_neighbours",)}
"""Settings that a stage did not have in older versions: what it wrote serves with any value."""


REMOVED: dict[str, tuple[str, ...]] = {
    "prepare": ("seed",),
    "retrieve": ("seed",),
    "evaluate": ("seed",),
    "report": ("seed",),
}
"""Settings that a stage recorded in older versions, and that change nothing that it writes."""


def made_with(workdir: Path, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage was made with, in the words of this version, for a comparison.

    Args:
        workdir: the run's folder.
        stage: the name of a stage that has begun.
        settings: those of the stage now.

    Returns:
        The settings, nested ones under names joined by dots. Files that have moved since have the
        names that they have now.
    """
    now = flatten(jsonable(settings))
    known = load_json(workdir / stage / "settings.json")
    found = flatten({**unrecorded(workdir, stage, settings), **known})
    for name in REMOVED.get(stage, ()):
        if name not in now:
            found.pop(name, None)
    for name in SOURCES.get(stage, ()):
        if name in found:
            found[name] = as_named_now(workdir / stage, name, found[name], now.get(name))
    return found


def unrecorded(workdir: Path, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that a stage was made with and that its settings.json lacks.

    Up to version 0.1.0, prepare did not record how pictures are made square (`fit`), which stands
    in its manifest. The report did not record how scores are made (`predict`), but evaluate did.
    Settings that came later are in `ADDED`.

    Args:
        workdir: the run's folder.
        stage: the name of a stage.
        settings: those of the stage now. What nothing in the folder depends on yet is taken from
            here.

    Returns:
        The settings, nested ones under names joined by dots; none if the stage recorded all.
    """
    path = workdir / stage / "settings.json"
    if not path.exists():
        return {}
    recorded, now = load_json(path), flatten(jsonable(settings))
    known = flatten(recorded)
    added = ADDED.get(stage, {}) | {name: now.get(name) for name in ACCEPTED.get(stage, ())}
    found = {name: value for name, value in added.items() if name in now and name not in known}
    if stage == "prepare" and "fit" not in recorded:
        found["fit"] = _fit(workdir / stage, settings)
    if stage == "report" and "predict" not in recorded:
        measured = workdir / "evaluate" / "settings.json"
        found["predict"] = (load_json(measured) if measured.exists() else settings)["predict"]
    return found


def _fit(prepared: Path, settings: Mapping[str, Any]) -> Any:
    """Return the `fit` that a prepared folder was made with."""
    manifest = prepared / "manifest.json"
    if settings["image_checkpoint"] or not manifest.exists():  # the checkpoint's own is used
        return settings["fit"]
    return load_json(manifest).get("processing", settings).get("fit", settings["fit"])
