"""Resizing under Apache Beam: many machines decode, resize and encode the pictures.

The workers and this process share a file system. Beam's own collections contain only numbers.
Workers read the encoded pictures from the catalogue's files and write their results to the spool,
a file for each shard of consecutive images. This process then continues as if it had made them. No
process keeps all pictures in memory. A shard that Beam runs twice gives the same bytes twice.

Beam pickles our code and its arguments (paths, settings) for its workers. Nothing from a user's
files is ever unpickled.
"""

import contextlib
import dataclasses
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from mufin_jax.data.images import BadImage
from mufin_jax.data.preparation.beam import Beam
from mufin_jax.data.preparation.resize_one import Resized, Resizer, Results
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.image_files import ImageFiles
from mufin_jax.data.strings import Strings
from mufin_jax.runtime.distributed.padding import divide_up
from mufin_jax.runtime.storage.files import save_array

SHARD = 1024


@dataclasses.dataclass(frozen=True)
class BeamWorker:
    """A `resize_one.Worker` on many machines; the whole job runs before the first result.

    Attributes:
        beam: the runner.
        folder: the catalogue's folder.
    """

    beam: Beam
    folder: SourceFolder

    def __call__(
        self, resizer: Resizer, keys: Int64[np.ndarray, " i"], spool: JpegSpool
    ) -> Results:
        """Run the job, then read its results."""
        if isinstance(resizer.source, ImageFiles):
            # Millions of paths would not fit into Beam's job: write them to a file.
            names = Strings.pack(resizer.source.name(int(key)) for key in keys)
            save_array(spool.folder / "names.npy", names.blob)
            save_array(spool.folder / "name_offsets.npy", names.offsets)
            source = _NamedFiles(self.folder, spool.folder)
            resizer, keys = dataclasses.replace(resizer, source=source), np.arange(len(keys))
        save_array(spool.folder / "keys.npy", keys)
        work = _Shards(resizer, spool, SHARD)
        shards = range(divide_up(len(keys), SHARD))
        if shards:
            self._run(work, shards)
        for number in shards:
            yield from _collect(number, resizer, spool)

    def _run(self, work: "_Shards", shards: range) -> None:
        import apache_beam  # pyright: ignore[reportMissingImports]

        options = self.beam.pipeline_options()
        with apache_beam.Pipeline(runner=self.beam.runner, options=options) as pipeline:
            numbers = pipeline | apache_beam.Create(shards) | apache_beam.Reshuffle()
            _ = numbers | "ResizeImages" >> apache_beam.Map(work)


@dataclasses.dataclass(frozen=True)
class _Shards:
    """The work of a Beam worker for the number of a shard."""

    resizer: Resizer
    spool: JpegSpool
    size: int

    def __call__(self, number: int) -> None:
        folder, sizes, broken, cut = self.spool.folder, [], {}, {}
        keys = np.load(folder / "keys.npy", mmap_mode="r", allow_pickle=False)
        mine = keys[number * self.size : (number + 1) * self.size]
        with (
            warnings.catch_warnings(),  # as in resize_in_threads
            _draft(self.spool.file(number)) as jpegs,
            _draft(_pixels(folder, number)) as pixels,
        ):
            warnings.simplefilter("ignore")
            for i, key in enumerate(mine.tolist()):
                result = self.resizer(key)
                if isinstance(result, BadImage):
                    broken[i] = str(result)
                    sizes.append(0)
                    continue
                jpegs.write(result.jpeg)
                sizes.append(len(result.jpeg))
                if result.name:
                    cut[i] = result.missing, result.name
                if self.resizer.pixels and result.pixels is not None:
                    pixels.write(result.pixels.tobytes())
        with _draft(_facts(folder, number)) as file:
            file.write(json.dumps({"sizes": sizes, "broken": broken, "cut": cut}).encode())


def _collect(number: int, resizer: Resizer, spool: JpegSpool) -> Results:
    """Yield a worker's results for a shard, and remove its pixels."""
    facts = json.loads(_facts(spool.folder, number).read_bytes())
    shape, start = (resizer.size, resizer.size, 3), 0
    with _pixels(spool.folder, number).open("rb") as pixels:
        for i, size in enumerate(facts["sizes"]):
            if str(i) in facts["broken"]:
                yield BadImage(facts["broken"][str(i)])
                continue
            spool.place(number, start, size)
            start += size
            found = None
            if resizer.pixels:
                data = pixels.read(shape[0] * shape[1] * shape[2])
                found = np.frombuffer(data, np.uint8).reshape(shape)
            missing, name = facts["cut"].get(str(i), (0.0, ""))
            yield Resized(found, b"", missing, name)
    _pixels(spool.folder, number).unlink()


class _NamedFiles:
    """ImageFiles whose paths are in a file; key p is path number p."""

    def __init__(self, folder: SourceFolder, names: Path):
        """Open nothing yet."""
        self._folder, self._names = folder, names

    def name(self, key: int) -> str:
        """Return the path as the data give it."""
        blob = np.load(self._names / "names.npy", mmap_mode="r", allow_pickle=False)
        offsets = np.load(self._names / "name_offsets.npy", mmap_mode="r", allow_pickle=False)
        return Strings(blob, offsets)[key]

    def read(self, key: int) -> Path:
        """Return the file; raise BadImage if it is not in the data folder."""
        return self._folder.image(self.name(key))


def _facts(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _pixels(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.pixels"


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Any]:
    """Write a file that gets its name when complete: Beam may run a shard twice, even at once."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with draft.open("wb") as file:
        yield file
    os.replace(draft, path)
