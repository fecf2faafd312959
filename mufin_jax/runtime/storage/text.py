"""Text that people wrote: a byte-order mark is dropped, and text that is not UTF-8 is named."""

from pathlib import Path

from mufin_jax.runtime.errors import InputError

MARK = b"\xef\xbb\xbf"
"""The byte-order mark of UTF-8. Editors write it before the first line, and joined files have it
in front of other lines as well."""

_WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

_SHEET = "export the sheet as CSV"
_KINDS = {
    b"PK\x03\x04": (
        "a zip archive, or a workbook such as .xlsx",
        f"unpack it, or {_SHEET}",
    ),
    b"\xd0\xcf\x11\xe0": ("a workbook such as .xls", _SHEET),
    b"\x1f\x8b": ("a gzip file", "give its name the ending .gz"),
    b"PAR1\x15": ("a Parquet file", "give its name the ending .parquet"),
    b"\xfd7zX": ("an xz archive", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "unpack it"),
}
"""How files of other kinds begin that people give another ending, their name, and what to do."""


def check_utf8(path: Path, start: bytes) -> None:
    """Raise InputError if a file's first bytes are those of UTF-16, UTF-32 or no text at all."""
    for magic, (kind, advice) in _KINDS.items():
        if start.startswith(magic):
            raise InputError(f"{path} is {kind}: expected text; {advice}")
    found = next((name for mark, name in _WIDE.items() if start.startswith(mark)), None)
    if found is None and len(start) >= 4:  # without a mark: every other byte is zero
        zeros = [byte == 0 for byte in start[:4]]
        found = "UTF-16" if zeros in ([True, False] * 2, [False, True] * 2) else None
    if found:
        raise InputError(
            f"{path} is {found}: expected UTF-8; convert it by `iconv -f {found} -t UTF-8`"
        )


def load_text(path: Path) -> str:
    """Return the whole text of a UTF-8 file, without a byte-order mark.

    Raises:
        InputError: if the file is UTF-16 or UTF-32.
        UnicodeDecodeError: if it is no UTF-8.
    """
    content = path.read_bytes()
    check_utf8(path, content[:8])
    return content.removeprefix(MARK).decode("utf-8")
