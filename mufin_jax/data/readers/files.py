"""Reading untrusted folders: no path leads out, no line is unbounded, every error names its row."""

import contextlib
import gzip
import os
import re
import stat
import unicodedata
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mufin_jax.data.image_parts import LINK_OUT
from mufin_jax.data.images import BadImage
from mufin_jax.data.readers.fields import Columns
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.text import MARK, check_utf8

MAX_LINE = 64 * 2**20
MAX_BLANK = 1_000_000
_HINTS = 20
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{200,}={0,2}")
_ENCODED = "a picture as base64 text: expected the path of a file"
_FREE, _TIMES = 2**20, 100  # an archive may unpack to _FREE bytes and _TIMES its size


class SourceFolder:
    """A user's folder; only regular files inside it, or inside the pictures' folder, are read.

    Attributes:
        path: the folder.
        file: the one file that is the catalogue, if the user named a file.
        columns: which fields of products are read.
        test_share: the share of products that become test points; None for the default.
        used: the names of the files that a reader has found.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns | None = None,
        pictures: Path | None = None,
        test_share: float | None = None,
    ):
        """Reject anything that is not a folder, or a file in one.

        Args:
            path: the folder or the file.
            columns: which fields of products are read.
            pictures: another folder for the pictures that the data folder lacks.
            test_share: the share of products that become test points, if the user names one.
        """
        self.test_share = test_share
        self.file = path if path.is_file() else None
        folder = path.parent if self.file else path
        if not folder.is_dir():
            raise InputError(f"{path} is not a folder: name the folder that holds the catalogue")
        if pictures is not None and not pictures.is_dir():
            raise InputError(f"{pictures} is not a folder: expected the folder of the pictures")
        self.path = folder.resolve()
        self.columns = columns or Columns()
        self.used: set[str] = set()
        self._folders = (self.path, *([pictures.resolve()] if pictures else []))
        self._hints = 0

    def find(self, *names: str) -> Path | None:
        """Return the first of these relative names that is a file, or None.

        Raises:
            InputError: if the file is a link that leads out of the folder.
        """
        path = next((self.path / name for name in names if (self.path / name).is_file()), None)
        if path is not None and not self._has(path.resolve()):
            raise InputError(
                f"{path} is a link that leads out of the data folder: put the file itself there"
            )
        if path is not None:
            self.used.add(self.name(path))
        return path

    def require(self, *names: str) -> Path:
        """Return the first of these relative names that is a file.

        Raises:
            InputError: if no file has one of these names.
        """
        found = self.find(*names)
        if found is None:
            raise InputError(f"{self.path} lacks {' or '.join(names)}")
        return found

    def name(self, path: Path) -> str:
        """Return a file's name relative to the folder, for messages."""
        return path.relative_to(self.path).as_posix()

    def image(self, name: str) -> Path:
        """Return the file at a path that the data give.

        Raises:
            BadImage: if the path is absolute, leads out of the folder (by "..", "~" or a link), or
                is not a regular file.
        """
        relative = PurePosixPath(name)
        try:
            if name.startswith("data:"):
                raise BadImage(_ENCODED)
            if "\\" in name:
                raise BadImage('a path with "\\": expected "/" between folders')
            if relative.is_absolute() or name.startswith("~"):
                if _BASE64.fullmatch(name):
                    raise BadImage(_ENCODED)
                raise BadImage("not a path relative to the data folder")
            if ".." in relative.parts or "\0" in name:
                raise BadImage("a path that leads out of the data folder")
            path = self._existing(relative).resolve(strict=True)
            if not self._has(path):
                raise BadImage(LINK_OUT)
            if not stat.S_ISREG(path.stat().st_mode):
                raise BadImage("not a regular file")
        except FileNotFoundError:
            encoded = _BASE64.fullmatch(name)
            text = _ENCODED if encoded else f"no such file{self._instead(relative)}"
            raise BadImage(text) from None
        except (OSError, RuntimeError, ValueError) as error:
            if _BASE64.fullmatch(name):  # too long for a path
                raise BadImage(_ENCODED) from None
            raise BadImage(f"not a usable path ({type(error).__name__})") from None
        return path

    def _instead(self, relative: PurePosixPath) -> str:
        """Return a hint at the file that a path may mean; only of the first few, as it takes time.

        A folder of pictures may hold millions.
        """
        if self._hints >= _HINTS:
            return ""
        self._hints += 1
        for folder in self._folders:
            if (folder / "images" / relative).is_file():
                return f" (there is images/{relative}: name the folder by --prepare.images=DIR)"
            with contextlib.suppress(OSError), os.scandir((folder / relative).parent) as entries:
                plain = relative.name.casefold()
                for entry in entries:
                    if entry.name.casefold() == plain:
                        return f" (there is {entry.name})"
        return ""

    def _has(self, path: Path) -> bool:
        """Return whether a resolved path is in one of the folders."""
        return any(path.is_relative_to(folder) for folder in self._folders)

    def _existing(self, relative: PurePosixPath) -> Path:
        """Return the file in the first folder that has it.

        Accents may be written in two ways (NFC and NFD): file systems and archives change one into
        the other.
        """
        paths = [folder / relative for folder in self._folders]
        if not str(relative).isascii():
            forms = [unicodedata.normalize(form, str(relative)) for form in ("NFC", "NFD")]
            paths += [folder / form for folder in self._folders for form in forms]
        return next((path for path in paths if path.exists()), paths[0])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacked if it is .gz; InputError if it cannot be read."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # pyright: ignore[reportReturnType]
    except (OSError, EOFError, zlib.error) as error:  # gzip raises any of these for a damaged file
        raise InputError(f"{path} cannot be read: {error}") from None


