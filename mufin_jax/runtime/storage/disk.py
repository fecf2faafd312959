"""A disk that is full, over its quota, read-only or failing: one error with one line."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mufin_jax.runtime.errors import DiskError
from mufin_jax.runtime.units import in_bytes

_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
)

_FORBIDDEN = frozenset(os.strerror(number) for number in (errno.EACCES, errno.EPERM))


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None, more: bool = False) -> Iterator[None]:
    """Turn errors of a full, read-only or failing disk into DiskError with the path and the space.

    A block that leaves something half-written must delete it itself: the free space is counted
    afterwards.

    Args:
        path: What is written.
        needed: How many bytes it takes, if that is known.
        more: Whether it takes more than those.

    Raises:
        DiskError: The disk is at fault.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise disk_error(path, error.strerror or str(error), needed, more) from error


@contextlib.contextmanager
def native_errors() -> Iterator[None]:
    """Turn an error of native code that quotes the system's words about the disk into OSError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if found := disk_error_in(str(error)):
            raise found from error
        raise


def disk_error_in(text: str) -> OSError | None:
    """Return the disk's error that a text quotes in the system's words, if it quotes one."""
    numbers = (number for number in sorted(_DISK) if os.strerror(number) in text)
    number = next(numbers, None)
    return None if number is None else OSError(number, os.strerror(number))


def is_disk_error(error: OSError) -> bool:
    """Return whether the disk is at fault, rather than a wrong name."""
    return error.errno in _DISK


@contextlib.contextmanager
def filling(folder: Path, clear: Callable[[], object]) -> Iterator[None]:
    """Turn the disk's errors into DiskError for a block that fills a folder and cannot resume.

    Args:
        folder: The folder.
        clear: Deletes what was written, if the disk takes no more.

    Raises:
        DiskError: The disk is at fault; the message gives how much was written.
    """
    try:
        yield
    except (OSError, DiskError) as error:
        if isinstance(error, OSError) and not is_disk_error(error):
            raise
        written = 0
        with contextlib.suppress(OSError):  # of a disk that has failed, or become read-only
            written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            clear()
        if isinstance(error, DiskError):
            raise
        path, reason = Path(os.fsdecode(error.filename or folder)), error.strerror or str(error)
        raise disk_error(path, reason, written, more=True) from error


def disk_error(path: Path, reason: str, needed: int | None = None, more: bool = False) -> DiskError:
    """Return the DiskError for a path; see `disk_errors` for the arguments."""
    if reason in _FORBIDDEN:  # space is beside the point
        return DiskError(f"{path}: {reason}; choose another --workdir, or allow writing there")
    facts = []
    if needed is not None:
        facts.append(f"{'more than ' if more else ''}{in_bytes(needed, gigabytes=False)} needed")
    folders = (path, *path.absolute().parents)
    there = next((folder for folder in folders if os.path.exists(folder)), None)
    with contextlib.suppress(OSError):  # a failed disk reports nothing
        if there is not None:
            free = shutil.disk_usage(there).free
            facts.append(f"{in_bytes(free, gigabytes=False)} free")
    known = f" ({', '.join(facts)})" if facts else ""
    return DiskError(f"{path}: {reason}{known}; make room or choose another --workdir")
