"""Contexts of stages, for tests that call a stage's function by itself."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.stages.context import StageContext


def context(out: Path, mesh: Mesh, folders: dict[str, Path], **fields: Any) -> StageContext:
    """Return the context of a stage that writes `out` and reads the given stages' folders.

    The outputs of frozen encoders are kept next to the stage's files.
    """
    return StageContext(workdir=out, folders=folders, out=out, mesh=mesh, **fields)


def after(run: Path, out: Path, mesh: Mesh, **fields: Any) -> StageContext:
    """Return the context of a stage that follows those of a run's folder."""
    return context(out, mesh, {path.name: path for path in run.iterdir()}, **fields)
