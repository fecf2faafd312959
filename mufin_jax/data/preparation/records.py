"""The prepared items as a TensorFlow Dataset in array records, without TensorFlow.

Record i of split train, test or label is item i: `uid`, `title`, and `images`, each the bytes of a
JPEG at training size. Any TFDS or grain pipeline can read them. `Dataset` reads them if the decoded
pixels would not fit on the disk. The bytes of these files differ between runs, because protocol
buffers order a map arbitrarily; their content does not.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mufin_jax.data.preparation.beam import Beam
from mufin_jax.data.record_images import RECORDS_NAME, RECORDS_VERSION
from mufin_jax.runtime.storage.disk import native_errors

Record = Mapping[str, Any]


@runtime_checkable
class Records(Protocol):
    """The records of a split, readable from any position."""

    def num_bytes(self) -> int:
        """Return the approximate size in bytes."""
        ...

    def __len__(self) -> int:
        """Return the number of records."""
        ...

    def read(self, start: int, stop: int) -> Iterable[Record]:
        """Yield some records in order: `uid`, `title` (str) and `images` (list of bytes)."""
        ...


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Consecutive records of one file; TFDS calls the object and then iterates."""

    records: Records
    start: int
    stop: int

    def __call__(self) -> Iterator[tuple[int, Record]]:
        return zip(
            range(self.start, self.stop), self.records.read(self.start, self.stop), strict=True
        )


def _shards(records: Records) -> list[_Shard]:
    """Split records into files of the size that TFDS prefers."""
    from tensorflow_datasets.core.utils import shard_utils

    count = shard_utils.ShardConfig.calculate_number_shards(records.num_bytes(), len(records))
    stops = shard_utils.get_shard_boundaries(len(records), count)
    return [_Shard(records, *ends) for ends in zip([0, *stops[:-1]], stops, strict=True)]


def write_records(splits: Mapping[str, Records], folder: Path, beam: Beam | None = None) -> None:
    """Write one split after the other, in the order of its records.

    TFDS's sharded builder writes each file in one go, so memory contains the records of one file:
    less than a gigabyte. (TFDS's generator-based builder needs TensorFlow to write more.)

    Args:
        splits: the records by split. TFDS does not support a split without records.
        folder: the output folder; nothing is written elsewhere or downloaded.
        beam: its workers write the files: they get pickled records and must see `folder`.

    Raises:
        OSError: if the disk is full, read-only or failing.
    """
    import tensorflow_datasets as tfds  # takes half a second; few processes need it

    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
        """A builder over given records; unregistered, because a process may prepare twice."""

        name = RECORDS_NAME
        VERSION = tfds.core.Version(RECORDS_VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Text
            return tfds.core.DatasetInfo(
                builder=self,
                description="Items of a prepared mufin_jax folder.",
                features=tfds.features.FeaturesDict(
                    # Text keeps the bytes unchanged; the Image feature would decode them when read.
                    {"uid": text(), "title": text(), "images": tfds.features.Sequence(text())}
                ),
                disable_shuffling=True,  # record i must be item i
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[_Shard]]:
            del dl_manager
            return self._current

        def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
            # Under Beam, TFDS 4.9.10 runs the pipelines of earlier splits again with each further
            # split. It also sorts the lengths of ten or more shards as "0", "1", "10", "2". So we
            # write one split at a time and set the lengths.
            done = []
            for name, records in splits.items():
                self._current = {name: _shards(records)}
                super()._download_and_prepare(dl_manager, download_config)
                lengths = [shard.stop - shard.start for shard in self._current[name]]
                split: tfds.core.SplitInfo = self.info.splits[name]  # pyright: ignore
                done.append(split.replace(shard_lengths=lengths))
            self.info.set_splits(tfds.core.SplitDict(done))

    config = tfds.download.DownloadConfig()
    if beam is not None:
        config = config.replace(beam_runner=beam.runner, beam_options=beam.pipeline_options())
    with _quiet(tfds), native_errors():
        # Without TensorFlow, the default format fails at the very end.
        builder = Builder(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    for path in (folder / RECORDS_NAME / RECORDS_VERSION).glob("*.shard_infos.json"):
        path.unlink()  # the notes of Beam's workers


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Silence TFDS, which prints and draws progress bars of its own; ours report the same."""
    logger, level = logging.getLogger("absl"), logging.getLogger("absl").level
    tfds.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logger.setLevel(level)
        tfds.enable_progress_bar()
