"""The manifest that completes a prepared folder: what is in it, and how to tell it is whole.

The manifest is written last and in one move: the preparation of a folder without one was cut short.
The bytes of the records are not reproducible, so their checksums have a file of their own. Two
preparations of the same data then have byte-identical manifests.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.files import MANIFEST, load_sealed, save_sealed, sha256
from mufin_jax.runtime.storage.paths import gone_link

RECORDS_CHECKSUMS = "records.json"
VERSION = 1
AGAIN = "again (--redo=prepare)"
"""The advice on a prepared folder that is damaged."""
WITHOUT_ITEMS = "without_items"
"""Whether the items of a prepared folder have lost what they show, as in an export."""


def checksums(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the size in bytes and the SHA-256 of files, by name relative to the folder.

    Raises:
      Stopped: after a signal.
    """
    names = sorted(names)
    check = functools.partial(check_stop, "the checksums")
    digests = sha256((folder / name for name in names), check)
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }


def save_manifest(folder: Path, content: dict[str, Any], names: Iterable[str]) -> None:
    """Complete a folder: write `content`, and the checksums of the files called `names`."""
    records = [path for path in sorted((folder / "records").rglob("*")) if path.is_file()]
    records = [path.relative_to(folder).as_posix() for path in records]
    save_sealed(folder / RECORDS_CHECKSUMS, checksums(folder, records))
    save_sealed(
        folder / MANIFEST, {"version": VERSION, **content, "files": checksums(folder, names)}
    )


def load_manifest(
    folder: Path, verify: bool = False, spared: Callable[[str], bool] = lambda name: False
) -> dict[str, Any]:
    """Return the manifest, after checking the folder against it.

    Args:
      folder: a prepared folder.
      verify: whether to compare checksums as well as sizes, which reads every byte.
      spared: whether the file of a name may be absent.

    Raises:
      InputError: if the folder is not there, not complete, of another version, or changed.
    """
    path = folder / MANIFEST
    _check_prepared(folder)
    manifest, records = load_sealed(path), {}
    if (folder / RECORDS_CHECKSUMS).is_file() or not spared(RECORDS_CHECKSUMS):
        records = load_sealed(folder / RECORDS_CHECKSUMS)
    version, files = manifest.get("version"), manifest.get("files", {})
    if version != VERSION:
        raise InputError(
            f"{path} has version {version}, expected {VERSION}: prepare the data {AGAIN}"
        )
    if not isinstance(files, dict) or not all(map(_is_entry, (files | records).items())):
        raise InputError(f"{path}: an invalid list of files: prepare the data {AGAIN}")
    for name, wanted in (files | records).items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{path} names {name!r}, which lies outside of its folder, or is a link to "
                f"elsewhere: put the file itself there, or prepare the data {AGAIN}"
            )
        there = (folder / name).is_file()
        if not there and spared(name):
            continue
        found = (folder / name).stat().st_size if there else "nothing"
        if found != wanted["bytes"]:
            raise InputError(
                f"{folder / name}: {found} found, {wanted['bytes']} bytes wanted: "
                f"prepare it {AGAIN}"
            )
    if verify:
        for name, found in checksums(folder, files | records).items():
            if found["sha256"] != (files | records)[name]["sha256"]:
                raise InputError(
                    f"{folder / name} has changed since it was prepared: prepare it {AGAIN}"
                )
    return manifest


def _check_prepared(folder: Path) -> None:
    """Raise InputError if a folder has no manifest; the message gives the one that is meant."""
    if found := gone_link(folder):
        raise InputError(f"{found}: put that folder back, or in the place of the link")
    if (folder / MANIFEST).is_file():
        return
    run = folder.absolute().parent
    for meant, what in ((folder / "prepare", "a run's"), (run / "prepare", "a stage's")):
        stage = what == "a run's" or (run / "run.json").is_file()
        if stage and folder.name != "prepare" and (meant / MANIFEST).is_file():
            raise InputError(f"{folder} is {what} folder: give the prepared one, {meant}")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected one that `prepare` wrote")
    raise InputError(f"{folder} has no {MANIFEST}: not prepared, or not to its end; prepare it")


def unread_by_answers(name: str) -> bool:
    """Return whether a file of a prepared folder is read by training alone, and by no query."""
    return name in ("images.npy", RECORDS_CHECKSUMS) or name.startswith("records/")


def _is_entry(entry: tuple[str, Any]) -> bool:
    name, at = entry
    sound = name.isprintable() and len(name) < 200
    return sound and isinstance(at, dict) and at.keys() >= {"bytes", "sha256"}