class _Limit:
    """Counts what a file unpacks to, and rejects more than a hundred times its size."""

    def __init__(self, path: Path):
        self._path, self._unpacked = path, 0
        self._most = _FREE + _TIMES * path.stat().st_size

    def add(self, size: int, row: int) -> None:
        self._unpacked += size
        if self._unpacked > self._most:
            raise InputError(
                f"{self._path}:{row}: unpacks to more than {self._most:,} bytes: unpack it yourself"
            )


def pieces(path: Path, size: int) -> Generator[bytes]:
    """Yield the bytes of a text file in pieces of at most `size`; unpack .gz files.

    Raises:
        InputError: as `lines`.
    """
    with _opened(path) as file:
        limit, first = _Limit(path), True
        while piece := file.read(size):
            check_stop("prepare")
            if first:
                check_utf8(path, piece[:8])
            first = False
            limit.add(len(piece), 1)
            yield piece


def lines(path: Path, trailing_blanks: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield 1-based row numbers and lines without their ends; unpack .gz files.

    Byte-order marks in front of lines are dropped. Blank lines at the end are left out, unless
    `trailing_blanks` is set.

    Raises:
        InputError: if a line is longer than 64 MB, if a million blank lines precede a line with
            text, if an archive unpacks to more than a hundred times its size, or if the file is
            UTF-16 or cannot be read.
    """
    blank = row = 0
    with _opened(path) as file:
        limit = _Limit(path)
        while line := file.readline(MAX_LINE + 1):
            check_stop("prepare")
            row += 1
            if row == 1:
                check_utf8(path, line[:8])
            if len(line) > MAX_LINE:
                raise InputError(f"{path}:{row}: expected lines of at most {MAX_LINE:,} bytes")
            limit.add(len(line), row)
            if row == 1 and b"\r" in line.rstrip(b"\r") and not line.endswith(b"\n"):
                raise InputError(
                    f"{path} has lines that end in CR alone: expected LF or CRLF; convert it by "
                    "`tr '\\r' '\\n'`"
                )
            line = line.removeprefix(MARK).rstrip(b"\r\n")
            if not trailing_blanks and not line.strip():
                blank += 1
                if blank > MAX_BLANK:
                    raise InputError(f"{path}:{row}: {MAX_BLANK:,} blank lines: remove them")
                continue
            for missed in range(row - blank, row):
                yield missed, b""
            blank = 0
            yield row, line


def decode(line: bytes) -> str:
    """Decode UTF-8, otherwise latin-1: some released files are in latin-1."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
