"""Pictures that are files of the data folder."""

from pathlib import Path

from mufin_jax.data.readers.files import SourceFolder

_SHOWN = 160
"""Longer names are cut in messages."""


class ImageFiles:
    """Image files by number; each distinct path has one number."""

    def __init__(self, source: SourceFolder):
        """Start without a path."""
        self._source = source
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def add(self, name: str) -> int:
        """Return the key of a path."""
        key = self._numbers.setdefault(name, len(self._names))
        if key == len(self._names):
            self._names.append(name)
        return key

    def name(self, key: int) -> str:
        """Return the path as the data give it; the beginning of a long one, and its length."""
        name = self._names[key]
        return name if len(name) <= _SHOWN else f"{name[:40]}... ({len(name):,} characters)"

    def read(self, key: int) -> Path:
        """Return the file; raise BadImage if it is not in the data folder."""
        return self._source.image(self._names[key])
