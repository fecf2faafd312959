"""Versions of a catalogue on the disk: each is whole or absent, and one of them is current.

<folder>/versions/<n>/   a sealed folder: what changed, and version.json: its parent and its base
<folder>/current         the number of the current version; replaced in one step
<folder>/lock            one writer at a time; the system frees the lock at any death

Readers keep the version that they have read. A writer killed at any moment leaves the version
before or the one after. Without any change there is no folder.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import filelock

from mufin_jax.runtime.errors import Held, InputError
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors

T = TypeVar("T")

KEPT = 3
"""Versions before the current one that a writer keeps."""


class Versions:
    """The versions of the catalogue in a folder.

    Args:
        folder: made by the first change.
        base: identifies the labels of training, and the model that knows them.
        points: identifies the training points, which versions number; None does not compare them.
    """

    def __init__(self, folder: Path, base: str, points: str | None = None):
        self.folder, self.base, self.points = folder, base, points

    @property
    def writable(self) -> bool:
        """Whether versions can be written here."""
        place = self.folder if self.folder.exists() else self.folder.parent
        return os.access(place, os.W_OK)

    def current(self) -> int:
        """Return the number of the current version; 0 means the labels of training alone.

        Raises:
            InputError: if the file cannot be read.
        """
        path = self.folder / "current"
        if not path.exists():
            return 0
        with self._advice():
            number = files.load_sealed(path)["version"]
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"version {number!r}")
            return number

    def load(self, number: int, read: Callable[[Path], T]) -> T:
        """Return what `read` makes of the folder of a version, which is verified first.

        Raises:
            InputError: if it is missing, damaged, or of other labels of training.
        """
        folder = self._path(number)
        with self._advice():
            files.check_seal(folder)
            facts = files.load_sealed(folder / "version.json")
            # Older versions do not tell their points: their numbers are checked when they are read.
            same_points = self.points is None or facts.get("points") in (None, self.points)
            if facts["base"] == self.base and same_points:
                return read(folder)
            what = "the labels" if facts["base"] != self.base else "labels by the training points"
        raise InputError(
            f"{folder}: this catalogue changes {what} of another model; delete {self.folder}, "
            "and add and remove its labels again"
        )

    def load_current(self, read: Callable[[Path], T], nothing: T) -> tuple[int, T]:
        """Return the number of the current version and what `read` makes of it.

        Args:
            read: makes something of the folder of a version.
            nothing: stands for version 0.
        """
        while True:
            number = self.current()
            if not number:
                return 0, nothing
            try:
                return number, self.load(number, read)
            except InputError:
                if self.current() == number:  # else a writer dropped the version meanwhile
                    raise

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the one writer for the time of the block.

        Raises:
            Held: if another process writes a version.
            DiskError: if the folder cannot be written.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=1)
            except filelock.Timeout as error:
                raise Held(
                    f"{self.folder}: another process changes this catalogue; try again when it is "
                    "done"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def save(self, write: Callable[[Path], object], parent: int) -> int:
        """Write the next version, make it current and return its number; only while held.

        Args:
            write: writes the content to a folder.
            parent: the version that it was made of.
        """
        versions = self.folder / "versions"
        with disk_errors(self.folder):
            versions.mkdir(exist_ok=True)
            number = max([parent, *self._numbers()]) + 1
            new = versions / "new"
            files.discard(new)
            new.mkdir()
            write(new)
            facts = {"parent": parent, "base": self.base, "points": self.points}
            files.save_sealed(new / "version.json", facts)
            files.seal(new)
            for path in [*new.rglob("*"), new]:
                files.sync(path)
            os.replace(new, self._path(number))
            files.sync(versions)
            self._move(number)
            self._drop()
        return number

    def roll_back(self) -> int:
        """Make the parent of the current version current and return its number; only while held.

        Raises:
            InputError: if there is none, or it was dropped.
        """
        number = self.current()
        parent = self._parent(number) if number else 0
        if not number or (parent and not self._path(parent).is_dir()):
            raise InputError(
                f"{self.folder}: no version before {number}; the {KEPT} before the newest are kept"
            )
        with disk_errors(self.folder):
            self._move(parent)
        return parent

    def _move(self, number: int) -> None:
        files.save_sealed(self.folder / "current", {"version": number})

    def _drop(self) -> None:
        """Delete all versions but the current one and those that it was made of, the last few."""
        number, kept = self.current(), set[int]()
        while number and len(kept) <= KEPT and self._path(number).is_dir():
            kept.add(number)
            number = self._parent(number)
        for other in set(self._numbers()) - kept:
            shutil.rmtree(self._path(other), ignore_errors=True)

    def _parent(self, number: int) -> int:
        with self._advice():
            return int(files.load_sealed(self._path(number) / "version.json")["parent"])

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self.folder.glob("versions/*") if path.name.isdecimal()]

    def _path(self, number: int) -> Path:
        return self.folder / "versions" / str(number)

    @contextlib.contextmanager
    def _advice(self) -> Iterator[None]:
        """Say what to do about a damaged version."""
        try:
            with files.damaged(f"{self.folder}: the catalogue cannot be read ({{reason}})"):
                yield
        except InputError as error:
            found = str(error).removesuffix(f"; {files.MAKE_ANEW}")
            raise InputError(
                f"{found}; delete {self.folder}, and add and remove its labels again"
            ) from error
