"""The values of a JSON file in any layout: one a line, indented, in an array, or in an object.

A file is read piece by piece, whatever its layout. Old Amazon metadata have a Python dict a line
instead of JSON; these are read, too.
"""

import ast
import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mufin_jax.data.readers.files import MAX_LINE, decode, lines, pieces
from mufin_jax.runtime.errors import InputError, reason

_ARRAYS = "products|items|data|records|results|rows|entries|articles|catalog|catalogue|metadata"
_WRAPPED = re.compile(r'\{[^\[{]*?"(?:' + _ARRAYS + r')"\s*:\s*\[(?=\s*[\]{])', re.IGNORECASE)
_LONGEST_DICT = 200_000
_START = 65_536


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield 1-based rows and values; for a bad or blank line, a ValueError or None.

    A row is a line, or the place in an array.

    Raises:
        InputError: if an array or object is not valid JSON: what follows cannot be read either.
    """
    with_start = pieces(path, _START)
    start = decode(next(with_start, b""))
    with_start.close()
    if _has_lines(start):
        yield from _lines(path)
    else:
        yield from _Values(path)


def _has_lines(start: str) -> bool:
    """Return whether a file that starts like this has a value a line."""
    text = start.lstrip()
    if text.startswith("["):
        return text[1:].lstrip()[:1] not in ("{", "]")
    if _WRAPPED.match(text):
        return False
    line, newline, more = text.partition("\n")
    line, following = line.strip(), more.lstrip()[:1]
    return not (
        newline and line.startswith("{") and line[-1:] != "}" and following not in ("{", "")
    )


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    for row, line in lines(path):
        if not line.strip():
            yield row, None
            continue
        try:
            yield row, _DECODER.decode(decode(line))
        except (ValueError, RecursionError) as error:
            yield row, _python_dict(line, error)


def _python_dict(line: bytes, error: Exception) -> Any:
    """Return the dict of a line that Python wrote, or else the error as a ValueError."""
    if re.match(rb"\s*\{\s*u?'", line) and len(line) <= _LONGEST_DICT:
        try:
            return ast.literal_eval(decode(line).strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return ValueError(reason(error)[:120])


class _Values:
    """The values of an array, or one after the other, decoded as the file is read."""

    def __init__(self, path: Path):
        self._path = path
        self._pieces = pieces(path, 2**20)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._ended = "", 0, False

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        row, depth = 0, 0
        while (mark := self._peek()) != "":
            wrapped = None
            if mark == "{" and not row and not depth:
                wrapped = _WRAPPED.match(self._text, self._place)
            if wrapped:
                self._place, depth = wrapped.end(), 2
            elif mark in "[]},":
                depth += {"[": 1, ",": 0}.get(mark, -1)
                self._place += 1
            elif mark == '"' and depth == 1 and row:  # a further field of the object around
                self._value(row)
                if self._peek() != ":":
                    raise self._error(row, "expected a colon after a name")
                self._place += 1
                self._peek()
                self._value(row)
            else:
                row += 1
                yield row, self._value(row)
            if depth < 0:
                raise self._error(row, f"{mark!r} closes nothing")
        if depth:
            raise self._error(row, "the file ends before its last bracket: is it complete?")

    def _peek(self) -> str:
        """Return the next character that is no blank; "" at the end."""
        while True:
            rest = _BLANKS.match(self._text, self._place)
            self._place = rest.end() if rest else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more(0):
                return ""

    def _value(self, row: int) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more(row):
                    raise self._error(row, f"not JSON ({reason(error)[:80]})") from None
                continue
            if end < len(self._text) or not self._more(row):
                self._place = end
                return value

    def _more(self, row: int) -> bool:
        """Read as much as is still undecoded, at least a megabyte."""
        self._text, self._place = self._text[self._place :], 0
        wanted = len(self._text)
        if wanted > MAX_LINE:
            raise self._error(row, f"expected values of at most {MAX_LINE:,} characters")
        parts, number = [self._text], 0
        while not self._ended and number <= wanted:
            piece = next(self._pieces, None)
            self._ended = piece is None
            try:
                parts.append(self._decoder.decode(piece or b"", final=self._ended))
            except UnicodeDecodeError:
                raise self._error(row, "expected UTF-8") from None
            number += len(parts[-1])
        self._text = "".join(parts)
        return len(self._text) > wanted

    def _error(self, row: int, text: str) -> InputError:
        return InputError(f"{self._path}: value {row}: {text}")


_BLANKS = re.compile(r"[\s\ufeff]*")


class _Odd:
    """A value that is not JSON, or too long: an error only in a field that is read."""

    def __init__(self, name: str):
        self.reason = f"{name} is not JSON"


class Repeated(dict[str, Any]):
    """An object in which keys occur twice.

    Attributes:
        repeated: these keys.
    """

    repeated: set[str]


def reject_odd(value: Any) -> None:
    """Raise ValueError if a value, or an entry of a list, is not JSON."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, _Odd):
            raise ValueError(one.reason)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(name for name, _ in pairs)
    twice = Repeated(found)
    twice.repeated = {name for name, count in counts.items() if count > 1}
    return twice


def _integer(digits: str) -> Any:
    if len(digits) <= 400:
        return int(digits)
    odd = _Odd("")
    odd.reason = f"a number of {len(digits):,} digits is beyond the limit of 400"
    return odd


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_Odd, parse_int=_integer)
