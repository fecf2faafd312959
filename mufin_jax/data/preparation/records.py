"""The prepared items as a TensorFlow Dataset in array records, without TensorFlow.

Record i of split train, test or label is item i: `uid`, `title`, and `images`, each the bytes of a
JPEG at training size. Any TFDS or grain pipeline can read them; `Dataset` does where the decoded
pixels would not fit on the disk. The bytes of these files differ from run to run (protocol buffers
order a map as they please), their content does not.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mufin_jax.data.preparation.beam import Beam
from mufin_jax.data.record_images import _NAME, _VERSION, _quiet
from mufin_jax.runtime.storage.disk import native_errors

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
