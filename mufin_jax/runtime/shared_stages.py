"""Stages that several runs share: one run makes them, the others link to its folders.

What a stage writes depends only on its own settings and on the stages before it. Runs with equal
settings up to a stage can therefore share the folders of these stages. A run reads the folders of
earlier stages and never writes to them, so no run can harm another.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.run_folder import MadeWith, flatten, recorded
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import jsonable

_BESIDE = ("miniature", "precomputed")
"""Folders that go with the prepared data: their sources, and the features that frozen encoders
compute from them, in files that are named by their contents."""


def link_stages(
    workdir: Path,
    settings: Mapping[str, Any],
    others: Iterable[Path],
    made_with: MadeWith = recorded,
) -> None:
    """Link the first stages of a run to those that another run has finished with equal settings.

    A stage that the run itself has begun or finished stays unchanged. A link to a folder that is
    gone is replaced, or removed if the run has no stage of its own. Links are relative: runs next
    to each other can be moved together.

    Args:
        workdir: The run's folder, which the caller holds.
        settings: The settings of the run's stages, by name, in their order.
        others: Folders of other runs, the preferred one first.
        made_with: Gives what a stage of another run was made with.

    Raises:
        DiskError: A link cannot be made.
    """

    def fits(run: Path, stage: str, wanted: Any) -> bool:
        done = (run / stage / "done.json").is_file()
        return done and made_with(run, stage, wanted) == flatten(jsonable(wanted))

    def link() -> None:
        alike, own = list(others), any(workdir.glob("*/settings.json"))
        with disk_errors(workdir):
            for stage, wanted in settings.items():
                alike = [run for run in alike if fits(run, stage, wanted)]
                for name in (stage, *_BESIDE) if stage == "prepare" else (stage,):
                    _link(workdir / name, next((run / name for run in alike), None), own)

    processes.once("stages are shared", link)


def _link(path: Path, end: Path | None, keep: bool) -> None:
    end = end if end is not None and end.is_dir() else None
    if path.is_symlink() and not path.exists() and not (keep and end is None):
        path.unlink()
    if end is not None and not path.exists():
        path.symlink_to(os.path.relpath(end.resolve(), path.parent.resolve()))
