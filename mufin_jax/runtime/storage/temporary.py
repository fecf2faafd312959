"""Folders that are deleted when nothing needs them any more."""

import functools
import shutil
import tempfile
import weakref
from pathlib import Path


class Temporary:
    """A folder that goes with the objects that need it, at the latest when the process ends.

    Args:
        what: it holds, a word in its name.

    Attributes:
        path: the folder.
    """

    def __init__(self, what: str):
        self.path = Path(tempfile.mkdtemp(prefix=f"mufin-{what}-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def needed_by(self, owner: object) -> None:
        """Keep the folder as long as an object lives."""
        weakref.finalize(owner, self._stay)  # which holds this object until then

    def _stay(self) -> None:
        """Do nothing."""


@functools.cache
def of_process(what: str) -> Path:
    """Return the one folder for a purpose that this process has until its end."""
    kept = Temporary(what)
    kept.needed_by(of_process)
    return kept.path
