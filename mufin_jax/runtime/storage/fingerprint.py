"""Fingerprints of files that a run has read: the same files are known again at another place.

A fingerprint is cheap for files of any size: of a file of more than 16 MB, 256 pieces count. It
tells other data from moved data. It is no protection against somebody who forges files.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from mufin_jax.runtime.storage.files import load_json, save_json

Fingerprint = dict[str, list]
"""Size and digest of each file, by its name relative to the folder; "" for many files together."""

MOST = 200
"""More files than these (a folder of pictures) get one digest, of their names and sizes."""
_PIECES, _PIECE = 256, 65_536
_FILE = "sources.json"


def load_sources(folder: Path) -> dict[str, Fingerprint]:
    """Return the fingerprints that a folder keeps, by name; none if it keeps none."""
    return load_json(folder / _FILE) if (folder / _FILE).is_file() else {}


def save_sources(folder: Path, found: dict[str, Fingerprint]) -> None:
    """Keep fingerprints in a folder, instead of those that it has."""
    save_json(folder / _FILE, found)


def fingerprint(path: Path, names: Iterable[str] | None = None) -> Fingerprint:
    """Return the fingerprint of a file, or of files in a folder; absent files are left out.

    Args:
        path: the file or the folder.
        names: of the files in the folder; all but hidden ones by default.
    """
    if path.is_file():
        return {path.name: _entry(path)}
    found = _names(path) if names is None else sorted(names)
    if names is None and len(found) > MOST:
        sizes = "\n".join(f"{name} {(path / name).stat().st_size}" for name in found)
        return {"": [len(found), hashlib.sha256(sizes.encode("utf-8", "replace")).hexdigest()]}
    return {name: _entry(path / name) for name in found if (path / name).is_file()}


def difference(known: Fingerprint, path: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Return the files that differ from a fingerprint, and those that are absent.

    Args:
        known: the fingerprint.
        path: the file or the folder where the same files may be.
    """
    if "" in known:
        found = fingerprint(path) if path.is_dir() else {}
    elif path.is_file():
        found = {name: _entry(path) for name in known} if len(known) == 1 else {}
    else:
        found = fingerprint(path, known)
    absent = [name for name in known if name not in found and (name or not found)]
    changed = [name for name in known if name not in absent and found.get(name) != known[name]]
    return changed, absent


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in found if not any(part[0] == "." for part in p.parts))


def _entry(path: Path) -> list:
    """Return the size of a file, and the SHA-256 of it or of pieces of it."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE:
            digest.update(file.read())
        else:
            for piece in range(_PIECES):
                file.seek(piece * (size - _PIECE) // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return [size, digest.hexdigest()]
