"""The one door for paths that a user gives: text or a path, with ~ for the home folder."""

import os
from pathlib import Path
from typing import Any

from mufin_jax.runtime.errors import InputError

Given = str | os.PathLike[str]
"""A path as a user may give it."""

_NAME, _PATH = 255, 4095
"""The most bytes of a file's name, and of a path, on usual file systems."""


def user_path(given: Given, what: str = "path") -> Path:
    """Return a path that a user gave; a leading ~ becomes the home folder.

    Args:
        given: text or a path.
        what: its name in messages.

    Raises:
        InputError: it is neither text nor a path, it is empty, or no file can have such a name.
    """
    found = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(found, str) or not found or "\0" in found:
        raise InputError(f"{what}={given!r:.80}: expected a path, as text or as a pathlib.Path")
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in found.split(os.sep)]
    if max(sizes) > _NAME or sum(sizes) + len(sizes) > _PATH:
        raise InputError(
            f"{what}={found[:40]}... ({len(found):,} characters): expected names of at most "
            f"{_NAME} bytes, and paths of at most {_PATH:,}"
        )
    return Path(os.path.expanduser(found))


def gone_link(path: Path) -> str:
    """Return "LINK is a link to X, which is gone ..." of a path that is, or lies in, one; or ""."""
    for here in (path, *path.parents):
        if here.is_symlink() and not here.exists():
            return f"{here} is a link to {here.readlink()}, which is gone (moved or deleted)"
    return ""


def user_name(given: Given, what: str) -> str:
    """Return a hub's name unchanged, and a path as `user_path` does."""
    found = str(user_path(given, what))
    return given if isinstance(given, str) and given[:1] != "~" else found


def settle_paths(config: Any, prefix: str = "", names: bool = False, *, fields: list[str]) -> None:
    """Replace fields of a frozen dataclass that a user gave as text by paths; None stays.

    Args:
        config: the dataclass, in its __post_init__.
        prefix: in front of a field's name, in messages.
        names: the fields may also hold names on the hub, and stay text.
        fields: their names.

    Raises:
        InputError: one of them is neither text nor a path, or is empty.
    """
    for field in fields:
        if (given := getattr(config, field)) is not None:
            meant = (user_name if names else user_path)(given, f"{prefix}{field}")
            object.__setattr__(config, field, meant)
