"""A user's pictures: paths, encoded bytes, open files, PIL images or arrays of pixels."""

import functools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mufin_jax.data.cut_jpeg import read_nearly_whole
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import MAX_BYTES, MAX_PIXELS, BadImage, read_image
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import user_path


class ReadPicture(NamedTuple):
    """A picture that `read_picture` has read already."""

    pixels: UInt8[np.ndarray, "size size 3"]


_FORMS = "a path, bytes, an open file, a PIL image or an array of pixels"
_URL = re.compile(r"[a-z][a-z0-9+]+://|data:", re.IGNORECASE)


def pictures_in(value: Any, name: str) -> list[Any]:
    """Return the pictures of a field in a list, unread; one picture counts as one.

    Args:
        value: a picture, several in an iterable or stacked in an array, or None.
        name: of the item, for messages.

    Raises:
        InputError: if it is of another kind.
    """
    if value is None:
        return []
    if _is_one(value):
        return [value]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind in "OUS":  # of paths, say
            return [*array.ravel()]
        return [*array] if array.ndim == 4 else [array]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise InputError(
            f"{name}: images: found {type(value).__name__}; expected {_FORMS}, or a list of these"
        )
    return [*value]


def read_picture(
    source: Any, dataset: Dataset, name: str, most: int | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """Return a picture as the run prepared its own: by its processing, under its limits.

    Args:
        source: one of those that `pictures_in` returned.
        dataset: the prepared folder, which recorded both.
        name: of the item, for messages.
        most: pixels of a picture, if the caller has a limit, too: the lower one holds.

    Raises:
        InputError: if it is no picture, or one that the run would have left out.
    """
    if isinstance(source, ReadPicture):
        return source.pixels
    limits: Mapping[str, Any] = dataset.manifest.get("config", {})
    max_bytes = limits.get("max_bytes", MAX_BYTES)
    max_pixels = limits.get("max_pixels", MAX_PIXELS)
    max_pixels = max_pixels if most is None else min(most, max_pixels)
    path = f" ({os.fspath(source)!s:.200})" if isinstance(source, str | os.PathLike) else ""
    try:
        plain = plain_picture(source, max_bytes)
        read = functools.partial(
            read_image, processing=dataset.processing, max_bytes=max_bytes, max_pixels=max_pixels
        )
        return read_nearly_whole(plain, read, max_bytes, limits.get("missing_rows", 0.0))[0]
    except InputError as error:
        raise InputError(f"{name}: picture{path}: {error}") from None


def _is_one(value: Any) -> bool:
    """Return whether a value is one picture, whatever else it may be iterated over for."""
    paths = str | bytes | bytearray | memoryview | os.PathLike
    return isinstance(value, paths | Image.Image) or hasattr(value, "read")


def plain_picture(source: Any, max_bytes: int) -> Path | bytes | Image.Image:
    """Return a source in one of the forms that `read_image` reads.

    Raises:
        InputError: if it has another form.
    """
    if isinstance(source, str) and _URL.match(source):
        raise BadImage("an address, and pictures are not fetched; give a path, or the bytes")
    if isinstance(source, str | os.PathLike):
        return user_path(os.fsdecode(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, Image.Image):
        return source
    if hasattr(source, "read"):
        return _content(source, max_bytes)
    if hasattr(source, "__array__"):
        return _image_of(np.asarray(source))
    raise InputError(f"found {type(source).__name__}; expected {_FORMS}")


def _content(file: Any, max_bytes: int) -> bytes:
    """Return the content of an open file from its start on, and at most one byte too many."""
    try:
        if file.seekable():
            file.seek(0)
        content = file.read(max_bytes + 1)
    except (OSError, ValueError, AttributeError) as error:  # ValueError: it is closed
        raise BadImage(f"the file cannot be read ({error})") from None
    if not isinstance(content, bytes | bytearray):
        raise InputError('a file of text; open it with the mode "rb"')
    return bytes(content)


def _image_of(pixels: np.ndarray) -> Image.Image:
    """Return the image of an array of pixels.

    Raises:
        InputError: if it has other numbers or another shape than pictures have.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    sound = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not sound or not pixels.size:
        raise InputError(
            f"an array of {pixels.dtype} {pixels.shape}; expected uint8, 0 to 255, of the shape "
            "(height, width), or (height, width, 3 or 4)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
