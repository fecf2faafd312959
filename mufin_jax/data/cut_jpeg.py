"""JPEGs that lack their end, as downloads that broke off do: how much is missing, and the rest.

A decoder fills what is missing as soon as an end follows, and tells nobody where that begins. The
file is therefore decoded twice: once with an end, and once with noise before the end. Above the cut
both give the same pixels.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_END = b"\xff\xd9"
_NOISE = bytes((73 * i + 41) % 251 for i in range(4096))  # no byte is 255, which starts a marker
_SIDE = 128


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
