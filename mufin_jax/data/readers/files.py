"""Reading untrusted folders: no path leads out, no line is unbounded, every error names its row."""

import gzip
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mufin_jax.data.images import BadImage
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.text import MARK, check_utf8

MAX_LINE = 64 * 2**20
MAX_BLANK = 1_000_000
_FREE, _TIMES = 2**20, 100  # an archive may unpack to _FREE bytes and _TIMES its size


class SourceFolder:
    """A user's folder; only regular files inside it are read."""

    def __init__(self, path: Path):
        """Reject anything that is not a folder."""
        if not path.is_dir():
            raise InputError(f"{path} is not a folder: name the folder that holds the catalogue")
        self.path = path.resolve()

    def find(self, *names: str) -> Path | None:
        """Return the first of these relative names that is a file, or None.

        Raises:
            InputError: if the file is a link that leads out of the folder.
        """
        path = next((self.path / name for name in names if (self.path / name).is_file()), None)
        if path is not None and not path.resolve().is_relative_to(self.path):
            raise InputError(
                f"{path} is a link that leads out of the data folder: put the file itself there"
            )
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
        try:
            relative = PurePosixPath(name)
            if "\\" in name:
                raise BadImage('a path with "\\": expected "/" between folders')
            if relative.is_absolute() or name.startswith("~"):
                raise BadImage("not a path relative to the data folder")
            if ".." in relative.parts or "\0" in name:
                raise BadImage("a path that leads out of the data folder")
            path = (self.path / relative).resolve(strict=True)
            if not path.is_relative_to(self.path):
                raise BadImage("a link that leads out of the data folder")
            if not stat.S_ISREG(path.stat().st_mode):
                raise BadImage("not a regular file")
        except FileNotFoundError:
            raise BadImage("no such file") from None
        except (OSError, RuntimeError, ValueError) as error:
            raise BadImage(f"not a usable path ({type(error).__name__})") from None
        return path


def lines(path: Path, trailing_blanks: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield 1-based row numbers and lines without their ends; unpack .gz files.

    Byte-order marks in front of lines are dropped. Blank lines at the end are left out, unless
    `trailing_blanks` is set.

    Raises:
        InputError: if a line is longer than 64 MB, if a million blank lines precede a line with
            text, if an archive unpacks to more than a hundred times its size, or if the file is
            UTF-16 or cannot be read.
    """
    blank = unpacked = 0
    try:
        most = _FREE + _TIMES * path.stat().st_size
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            row = 0
            while line := file.readline(MAX_LINE + 1):
                check_stop("prepare")
                row += 1
                if row == 1:
                    check_utf8(path, line[:4])
                if len(line) > MAX_LINE:
                    raise InputError(f"{path}:{row}: expected lines of at most {MAX_LINE:,} bytes")
                unpacked += len(line)
                if unpacked > most:
                    raise InputError(
                        f"{path}:{row}: unpacks to more than {most:,} bytes: unpack it yourself"
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
    except (OSError, EOFError, zlib.error) as error:  # gzip raises any of these for a damaged file
        raise InputError(f"{path} cannot be read: {error}") from None


def decode(line: bytes) -> str:
    """Decode UTF-8, otherwise latin-1: some released files are in latin-1."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
