"""Stages that runs have in common: made by one of them, links in the folders of the others.

What a stage writes follows from its own settings and from the stages before it. Runs that agree in
the settings of all stages up to one can therefore share the folders of these stages; a run reads
the folders of earlier stages and never writes to them, so none can harm another.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import jsonable, read_json

_BESIDE = ("miniature", "precomputed")
"""Folders that go with the prepared data: what they were made from, and what frozen encoders make
of them, in files that are named after what they hold."""


def link_stages(workdir: Path, settings: Mapping[str, Any], others: Iterable[Path]) -> None:
    """Link the first stages of a run to those that another run has finished with equal settings.

    What the run has begun or finished by itself stays as it is; a link whose end has been deleted
    is replaced, or removed. Links are relative: runs that lie side by side can be moved together.

    Args:
        workdir: the run's folder, which the caller holds.
        settings: of the run's stages, by name, in their order.
        others: folders of other runs, the preferred one first.

    Raises:
        DiskError: if a link cannot be made.
    """

    def link() -> None:
        alike = list(others)
        with disk_errors(workdir):
            for stage, wanted in settings.items():
                alike = [run for run in alike if _made_with(run / stage, wanted)]
                for name in (stage, *_BESIDE) if stage == "prepare" else (stage,):
                    _link(workdir / name, next((run / name for run in alike), None))

    processes.once("stages are shared", link)


def _link(path: Path, end: Path | None) -> None:
    if path.is_symlink() and not path.exists():
        path.unlink()
    if end is not None and end.is_dir() and not path.exists():
        path.symlink_to(os.path.relpath(end.resolve(), path.parent.resolve()))


def _made_with(folder: Path, settings: Any) -> bool:
    """Whether a stage is finished, and was made with these settings."""
    if not (folder / "done.json").is_file():
        return False
    return read_json(folder / "settings.json") == jsonable(settings)
