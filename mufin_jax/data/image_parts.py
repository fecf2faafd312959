"""The parts of an encoded picture: segments of a JPEG, chunks of a PNG, and the limits on them.

They are looked at before a decoder sees the picture. Texts and colour profiles of a PNG do not
change its pixels, and are left out unread.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from mufin_jax.runtime.errors import InputError

MAX_PARTS = 4096
"""Chunks of a PNG, or segments of a JPEG before its pixels: Pillow takes microseconds for each."""
MAX_SCANS = 100
"""Passes of a progressive JPEG over its pixels; encoders write about ten."""
MAX_EXIF = 64_000_000
"""Bytes to which the entries of EXIF unfold: each copies its own, and they may overlap."""

_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # of a JPEG, among its pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_EXIF_NOTE = b"Raw profile type exif\0"  # how ImageMagick writes EXIF: a text in hex
_LONGEST_NOTE = 2**20
LINK_OUT = "a link that leads out of the data folder: name its folder by --prepare.images"
"""Why a linked picture is not read."""


class BadImage(InputError):
    """A picture that is broken, too large, or in a format that is not read."""


def check_parts(data: bytes) -> None:
    """Reject what Pillow would walk through for minutes, or copy until memory is full."""
    exif, profiles, jpeg = b"", 0, data.startswith(b"\xff\xd8")
    count = 0
    for name, start, size in segments(data) if jpeg else chunks(data):
        count += name != b"IDAT"  # as many as the pixels take
        if count > MAX_PARTS:
            raise BadImage(f"more than {MAX_PARTS:,} parts before or beside its pixels")
        if name == b"iCCP":  # each unfolds to a megabyte
            profiles += 1
            if profiles > 1:
                raise BadImage("more than one colour profile")
        elif name == b"\xe2" and data.startswith(b"MPF\0", start):  # of pictures in one file
            check_exif(data[start + 4 : start + size])
        elif name == b"\xe1" and data.startswith(b"Exif\0\0", start):  # Pillow joins these
            exif += data[start + (6 if exif else 0) : start + size]
        elif name == b"\xda" and _scans(data, start + size) > MAX_SCANS:
            raise BadImage(f"more than {MAX_SCANS} passes over its pixels")
    if data[:4] in (b"II+\0", b"MM\0+"):
        raise BadImage("a TIFF for more than 4 GB")
    check_exif(data if data[:4] in (b"II*\0", b"MM\0*") else exif)  # a TIFF has the form of EXIF


def _scans(data: bytes, place: int) -> int:
    """Return how many scans a JPEG has; counting stops soon after the number that is allowed.

    The pixels of the first scan begin at `place`. What follows the end of the picture does not
    count.
    """
    scans = 1
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, place)
        if found is None or data[found.end() - 1] == 0xD9 or found.end() + 2 > len(data):
            return scans
        place, marker = found.end(), data[found.end() - 1]
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            return scans
        if marker not in (0x01, 0xD8):  # these have no content
            place += struct.unpack_from(">H", data, place)[0]
    return MAX_SCANS + 1


def segments(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield marker, start and size of a JPEG's segments and fill bytes, up to the first scan.

    Pillow and libjpeg skip what stands between segments, and so must this.
    """
    place = 2
    while place + 4 <= len(data):
        marker = data[place + 1 : place + 2]
        if data[place] != 0xFF or marker in b"\0\xff":
            yield b"", place, 1
            place += 1
            continue
        place += 2
        size = 0 if 0xD0 <= marker[0] <= 0xD9 else struct.unpack_from(">H", data, place)[0]
        yield marker, place + 2, size - 2
        if marker == b"\xda":
            return
        place += size


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and size of a PNG's chunks; nothing for other formats."""
    place = 8 if data.startswith(_PNG) else len(data)
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        yield name, place + 8, size
        place += 12 + size if name != b"IEND" else len(data)


def check_exif(exif: bytes) -> None:
    """Reject EXIF whose entries claim the same bytes over and over."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif.startswith(b"II") else ">"
    claimed = 0
    try:
        (start,) = struct.unpack_from(f"{order}4xI", exif)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 4, start + 4 + 12 * count, 12):
            # No type takes more than 8 bytes, and no entry gets more than there are.
            claimed += min(len(exif), 8 * struct.unpack_from(f"{order}2xI", exif, entry)[0])
    except struct.error:
        pass  # cut short, and so is Pillow's walk
    if claimed > MAX_EXIF:
        raise BadImage(f"EXIF that unfolds to {claimed:,} bytes")


def without_notes(data: bytes) -> bytes:
    """Return a PNG without texts and colour profiles, which can unfold to any size.

    A text that holds EXIF stays, if it is not too long for Pillow: it can turn the picture. Other
    formats are returned as they are.
    """
    pieces, place, exif = [], 0, False
    for name, start, size in chunks(data):
        if name in _NOTES:
            if not exif and _is_exif(data, name, start, size):
                exif = True  # the first one only: each takes time to unfold
                continue
            pieces.append(data[place : start - 8])
            place = start + size + 4
    return b"".join([*pieces, data[place:]]) if pieces else data


def _is_exif(data: bytes, name: bytes, start: int, size: int) -> bool:
    """Return whether a text of a PNG is EXIF that Pillow reads: at most a megabyte."""
    if not data.startswith(_EXIF_NOTE, start):
        return False
    if name != b"zTXt":
        return name == b"tEXt" and size < _LONGEST_NOTE
    packed = data[start + len(_EXIF_NOTE) + 1 : start + size]
    try:
        return len(zlib.decompressobj().decompress(packed, _LONGEST_NOTE)) < _LONGEST_NOTE
    except zlib.error:
        return False


def jpeg_shape(encoded: bytes) -> tuple[int, int, int]:
    """Return the shape that the header of a JPEG announces; no pixel is decoded yet."""
    for name, start, size in segments(encoded):
        # Start of frame: FFC0 to FFCF without tables (C4), an extension (C8) and conditions (CC).
        if name and 0xC0 <= name[0] <= 0xCF and name[0] not in (0xC4, 0xC8, 0xCC) and size >= 5:
            height, width = struct.unpack_from(">xHH", encoded, start)
            return height, width, 3
    raise ValueError("no frame")
