"""Files that are whole or absent: replaced in one step, and checked by SHA-256."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mufin_jax.runtime.errors import InputError, MufinError, reason
from mufin_jax.runtime.storage.disk import disk_error, is_disk_error

MANIFEST = "manifest.json"
"""The file that completes a sealed folder."""

_SEAL = "sha256"
"""The key, in a JSON file, of the digest of everything else in it."""

_PIECE = 1 << 20
"""Bytes of a file that are read at a time for its digest."""

MAKE_ANEW = "make it again by --redo=STAGE, with the name of the stage whose folder it lies in"
"""The advice on a damaged file that a stage wrote."""


@contextlib.contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path`, on disk, only when it is complete.

    Args:
        path: The file to replace, or to make.
        needed: The bytes that it will hold, if they are known.

    Raises:
        DiskError: The disk does not take it; nothing of it is left.
    """
    unfinished, written = path.with_name(path.name + ".tmp"), 0
    try:
        with open(unfinished, "wb") as file:
            try:
                yield file
            except OSError:
                with contextlib.suppress(OSError, ValueError):
                    written = max(file.tell(), os.stat(unfinished).st_size)
                raise
            written = file.tell()
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync(path.parent)
    except BaseException as error:
        discard(unfinished)
        if not (isinstance(error, OSError) and is_disk_error(error)):
            raise
        reason, more = error.strerror or str(error), needed is None
        raise disk_error(path, reason, written if more else needed, more) from error


def discard(path: Path) -> None:
    """Delete a half-written file or folder, if it exists and the disk allows it.

    It raises nothing: a caller that is about to raise an error must not lose it because the disk
    has become read-only.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write_array(file: BinaryIO, array: np.ndarray) -> None:
    """Write what `numpy.save` writes for an array of one axis or more, by Python's own output.

    numpy writes arrays by C's buffered output, and does not check whether the last bytes arrive: on
    a full disk they are missing, without an error.
    """
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


def save_array(path: Path, array: np.ndarray) -> None:
    """Replace a npy file in one step.

    Raises:
        DiskError: The disk does not take it.
    """
    with replacing(path, array.nbytes) as file:
        write_array(file, array)


@contextlib.contextmanager
def damaged(what: str) -> Iterator[None]:
    """Turn what reading a damaged file raises, of a dozen types, into InputError.

    Errors of a failing disk and of missing memory pass through: they are no damage.

    Args:
        what: The message: what cannot be read, and what to do. "{reason}" in it becomes the reason.

    Raises:
        InputError: The block raised anything else.
    """
    try:
        yield
    except (MufinError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_disk_error(error):
            raise
        found = f"{type(error).__name__}: {reason(error)}"
        raise InputError(what.replace("{reason}", found)) from error


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step. Arrays become lists, paths text, NaN and infinity null."""
    content = _json(jsonable(value))
    with replacing(path, len(content)) as file:
        file.write(content)


def save_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON as `save_json`, and in it its own SHA-256, which `load_sealed` checks."""
    plain = jsonable(value)
    save_json(path, plain | {_SEAL: hashlib.sha256(_json(plain)).hexdigest()})


def load_sealed(path: Path) -> dict[str, Any]:
    """Return what `save_sealed` wrote.

    Raises:
        InputError: The file is missing, or a single bit of it has changed.
    """
    try:
        content = path.read_bytes()
        value = json.loads(content)
        if value.pop(_SEAL, None) is None:
            raise InputError(f"{path}: it lacks its {_SEAL}; {MAKE_ANEW}")
        changed = content != _json(value | {_SEAL: hashlib.sha256(_json(value)).hexdigest()})
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {MAKE_ANEW}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        changed = True
    if changed:
        raise InputError(f"{path}: damaged (wrong SHA-256); {MAKE_ANEW}")
    return value


def _json(plain: Any) -> bytes:
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair as JSON writes it


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: It is missing or broken; the message gives the line.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({error}); delete it and run the command again"
        ) from error


def jsonable(value: Any) -> Any:
    """Return a value in the types that JSON has, comparable with what is read back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def manifest(folder: Path, ignore: Set[str] = frozenset()) -> dict[str, list]:
    """Return size and SHA-256 of every file under a folder, by its path relative to the folder."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    names = [name for name in names if name not in ignore]
    digests = sha256(folder / name for name in names)
    return {
        name: [(folder / name).stat().st_size, digest]
        for name, digest in zip(names, digests, strict=True)
    }


def damage(folder: Path, files: dict[str, list], ignore: Set[str] = frozenset()) -> str | None:
    """Return how a folder differs from its manifest, in a few words; None if it does not.

    A checkpoint, an index and prepared data are verified here: names, sizes, SHA-256.
    """
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    } - ignore
    if missing := sorted(set(files) - present):
        return f"{missing[0]} is missing"
    if strange := sorted(present - set(files)):
        return f"{strange[0]} does not belong here"
    for name, (size, _) in files.items():
        if (found := (folder / name).stat().st_size) != size:
            return f"{name} has {found} bytes instead of {size}"
    digests = sha256(folder / name for name in files)
    for (name, (_, wanted)), digest in zip(files.items(), digests, strict=True):
        if digest != wanted:
            return f"{name} is damaged (wrong SHA-256)"
    return None


def seal(folder: Path) -> None:
    """Complete a folder: remove what a kill left, and write a sealed manifest of its files."""
    for leftover in folder.rglob("*.tmp"):
        if leftover.is_file():
            leftover.unlink()
    save_sealed(folder / MANIFEST, manifest(folder, ignore={MANIFEST}))


def check_seal(folder: Path) -> None:
    """Verify that a folder is complete and unchanged since its `seal`.

    Raises:
        InputError: It is not; the message names the file.
    """
    listed = load_sealed(folder / MANIFEST)
    if reason := damage(folder, listed, ignore={MANIFEST}):
        raise InputError(f"{folder}: {reason}; {MAKE_ANEW}")


def sha256(paths: Iterable[Path], check: Callable[[], None] = lambda: None) -> list[str]:
    """Return the SHA-256 of each file; several are read at a time.

    Args:
        paths: The files.
        check: Called between the pieces of a file; an exception from it ends the reading.
    """

    def digest(path: Path) -> str:
        found, piece = hashlib.sha256(), bytearray(_PIECE)
        with open(path, "rb", buffering=0) as file:
            while size := file.readinto(piece):
                check()
                found.update(memoryview(piece)[:size])
        return found.hexdigest()

    with ThreadPoolExecutor() as threads:
        return list(threads.map(digest, paths))
