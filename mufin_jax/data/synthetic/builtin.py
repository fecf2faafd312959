"""What all built-in data sets have in common: a configuration writes its own data."""

from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable


@runtime_checkable
class BuiltIn(Protocol):
    """The configuration of a built-in data set.

    Attributes:
        PREPARED: whether `write` makes a prepared folder; otherwise raw data, as users bring them.
    """

    PREPARED: ClassVar[bool]

    def write(self, out: Path) -> None:
        """Write the data set to the folder `out`.

        Raises:
            InputError: if `out` holds other files.
            DiskError: if the folder cannot be written.
        """
        ...
