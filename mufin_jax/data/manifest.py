"""The manifest that completes a prepared folder: what is in it, and how to tell it is whole.

It is written last and in one move, so a folder without it is one whose preparation was cut short.
The checksums of the records, whose bytes are not reproducible, stand in a file of their own, so
that two preparations of the same data have byte-identical manifests.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mufin_jax.errors import InputError

MANIFEST = "manifest.json"
RECORDS_CHECKSUMS = "records.json"
VERSION = 1


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file in one move, after it has reached the disk."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of files, by name relative to the folder."""
    found = {}
    for name in sorted(names):
        path = folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def write_manifest(folder: Path, content: dict[str, Any], names: Iterable[str]) -> None:
    """Completes a folder: `content`, and the checksums of the files called `names`."""
    records = [path for path in sorted((folder / "records").rglob("*")) if path.is_file()]
    records = [path.relative_to(folder).as_posix() for path in records]
    write_json(folder / RECORDS_CHECKSUMS, checksums(folder, records))
    write_json(
        folder / MANIFEST, {"version": VERSION, **content, "files": checksums(folder, names)}
    )


def read_manifest(folder: Path, verify: bool = False) -> dict[str, Any]:
    """Reads the manifest and checks the folder against it.

    Args:
      folder: a prepared folder.
      verify: compare checksums as well as sizes, which reads every byte.

    Raises:
      InputError: if the folder is not there, not complete, of another version, or changed.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: wanted one that `prepare` wrote")
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}: not prepared, or not to its end; prepare it")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        version, files = manifest["version"], manifest["files"]
        records = json.loads((folder / RECORDS_CHECKSUMS).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): prepare the data anew") from None
    if version != VERSION:
        raise InputError(f"{path} has version {version}, wanted {VERSION}: prepare the data anew")
    for name, wanted in (files | records).items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else "nothing"
        if found != wanted["bytes"]:
            raise InputError(
                f"{folder / name}: {found} found, {wanted['bytes']} bytes wanted: prepare it anew"
            )
    if verify:
        for name, found in checksums(folder, files | records).items():
            if found["sha256"] != (files | records)[name]["sha256"]:
                raise InputError(f"{folder / name} has changed since it was prepared")
    return manifest
