"""A prepared folder, opened: ids, titles, token ids, images, relevance, mapped from the disk."""

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from mufin_jax.data.manifest import AGAIN, load_manifest, unread_by_answers
from mufin_jax.data.questions import Questions
from mufin_jax.data.record_images import AbsentImages, ArrayImages, Images, RecordImages
from mufin_jax.data.side import Side, training_pairs
from mufin_jax.data.sparse import load_csr
from mufin_jax.data.strings import check_offsets, check_rows
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.data.validation import HELD_OUT, POINTS, Validation
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged, load_json
from mufin_jax.runtime.storage.npy import mapped_as
from mufin_jax.runtime.storage.paths import Given, user_path

__all__ = ["Dataset", "Side", "training_pairs"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder; open it with `Dataset.load`.

    Attributes:
      path: the folder.
      manifest: what `prepare` recorded.
      train, test, labels: the three sides.
      texts: token ids of the distinct texts, padded with 0, mapped from the disk; none if there
        are vectors.
      text_lengths: their numbers of real tokens.
      text_vectors: ready vectors of the distinct titles, mapped from the disk, or None.
      images: the distinct images; empty if there are vectors.
      image_vectors: ready vectors, mapped from the disk, or None.
      ceiling: the best reachable score in percent, by metric, if it is known.
      questions: what the test points ask, where each has answers to choose from.
      validation: the training points that are held out, if there are any.
    """

    path: Path
    manifest: dict[str, Any]
    train: Side
    test: Side
    labels: Side
    texts: Int32[np.ndarray, "t s"]
    text_lengths: Int32[np.ndarray, " t"]
    images: Images
    image_vectors: Float32[np.ndarray, "i width"] | None = None
    text_vectors: Float32[np.ndarray, "_ text_width"] | None = None
    ceiling: dict[str, float] | None = None
    questions: Questions | None = None
    validation: Validation | None = None

    @classmethod
    def load(
        cls, path: Given, verify: bool = False, hold_out: bool = True, to_answer: bool = False
    ) -> "Dataset":
        """Load a folder that `prepare` wrote; no image and no text is read yet.

        Args:
          path: the folder.
          verify: whether to compare the checksums of all files, which reads every byte.
          hold_out: whether to hold out the validation part; without, all points train.
          to_answer: only for queries, which read no pictures of the data: these may be absent.

        Raises:
          InputError: if the folder is missing, incomplete, of another version, or changed.
        """
        path = user_path(path)
        manifest = load_manifest(path, verify, unread_by_answers if to_answer else lambda _: False)
        with damaged(f"{path} cannot be read ({{reason}}): prepare the data {AGAIN}"):
            dataset = cls(path, manifest, **_load(path, manifest, hold_out))
            _check(dataset)
            return dataset

    @classmethod
    def from_items(
        cls,
        train: object,
        labels: object = None,
        test: object = None,
        *,
        folder: Given | None = None,
        preset: object = "catalogue",
        **settings: Any,
    ) -> "Dataset":
        """Prepare items that are in memory; docs/python.md has examples.

        Args:
          train: dicts as `Predictor.predict` takes them, or a table; "related" has ids of labels.
          labels: the same; by default, all items that a training item is related to.
          test: the same; or a share of `train` that becomes test points, such as 0.2.
          folder: a new folder that keeps the data; by default, they go with the dataset.
          preset: name of a preset, or an Experiment, which decides how items are prepared.
          **settings: changes of the preset, as in `fit`.

        Raises:
          InputError: naming the item that is wrong.
        """
        # Found by its name, as faces find names: preparing is a run, of a layer above this one.
        home = importlib.import_module("mufin_jax.pipeline.from_items")
        return home.prepare_items(train, labels, test, folder, preset, settings)

    def __repr__(self) -> str:
        sizes = (f"{len(side):,} {side.name}" for side in (self.train, self.test, self.labels))
        return f"Dataset({str(self.path)!r}: {', '.join(sizes)})"

    @property
    def num_labels(self) -> int:
        """L, the number of labels."""
        return len(self.labels)

    @property
    def num_texts(self) -> int:
        """The number of distinct titles."""
        return len(self.texts if self.text_vectors is None else self.text_vectors)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made `texts`.

        Raises:
          InputError: if the titles are ready vectors.
        """
        if self.text_vectors is not None:
            raise InputError(f"{self.path}: its texts are ready vectors, which no tokenizer made")
        prompt = self.manifest.get("prompt", "")  # absent from older folders
        return Tokenizer.load(self.path / "tokenizer.json", prompt)

    @functools.cached_property
    def processing(self) -> ImageProcessing:
        """How `images` were brought to their size, and how to normalise them."""
        fields = self.manifest["processing"]
        tuples = {name: tuple(fields[name]) for name in ("mean", "std")}  # JSON has lists only
        return ImageProcessing(**(fields | tuples))


def _load(path: Path, manifest: dict[str, Any], hold_out: bool) -> dict[str, Any]:
    files = manifest["files"]
    vectors = None
    if "image_vectors.npy" in files:
        vectors = mapped_as(path / "image_vectors.npy", "f", None, None)
    size = manifest["processing"]["size"]
    if "images.npy" in files and not (path / "images.npy").exists():
        images = AbsentImages(path / "images.npy", manifest["counts"]["images"])
    elif "images.npy" in files:
        images = ArrayImages(mapped_as(path / "images.npy", "u", None, size, size, 3))
    elif vectors is None:
        images = RecordImages(
            path / "records", mapped_as(path / "image_homes.npy", "i", None, 3), size
        )
    else:
        images = ArrayImages(np.zeros((0, size, size, 3), np.uint8))
    if "text_vectors.npy" in files:
        text_vectors = mapped_as(path / "text_vectors.npy", "f", None, None)
        texts, lengths = np.zeros((0, 1), np.int32), np.zeros(0, np.int32)
    else:
        text_vectors, texts = None, mapped_as(path / "texts.npy", "i", None, None)
        lengths = mapped_as(path / "text_lengths.npy", "i", None)
    train, validation = Side.load(path, "train"), None
    if hold_out and POINTS in files:
        train = dataclasses.replace(train, held_out=load_csr(path / HELD_OUT, len(train)))
        validation = Validation.load(path, train.pairs)
    return {
        "train": train,
        "test": Side.load(path, "test"),
        "labels": Side.load(path, "label"),
        "texts": texts,
        "text_lengths": lengths,
        "text_vectors": text_vectors,
        "images": images,
        "image_vectors": vectors,
        "ceiling": load_json(path / "ceiling.json") if "ceiling.json" in files else None,
        "questions": Questions.load(path / "questions.npz") if "questions.npz" in files else None,
        "validation": validation,
    }


def _check(dataset: Dataset) -> None:
    """Raise ValueError where one file points beyond the end of another.

    Compiled code reads some of these files, and it does not check before it reads.
    """
    _ = dataset.processing
    counts = {"text": dataset.num_texts, "image": len(dataset.images)}
    if dataset.image_vectors is not None:
        counts["image"] = len(dataset.image_vectors)
    if len(dataset.text_lengths) != len(dataset.texts):
        raise ValueError(f"{len(dataset.texts):,} texts have {len(dataset.text_lengths):,} lengths")
    for side in (dataset.train, dataset.test, dataset.labels):
        lengths = {len(side.ids), len(side.titles), len(side.text), len(side.image_offsets) - 1}
        if side.categories is not None:
            lengths.add(len(side.categories[0]))
        if len(lengths) > 1:
            raise ValueError(f"the arrays of {side.name} are of {sorted(lengths)} items")
        check_offsets(side.image_offsets, len(side.image_rows))
        check_rows(f"texts of {side.name}", side.text, -1, counts["text"], most_axes=2)
        check_rows(f"images of {side.name}", side.image_rows, 0, counts["image"])
        if side.categories is not None:
            check_rows("categories", side.categories[0], 0, len(side.categories[1]))
        for matrix in (side.relevance, side.filter, side.held_out):
            if matrix is not None and matrix.shape != (len(side), len(dataset.labels)):
                raise ValueError(f"a matrix of {side.name} has the shape {matrix.shape}")
    if dataset.questions is not None:
        dataset.questions.check(len(dataset.test), len(dataset.labels))
