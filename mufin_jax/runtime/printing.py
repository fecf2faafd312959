"""Text for streams that cannot hold every character: terminals and log files in ASCII or Latin-1.

Without this, the first title with an accent, or a sign in a table, would end a command after all
its work is done.
"""

import codecs
import io
import sys

_HANDLER = "mufin_jax.alike"
_ALIKE = {
    "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{MINUS SIGN}": "-", "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MIDDLE DOT}": ".", "\N{MULTIPLICATION SIGN}": "x", "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{RIGHTWARDS ARROW}": "->", "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}  # fmt: skip
"""ASCII for signs of our own lines; other characters are printed as their escapes."""


def print_everything() -> None:
    """Let stdout and stderr take every character: what they cannot hold is written in ASCII.

    How a stream treats such characters by its user's own choice (PYTHONIOENCODING) stays.
    """
    codecs.register_error(_HANDLER, _alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=_HANDLER)


def _alike(error: UnicodeError) -> tuple[str, int]:
    """Return what is printed instead of the characters that a stream cannot hold."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    plain = (_ALIKE.get(char) or char.encode("ascii", "backslashreplace").decode() for char in part)
    return "".join(plain), error.end
