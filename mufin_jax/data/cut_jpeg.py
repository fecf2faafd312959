"""JPEGs that lack their end, as downloads that broke off do: how much is missing, and the rest.

A decoder fills what is missing as soon as an end follows, and tells nobody where that begins. The
file is therefore decoded twice: once with an end, and once with noise before the end. Above the cut
both give the same pixels.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mufin_jax.data.images import BadImage

S = TypeVar("S")

_END = b"\xff\xd9"
_NOISE = bytes((73 * i + 41) % 251 for i in range(4096))  # no byte is 255, which starts a marker
_SIDE = 128
_TRUNCATED = "truncated"  # a word in Pillow's error about a picture that lacks its end


def read_nearly_whole(
    source: S, read: Callable[[S | bytes], np.ndarray], max_bytes: int, most: float
) -> tuple[np.ndarray, float | None]:
    """Return what `read` makes of a picture, and the share of its rows that was missing.

    Args:
        source: a file, its bytes, or anything else that `read` reads.
        read: raises BadImage.
        max_bytes: of the encoded file.
        most: the largest share of the rows of a JPEG that may be missing; 0 for a whole file.

    Returns:
        The share is None for a whole file; it may be 0 for one that lacks only its end.

    Raises:
        BadImage: if the picture cannot be read, or more is missing.
    """
    try:
        return read(source), None
    except BadImage as error:
        found = None
        if most and _TRUNCATED in str(error) and isinstance(source, bytes | Path):
            found = complete(source, max_bytes, most)
        if found is None:
            raise
        return read(found[0]), found[1]


def complete(encoded: bytes | Path, max_bytes: int, most: float) -> tuple[bytes, float] | None:
    """Return a JPEG with an end, and the share of its rows that the decoder fills.

    Args:
        encoded: the file or its bytes, which cannot be decoded without more.
        max_bytes: of the encoded file.
        most: the largest share of rows that may be missing.

    Returns:
        None if more is missing, or if it is no JPEG that lacks its end.
    """
    if isinstance(encoded, Path):
        with encoded.open("rb") as file:
            encoded = file.read(max_bytes + 1)
    if not encoded.startswith(b"\xff\xd8") or len(encoded) > max_bytes:
        return None
    data = encoded.rstrip(b"\xff")
    try:
        ended, noisy = _decoded(data + _END), _decoded(data + _NOISE + _END)
    except Exception:  # decoders raise a dozen types on broken bytes
        return None
    differs = (ended != noisy).any(axis=1)
    missing = 1 - int(differs.argmax()) / len(differs) if differs.any() else 0.0
    return (data + _END, missing) if missing <= most else None


def _decoded(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """Return a picture in grey, small but not below `_SIDE`; its rows are those of the file."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("L", (_SIDE, _SIDE))
        return np.asarray(image.convert("L"))
