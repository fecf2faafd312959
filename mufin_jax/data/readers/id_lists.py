"""Ids in a text file, one a line, such as those of products that are sold out."""

from pathlib import Path

from mufin_jax.data.readers.files import decode, lines
from mufin_jax.data.readers.values import clean_id
from mufin_jax.runtime.errors import InputError


def load_ids(path: Path) -> list[str]:
    """Return the ids of a file, without blank lines.

    Raises:
        InputError: if the file cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a text file of ids, one a line")
    found = (clean_id(decode(line)) for _, line in lines(path))
    return [uid for uid in found if uid is not None]
