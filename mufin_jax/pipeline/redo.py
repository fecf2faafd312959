"""`--redo=STAGE`: a stage and those after it are removed, to be made again.

Only folders in the run's own folder are removed, and only those that a stage wrote. Of a stage that
is a link to another run's, the link goes and the other run stays. A folder is renamed first: no run
ever finds a part of it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import discard

log = logging.getLogger(__name__)

_GOING = ".removed"


def remove_stages(workdir: Path, names: Sequence[str], why: str) -> None:
    """Remove the folders of stages, the last one first.

    Args:
        workdir: the run's folder, which the caller holds.
        names: of the stages, in their order.
        why: begins the line that tells what is removed.

    Raises:
        InputError: one of the folders is no stage's; nothing is removed.
        DiskError: the folder cannot be written.
    """
    found = [name for name in names if (workdir / name).is_symlink() or (workdir / name).exists()]
    for name in found:
        _check_is_a_stage(workdir / name)
    if found:
        log.info("%s: %s removed from %s", why, ", ".join(found), workdir)
    with disk_errors(workdir):
        for name in reversed(found):
            path, going = workdir / name, workdir / f"{name}{_GOING}"
            if name == "evaluate":
                (workdir / "metrics.json").unlink(missing_ok=True)
            if path.is_symlink():
                path.unlink()
                continue
            discard(going)
            path.rename(going)
    clear_removed(workdir, names)


def clear_removed(workdir: Path, names: Sequence[str]) -> None:
    """Delete what a killed removal left."""
    for name in names:
        discard(workdir / f"{name}{_GOING}")


def _check_is_a_stage(path: Path) -> None:
    if path.is_symlink():
        return
    if not path.is_dir() or (not (path / "settings.json").is_file() and any(path.iterdir())):
        raise InputError(
            f"{path} has no settings.json, so no stage of a run wrote it; expected the folder of a "
            "stage; remove it yourself, or choose another --workdir"
        )
