"""The folder of an export: written under another name, sealed, and moved into place at the end."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mufin_jax.export.answers import save_answers
from mufin_jax.export.card import save_card
from mufin_jax.export.encoders import problem as encoders_problem
from mufin_jax.export.encoders import save_encoders
from mufin_jax.export.label_vectors import save_label_vectors
from mufin_jax.export.program_check import check_programs
from mufin_jax.export.programs import FLATBUFFERS, has_flatbuffers, save_programs
from mufin_jax.export.programs import problem as programs_problem
from mufin_jax.prediction.config import check_finished
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import DiskError, InputError
from mufin_jax.runtime.run_folder import environment
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_error, is_disk_error
from mufin_jax.runtime.storage.paths import Given, user_path

EXPORT = "export.json"
"""The last file of an export: what it was made of, and the checksums of its files."""
PROGRAMS = "programs"
"""The folder of the programs."""
_CHANGES = "catalogue"
"""The folder of an export that changes with its labels; it has seals of its own."""


def export_run(
    run: Given, to: Given, force: bool = False, encoders: bool = False, programs: bool = False
) -> Path:
    """Write what a finished run needs to answer into a folder of its own, and return the folder.

    Args:
        run: the folder of a run whose stage finetune is done, or of an export.
        to: the new folder; nothing is there before it is complete.
        force: replace an export that is there already.
        encoders: also write the encoders under the names of Hugging Face.
        programs: also write the model as StableHLO programs.

    Raises:
        InputError: if the run is not finished or damaged, or `to` cannot take its export.
        DiskError: if the disk does not take it; nothing of it is left.
    """
    run, to = user_path(run, "run"), user_path(to, "to")
    check_finished(run)
    _check_target(run, to, force)
    predictor = Predictor.load(run)
    for wanted, problem in ((encoders, encoders_problem), (programs, programs_problem)):
        if found := wanted and problem(predictor):
            raise InputError(found)
    with _moved_into_place(to) as folder:
        save_answers(run, predictor, folder)
        cache = run / "finetune" / "predictor" / "labels"
        save_label_vectors(predictor, cache, folder / "labels")
        if encoders:
            save_encoders(predictor, folder / "encoders")
        if programs:
            save_programs(predictor, folder / PROGRAMS)
        save_card(run, predictor, folder, to.name)
        facts = {
            "versions": environment()["versions"],
            "run": hashlib.sha256((cache / files.MANIFEST).read_bytes()).hexdigest(),
            "catalogue": predictor.catalogue.version,
        }
        listed = {
            name: entry for name, entry in files.manifest(folder).items() if not _changes(name)
        }
        files.save_sealed(folder / EXPORT, facts | {"files": listed})
    return to


def check_export(folder: Given) -> str:
    """Compare the files of an export with their checksums, and its programs with its predictor.

    Returns:
        what was found, in a line.

    Raises:
        InputError: if the folder is no export, a file is missing or damaged, or a program differs.
    """
    folder = user_path(folder, "folder")
    if not (folder / EXPORT).is_file():
        raise InputError(f"{folder}: no export there; expected the --to of a `mufin export`")
    listed = files.load_sealed(folder / EXPORT)["files"]
    present = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    if found := files.damage(folder, listed, ignore=set(present) - set(listed)):
        raise InputError(f"{folder}: {found}; export the run again")
    told = f"{len(listed):,} files, all as they were exported"
    if not (folder / PROGRAMS).is_dir():
        return told
    if not has_flatbuffers():
        return f"{told}; its programs are not compared: {FLATBUFFERS}"
    cache = folder / "finetune" / "predictor" / "labels"
    most = check_programs(folder / PROGRAMS, cache, Predictor.load(folder))
    return f"{told}; its programs differ from the predictor by {most:.1e} at most"


def _changes(name: str) -> bool:
    return name.startswith(f"{_CHANGES}/")


def _check_target(run: Path, to: Path, force: bool) -> None:
    """Raise InputError unless the target is absent, an empty folder, or may be replaced."""
    here, there = run.resolve(), to.resolve()
    if there.is_relative_to(here):
        raise InputError(f"--to={to} lies inside of the run; expected a folder outside of {run}")
    if not to.exists():
        return
    if not to.is_dir():
        raise InputError(f"--to={to} is a file; expected a folder that is not there yet")
    if (to / EXPORT).is_file():
        if not force:
            raise InputError(f"--to={to} is an export already; --force replaces it")
    elif any(to.iterdir()):
        raise InputError(
            f"--to={to} is not empty, and no export; expected a folder that is not there yet"
        )


def _make(new: Path, to: Path) -> None:
    """Make an empty folder next to `to`; raise InputError where no folder can be."""
    files.discard(new)
    try:
        new.mkdir(parents=True)
    except OSError as error:
        if is_disk_error(error):
            raise
        raise InputError(f"--to={to} cannot be made ({error.strerror})") from None


@contextlib.contextmanager
def _moved_into_place(to: Path) -> Iterator[Path]:
    """Give a new folder to fill, which becomes `to` in one step when it is on the disk."""
    new, old = (to.with_name(f".{to.name}.{kind}") for kind in ("new", "old"))
    try:
        _make(new, to)
        yield new
        for path in [*new.rglob("*"), new]:
            files.sync(path)
        files.discard(old)
        if (to / EXPORT).is_file():
            os.replace(to, old)
        os.replace(new, to)
        files.sync(to.parent)
        files.discard(old)
    except BaseException as error:
        written = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        files.discard(new)
        fault = error.__cause__ if isinstance(error, DiskError) else error
        if isinstance(fault, OSError) and is_disk_error(fault):
            told = str(disk_error(to, fault.strerror or str(fault), written, more=True))
            raise DiskError(told.replace("another --workdir", "another --to")) from error
        raise
