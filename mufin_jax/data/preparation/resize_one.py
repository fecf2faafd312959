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
from tqdm import tqdm

from mufin_jax.data.images import BadImage, encode_jpeg
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.readers.catalogue import ImageSource

T = TypeVar("T")
R = TypeVar("R")

# For each image its pixels (None if they are not needed), or its defect.
Results = Generator[np.ndarray | BadImage | None, None, None]


@dataclasses.dataclass(frozen=True)
class Resizer:
    """The work on each image, independent of where it runs.

    Attributes:
        source: the source of the encoded images.
        read: maps an encoded image to (size, size, 3) pixels; raises BadImage.
        size: height and width of the result.
        pixels: whether pixels are needed.
        jpegs: whether JPEGs are needed.
    """

    source: ImageSource
    read: Callable[[bytes | Path], np.ndarray]
    size: int
    pixels: bool
    jpegs: bool

    def __call__(self, key: int) -> tuple[np.ndarray, bytes] | BadImage:
        """Return the pixels of an image and its JPEG (b"" if not needed), or the defect."""
        try:
            pixels = self.read(self.source.read(key))
            return pixels, encode_jpeg(pixels) if self.jpegs else b""
        except BadImage as error:
            return BadImage(f"{self.source.name(key)}: {error}")


# Resizes the images of some keys, in order; the JPEGs of sound images go to the spool.
Worker = Callable[[Resizer, Int64[np.ndarray, " i"], JpegSpool], Results]


def resize_in_threads(resizer: Resizer, keys: Int64[np.ndarray, " i"], spool: JpegSpool) -> Results:
    """Resize on one machine; a `Worker`."""
    progress = tqdm(map(int, keys), "images", len(keys), unit=" images", disable=None)
    with (
        warnings.catch_warnings(),  # from Pillow, about odd files; our report lists them
        spool.file(0).open("wb") as file,
    ):
        warnings.simplefilter("ignore")
        for result in _in_order(resizer, progress):
            if isinstance(result, BadImage):
                yield result
                continue
            pixels, jpeg = result
            spool.place(0, file.tell(), len(jpeg))
            file.write(jpeg)
            yield pixels if resizer.pixels else None


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
