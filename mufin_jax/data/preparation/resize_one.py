"""The work on each picture, and the threads that do it on one machine.

Images stream through a bounded window of threads, so memory does not grow with their number.
"""

import dataclasses
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from mufin_jax.data.cut_jpeg import read_nearly_whole
from mufin_jax.data.images import MAX_BYTES, BadImage, encode_jpeg
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.readers.catalogue import ImageSource
from mufin_jax.runtime.logs import progress

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Resized:
    """A sound image.

    Attributes:
        pixels: of training size; None if they are not needed.
        jpeg: the same, encoded; b"" if it is not needed, or in the spool.
        missing: the share of the rows that its file lacks.
        name: what the report calls an image of which a part is missing.
    """

    pixels: np.ndarray | None
    jpeg: bytes = b""
    missing: float = 0.0
    name: str = ""


# For each image what became of it, or its defect.
Results = Generator[Resized | BadImage, None, None]


@dataclasses.dataclass(frozen=True)
class Resizer:
    """The work on each image, independent of where it runs.

    Attributes:
        source: the source of the encoded images.
        read: maps an encoded image to (size, size, 3) pixels; raises BadImage.
        size: height and width of the result.
        pixels: whether pixels are needed.
        jpegs: whether JPEGs are needed.
        missing: the largest share of the rows of a JPEG that its file may lack.
        max_bytes: the largest encoded image that may lack some.
    """

    source: ImageSource
    read: Callable[[bytes | Path], np.ndarray]
    size: int
    pixels: bool
    jpegs: bool
    missing: float = 0.0
    max_bytes: int = MAX_BYTES

    def __call__(self, key: int) -> Resized | BadImage:
        """Return an image with its pixels, needed or not, or the defect."""
        try:
            encoded = self.source.read(key)
            pixels, missing = read_nearly_whole(encoded, self.read, self.max_bytes, self.missing)
            name = "" if missing is None else self.source.name(key)
            return Resized(pixels, encode_jpeg(pixels) if self.jpegs else b"", missing or 0.0, name)
        except BadImage as error:
            return BadImage(f"{self.source.name(key)}: {error}")


# Resizes the images of some keys, in order; the JPEGs of sound images go to the spool.
Worker = Callable[[Resizer, Int64[np.ndarray, " i"], JpegSpool], Results]


def resize_in_threads(resizer: Resizer, keys: Int64[np.ndarray, " i"], spool: JpegSpool) -> Results:
    """Resize on one machine; a `Worker`."""
    shown = progress(iterable=map(int, keys), desc="images", total=len(keys), unit=" images")
    with (
        warnings.catch_warnings(),  # from Pillow, about odd files; our report lists them
        spool.file(0).open("wb") as file,
    ):
        warnings.simplefilter("ignore")
        for result in _in_order(resizer, shown):
            if isinstance(result, BadImage):
                yield result
                continue
            spool.place(0, file.tell(), len(result.jpeg))
            file.write(result.jpeg)
            pixels = result.pixels if resizer.pixels else None
            yield dataclasses.replace(result, pixels=pixels, jpeg=b"")


def _in_order(function: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
    """Map in order, with some calls ahead in threads: Pillow decodes outside the GIL."""
    threads = min(16, os.cpu_count() or 1)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                pending.append(pool.submit(function, value))
                if len(pending) == 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
