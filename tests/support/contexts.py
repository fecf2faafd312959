"""Contexts of stages, for tests that call a stage's function by itself."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.stages.context import StageContext


def context(out: Path, mesh: Mesh, folders: dict[str, Path], **fields: Any) -> StageContext:
    """A stage that writes `out` and reads the folders given by the names of their stages.

    What frozen encoders compute is kept next to the stage's files.
    """
    return StageContext(workdir=out, folders=folders, out=out, mesh=mesh, **fields)


def after(run: Path, out: Path, mesh: Mesh, **fields: Any) -> StageContext:
    """The same, with the folders of a run that has come so far."""
    return context(out, mesh, {path.name: path for path in run.iterdir()}, **fields)
