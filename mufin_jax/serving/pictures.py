"""The pictures of a request: from texts and parts to pixels, by threads of their own.

Limits are checked before anything is decoded: the number of bytes by the length of the text, the
number of pixels by the header. `prediction/pictures.py` decodes, as it does for `predict`.
"""

import asyncio
import base64
import binascii
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mufin_jax.data.dataset import Dataset
from mufin_jax.prediction.pictures import ReadPicture, read_picture
from mufin_jax.runtime.errors import InputError

Fetch = Callable[[str], bytes]
"""Returns the bytes of the picture at an address, or raises InputError."""

_DATA = re.compile(r"data:[a-z0-9.+/-]*(;[a-z0-9=.-]+)*?;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LONGEST_HEAD = 200
"""Characters of a data URI before its content."""


def no_fetch(address: str) -> bytes:
    """Reject an address: this server fetches nothing.

    Raises:
        InputError: always.
    """
    raise InputError(
        "found an address, and this server fetches no pictures; expected a data URI, such as "
        "data:image/jpeg;base64,..., or a multipart request"
    )


def from_data_uri(text: str, most: int) -> bytes:
    """Return the bytes of a picture in a data URI.

    Args:
        text: the URI.
        most: bytes that the picture may have.

    Raises:
        InputError: if it has another form, or more bytes.
    """
    head = _DATA.match(text[:_LONGEST_HEAD])
    if head is None:
        raise InputError("found another form; expected data:image/jpeg;base64,...")
    if (len(text) - head.end()) * 3 // 4 - 2 > most:
        raise InputError(f"larger than {most:,} bytes")
    try:
        content = base64.b64decode(text[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the content of the data URI is not base64") from None
    if not content:
        raise InputError("a data URI without content")
    return content


class PictureReader:
    """Reads the pictures of requests in threads of its own.

    Args:
        dataset: the prepared folder, which knows how pictures become pixels, and their limits.
        threads: that decode; 0 takes one for each core but one.
        most: bytes of a picture.
        fetch: reads an address.
        observe: is told the seconds that a picture took, in the thread that read it.
        pixels: of a picture, at most; the limit of the dataset holds as well.
    """

    def __init__(
        self,
        dataset: Dataset,
        threads: int = 0,
        most: int = 10_000_000,
        fetch: Fetch = no_fetch,
        observe: Callable[[float], None] = lambda seconds: None,
        pixels: int = 16_000_000,
    ):
        self._pixels = pixels
        self._dataset, self._most, self._fetch, self._observe = dataset, most, fetch, observe
        threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    async def read(self, sources: Sequence[Sequence[str | bytes]]) -> list[list[ReadPicture]]:
        """Return the pictures of each item.

        Args:
            sources: of each item, its pictures: data URIs, addresses, or the bytes themselves.

        Raises:
            InputError: if one cannot be read; no other that still waits is decoded.
        """
        tasks: list[list[Future[ReadPicture]]] = [
            [
                self._pool.submit(self._one, source, f"item {row}, picture {place}")
                for place, source in enumerate(own)
            ]
            for row, own in enumerate(sources)
        ]
        flat = [task for own in tasks for task in own]
        try:
            await asyncio.gather(*map(asyncio.wrap_future, flat))
        except BaseException:  # also a client that has left
            for task in flat:
                task.cancel()
            raise
        return [[task.result() for task in own] for own in tasks]

    def close(self) -> None:
        """End the threads; what waits is left undone."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, source: str | bytes, name: str) -> ReadPicture:
        """Return a picture's pixels.

        Raises:
            InputError: if it cannot be read.
        """
        begin = time.monotonic()
        try:
            content = source if isinstance(source, bytes) else self._bytes(source)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        pixels = read_picture(content, self._dataset, name, self._pixels)
        self._observe(time.monotonic() - begin)
        return ReadPicture(pixels)

    def _bytes(self, source: str) -> bytes:
        if source[:5].lower() == "data:":
            return from_data_uri(source, self._most)
        if _ADDRESS.match(source):
            return self._fetch(source)
        raise InputError(
            f"found {source[:40]!r}; expected a data URI, such as data:image/jpeg;base64,..."
        )
