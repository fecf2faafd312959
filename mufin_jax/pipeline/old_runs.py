"""Runs of older versions: what their stages did not record is found in what they wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mufin_jax.runtime.storage.files import read_json, read_sealed


def unrecorded(workdir: Path, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that a stage was made with and that its settings.json lacks.

    Up to version 0.1.0, prepare did not record how pictures are made square (`fit`), which stands
    in its manifest. Only evaluate recorded how scores are made (`predict`); Module IV had written
    the same options next to its predictor.

    Args:
        workdir: the run's folder.
        stage: the name of a stage.
        settings: those of the stage now. What nothing in the folder depends on yet is taken from
            here.

    Returns:
        The settings; none if the stage recorded all of them.
    """
    path = workdir / stage / "settings.json"
    if stage == "prepare" and path.exists() and "fit" not in read_json(path):
        return {"fit": _fit(workdir / stage, settings)}
    if stage not in ("finetune", "report") or not path.exists() or "predict" in read_json(path):
        return {}
    frozen = workdir / "finetune" / "predictor" / "predictor.json"
    if stage == "finetune" and frozen.exists():
        return {"predict": read_sealed(frozen)}
    measured = workdir / "evaluate" / "settings.json"
    return {"predict": (read_json(measured) if measured.exists() else settings)["predict"]}


def _fit(prepared: Path, settings: Mapping[str, Any]) -> Any:
    """Return the `fit` that a prepared folder was made with."""
    manifest = prepared / "manifest.json"
    if settings["image_checkpoint"] or not manifest.exists():  # the checkpoint's own is used
        return settings["fit"]
    return read_json(manifest).get("processing", settings).get("fit", settings["fit"])
