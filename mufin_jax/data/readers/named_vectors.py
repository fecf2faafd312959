"""Ready vectors by item id, in the one form that any embedding service can write.

NAME.npy        float32 or float16 (n, width), C order
NAME.ids.txt    n lines of UTF-8: the item id of each row

They come in any order, and may hold other items, too. Large sets can be split over several such
pairs in one folder. Files are mapped, and nothing is unpickled.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from mufin_jax.data.readers.files import lines
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged
from mufin_jax.runtime.storage.npy import forget

Kind = Literal["text", "image", "teacher"]
IDS = ".ids.txt"
"""How the file of a vector file's ids ends, instead of .npy."""


@dataclasses.dataclass(frozen=True)
class NamedVectors:
    """Vector files, with the rows that some wanted items have in them.

    Attributes:
        files: the arrays, mapped; all have one width.
        paths: their paths.
        items: for each row found the number of its item; rows of an item stand together, in the
            order of the files.
        rows: for each row found its file and its row there.
    """

    files: list[np.ndarray]
    paths: list[Path]
    items: Int64[np.ndarray, " k"]
    rows: Int64[np.ndarray, "k 2"]

    @classmethod
    def load(cls, path: Path, wanted: Mapping[str, int], kind: Kind) -> "NamedVectors":
        """Map the files and find the rows of the wanted items. Memory holds numbers of these alone.

        Args:
            path: a folder of pairs of files; or one pair's npy file, with or without its ending.
            wanted: the numbers of items by their ids.
            kind: a text vector stands alone; several image vectors of an id are several pictures,
                and several ones of a teacher, too.

        Raises:
            InputError: if a file is missing, damaged or of another form, if ids and rows differ in
                number, if an item has two text vectors, or if no id is wanted.
        """
        paths, files = _open(path)
        items: list[int] = []
        rows: list[tuple[int, int]] = []
        for number, (file, array) in enumerate(zip(paths, files, strict=True)):
            for row, item in _ids(file, len(array), wanted):
                items.append(item)
                rows.append((number, row))
        if not items:
            example = next(iter(wanted), "")
            raise InputError(
                f"{path}: none of its ids is an item of the data; expected ids such as {example!r}"
            )
        order = np.argsort(np.array(items), kind="stable")
        found = cls(files, paths, np.array(items, np.int64)[order], np.array(rows)[order])
        if kind == "text":
            found.reject_repeated(list(wanted))
        return found

    def reject_repeated(self, ids: list[str]) -> None:
        """Raise InputError if an item has more than one vector."""
        again = np.flatnonzero(self.items[1:] == self.items[:-1])
        if len(again):
            places = " and ".join(self._place(int(i)) for i in (again[0], again[0] + 1))
            raise InputError(
                f"{places} are of one item, {ids[self.items[again[0]]]!r}: expected one text "
                "vector an item"
            )

    def read(self, places: slice) -> Float32[np.ndarray, "r w"]:
        """Return some of the rows found.

        Raises:
            InputError: if a value is not finite.
        """
        some = self.rows[places]
        found = np.empty((len(some), self.files[0].shape[1]), np.float32)
        for number, array in enumerate(self.files):
            here = some[:, 0] == number
            if here.any():
                found[here] = array[some[here, 1]]
                forget(array)
        finite = np.isfinite(found).all(axis=1)
        if not finite.all():
            first = range(len(self.rows))[places][int(np.argmin(finite))]
            raise InputError(f"{self._place(first)} holds NaN or infinity: fix or remove it")
        return found

    def _place(self, place: int) -> str:
        number, row = self.rows[place]
        return f"{self.paths[number]}: row {row + 1}"


def check_named_vectors(path: Path) -> int:
    """Check vector files, but for their values and which items they are of; return their width.

    Args:
        path: as in `NamedVectors.load`.

    Raises:
        InputError: if a file is missing, damaged or of another form, or if ids and rows differ in
            number.
    """
    paths, files = _open(path)
    for file, array in zip(paths, files, strict=True):
        _ids(file, len(array), {})
    return files[0].shape[1]


def _open(path: Path) -> tuple[list[Path], list[np.ndarray]]:
    """Return the paths of vector files, and their arrays of one width."""
    paths = _pairs(path)
    files = [_load(path) for path in paths]
    widths = {path.name: array.shape[1] for path, array in zip(paths, files, strict=True)}
    if len(set(widths.values())) > 1:
        raise InputError(f"{path}: vectors of different widths: {widths}; expected one width")
    return paths, files


def _pairs(path: Path) -> list[Path]:
    """Return the npy files that a folder, a file or a name without ending stands for."""
    if path.is_dir():
        found = sorted(path.glob("*.npy"))
        if not found:
            raise InputError(f"{path} has no vectors: expected NAME.npy and NAME{IDS}")
        return found
    file = path if path.suffix == ".npy" else path.with_name(path.name + ".npy")
    if not file.is_file():
        raise InputError(f"{path}: found no vectors; expected a folder, or {file.name} and its ids")
    return [file]


def _load(path: Path) -> np.ndarray:
    with damaged(f"{path} is not an npy file of vectors ({{reason}})"):
        array = np.lib.format.open_memmap(path, mode="r")
    plain = array.dtype in (np.float32, np.float16) and array.flags.c_contiguous
    if array.ndim != 2 or not array.shape[1] or not plain:
        order = "" if array.flags.c_contiguous else ", Fortran order"
        raise InputError(
            f"{path} holds {array.dtype} {array.shape}{order}: expected float32 or float16, "
            "(rows, width), C order"
        )
    return array


def _ids(path: Path, count: int, wanted: Mapping[str, int]) -> "list[tuple[int, int]]":
    """Return the rows of wanted items, with these items' numbers."""
    file, found, row = path.with_name(path.stem + IDS), [], 0
    if not file.is_file():
        raise InputError(f"{path} has no ids: expected {file.name} next to it, one id a line")
    for row, line in lines(file):
        try:
            item = wanted.get(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"{file}:{row}: expected UTF-8") from None
        if item is not None:
            found.append((row - 1, item))
    if row != count:
        raise InputError(f"{file} has {row:,} ids, but {path.name} has {count:,} rows")
    return found
