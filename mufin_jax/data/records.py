"""The prepared items as a TensorFlow Dataset in array records, without TensorFlow.

Record i of split train, test or label is item i: `uid`, `title`, and `images`, each the bytes of a
JPEG at training size. Any TFDS or grain pipeline can read them; `Dataset` does where the decoded
pixels would not fit on the disk. The bytes of these files differ from run to run (protocol buffers
order a map as they please), their content does not.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64, UInt8

from mufin_jax.data.beam import Beam
from mufin_jax.data.images import decode_jpeg
from mufin_jax.runtime.storage.disk import native_errors
from mufin_jax.runtime.storage.files import damaged

SPLITS = ("train", "test", "label")
_NAME, _VERSION = "records", "1.0.0"

Record = Mapping[str, Any]


@runtime_checkable
class Records(Protocol):
    """The records of a split, readable from any place on."""

    def num_bytes(self) -> int:
        """About how many bytes they take."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> Iterable[Record]:
        """Some of them, in order: `uid`, `title` (str) and `images` (list of bytes)."""
        ...


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Consecutive records of one file, as TFDS asks for them: called, and then iterated over."""

    records: Records
    start: int
    stop: int

    def __call__(self) -> Iterator[tuple[int, Record]]:
        return zip(
            range(self.start, self.stop), self.records.read(self.start, self.stop), strict=True
        )


def write_records(splits: Mapping[str, Records], folder: Path, beam: Beam | None = None) -> None:
    """Writes one split after the other, in the order of its records.

    TFDS's sharded builder writes each file in one go, so memory holds the records of one file: less
    than a gigabyte. (Its generator-based builder needs TensorFlow to write more than that.)

    Args:
      splits: by name. TFDS cannot hold a split without records.
      folder: where to write; nothing is written or fetched elsewhere.
      beam: writes the files in its workers, to which the records are pickled, and which must see
        `folder`; in this process if not given.

    Raises:
      OSError: if the disk is full, read-only or failing.
    """
    import tensorflow_datasets as tfds  # half a second; only preparation and a large set need it
    from tensorflow_datasets.core.utils import shard_utils

    def shards(records: Records) -> list[_Shard]:
        count = shard_utils.ShardConfig.calculate_number_shards(records.num_bytes(), len(records))
        stops = shard_utils.get_shard_boundaries(len(records), count)
        starts = [0, *stops[:-1]]
        return [_Shard(records, *ends) for ends in zip(starts, stops, strict=True)]

    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
        """A builder over given records; unregistered, since a process may prepare twice."""

        name = _NAME
        VERSION = tfds.core.Version(_VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Text
            return tfds.core.DatasetInfo(
                builder=self,
                description="Items of a prepared mufin_jax folder.",
                features=tfds.features.FeaturesDict(
                    # Text holds bytes as they are; the Image feature would decode on reading.
                    {"uid": text(), "title": text(), "images": tfds.features.Sequence(text())}
                ),
                disable_shuffling=True,  # record i must be item i
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[_Shard]]:
            del dl_manager
            return self._current

        def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
            # Under Beam, TFDS 4.9.10 runs the pipelines of earlier splits again with each
            # further one, and takes the lengths of ten shards and more in the order "0", "1",
            # "10", "2": hence one split at a time, and the lengths from us.
            done = []
            for name, records in splits.items():
                self._current = {name: shards(records)}
                super()._download_and_prepare(dl_manager, download_config)
                lengths = [shard.stop - shard.start for shard in self._current[name]]
                split: tfds.core.SplitInfo = self.info.splits[name]  # pyright: ignore
                done.append(split.replace(shard_lengths=lengths))
            self.info.set_splits(tfds.core.SplitDict(done))

    config = tfds.download.DownloadConfig()
    if beam is not None:
        config = config.replace(beam_runner=beam.runner, beam_options=beam.pipeline_options())
    with _quiet(tfds), native_errors():
        # Without TensorFlow the default format fails, at the very end.
        builder = Builder(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    for path in (folder / _NAME / _VERSION).glob("*.shard_infos.json"):
        path.unlink()  # the notes of Beam's workers


class RecordImages:
    """Distinct images, decoded from the records on demand; indexed like an array.

    Args:
      folder: what `write_records` filled.
      homes: image r lies in split `SPLITS[homes[r, 0]]`, record `homes[r, 1]`, there the
        `homes[r, 2]`-th.
      size: height and width of the images.
    """

    def __init__(self, folder: Path, homes: Int64[np.ndarray, "i 3"], size: int):
        """Opens nothing yet."""
        self.shape = (len(homes), size, size, 3)
        self.dtype = np.dtype(np.uint8)
        self._homes = homes
        self._folder = folder
        self._sources: dict[int, Sequence[Any]] = {}

    def __len__(self) -> int:
        """The number of distinct images."""
        return len(self._homes)

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """Decodes images; each record is read once, however many of its images are asked for.

        Raises:
          InputError: if they cannot be read.
        """
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        records: dict[tuple[int, int], list[bytes]] = {}
        for i, (split, row, position) in enumerate(self._homes[rows].tolist()):
            where = f"image {position} of record {row} of split {split}"
            with damaged(f"{self._folder}: {where} cannot be read ({{reason}}): prepare it anew"):
                if (split, row) not in records:
                    records[split, row] = list(self._source(split)[row]["images"])
                out[i] = decode_jpeg(records[split, row][position], out.shape[1:])
        return out

    def _source(self, split: int) -> Sequence[Any]:
        if split not in self._sources:
            self._sources[split] = open_split(self._folder, SPLITS[split])
        return self._sources[split]

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay behind when a copy goes to another process."""
        return self.__dict__ | {"_sources": {}}


def open_split(folder: Path, split: str) -> Sequence[Any]:
    """The records of a split, for random access; text comes back as bytes.

    Raises:
      InputError: if the folder has no such records.
    """
    import tensorflow_datasets as tfds

    with damaged(f"{folder} has no split {split} ({{reason}}): prepare it anew"):
        builder = tfds.builder_from_directory(folder / _NAME / _VERSION)
        return builder.as_data_source(split=split)  # pyright: ignore


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """TFDS prints and draws progress bars of its own; ours say the same once."""
    logger, level = logging.getLogger("absl"), logging.getLogger("absl").level
    tfds.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logger.setLevel(level)
        tfds.enable_progress_bar()
