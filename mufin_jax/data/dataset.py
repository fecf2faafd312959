"""A prepared folder, opened: ids, titles, token ids, images, relevance, mapped from the disk."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float32, Int, Int32, Int64
from scipy import sparse

from mufin_jax.data.manifest import AGAIN, load_manifest, unread_by_answers
from mufin_jax.data.questions import Questions
from mufin_jax.data.record_images import AbsentImages, ArrayImages, Images, RecordImages
from mufin_jax.data.sparse import load_csr, without
from mufin_jax.data.strings import Strings, check_offsets
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.data.validation import HELD_OUT, POINTS, Validation
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged, load_json
from mufin_jax.runtime.storage.npy import load_arrays
from mufin_jax.runtime.storage.paths import Given, user_path


@dataclasses.dataclass(frozen=True)
class Side:
    """The items of one side: training points, test points or labels.

    Attributes:
      name: "train", "test" or "label".
      ids: the items' ids.
      titles: the items' titles, "" where there is none.
      text: row of each item's text in `Dataset.texts`, or -1; a column a text where items have
        several.
      image_offsets, image_rows: item i has the images
        `image_rows[image_offsets[i]:image_offsets[i + 1]]`.
      relevance: points x labels, 1 where relevant; None for labels.
      filter: points x labels, 1 where a pair is not scored; None for labels.
      held_out: of training points with a validation part, the pairs that do not train; else None.
      categories: for labels that have them, a code each and the names of the codes.
    """

    name: str
    ids: Strings
    titles: Strings
    text: Int32[np.ndarray, "n *texts"]
    image_offsets: Int64[np.ndarray, " n_plus_1"]
    image_rows: Int64[np.ndarray, " images"]
    relevance: scipy.sparse.csr_matrix | None = None
    filter: scipy.sparse.csr_matrix | None = None
    held_out: scipy.sparse.csr_matrix | None = None
    categories: tuple[Int32[np.ndarray, " n"], Strings] | None = None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.text)

    @property
    def pairs(self) -> scipy.sparse.csr_matrix:
        """The relevance of a side of points.

        Raises:
          ValueError: for the labels, which have none.
        """
        if self.relevance is None:
            raise ValueError(
                f"the side {self.name!r} has no relevance: expected points, not labels"
            )
        return self.relevance

    def images_of(self, i: int) -> Int64[np.ndarray, " images"]:
        """Return the rows of item i's images."""
        return self.image_rows[self.image_offsets[i] : self.image_offsets[i + 1]]

    def images_in(self, rows: Int[np.ndarray, " b"], most: int) -> Int[np.ndarray, "b _"]:
        """Return the rows of the first `most` images of some items, -1 where there are no more.

        The result has at least one column.
        """
        start, stop = self.image_offsets[rows], self.image_offsets[rows + 1]
        place = start[:, None] + np.arange(max(1, most))
        real = place < np.minimum(stop, start + most)[:, None]
        images = np.full(place.shape, -1, np.int64)
        images[real] = self.image_rows[place[real]]
        return images


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
        vectors = _map(path / "image_vectors.npy", "f", None, None)
    size = manifest["processing"]["size"]
    if "images.npy" in files and not (path / "images.npy").exists():
        images = AbsentImages(path / "images.npy", manifest["counts"]["images"])
    elif "images.npy" in files:
        images = ArrayImages(_map(path / "images.npy", "u", None, size, size, 3))
    elif vectors is None:
        images = RecordImages(path / "records", _map(path / "image_homes.npy", "i", None, 3), size)
    else:
        images = ArrayImages(np.zeros((0, size, size, 3), np.uint8))
    if "text_vectors.npy" in files:
        text_vectors = _map(path / "text_vectors.npy", "f", None, None)
        texts, lengths = np.zeros((0, 1), np.int32), np.zeros(0, np.int32)
    else:
        text_vectors, texts = None, _map(path / "texts.npy", "i", None, None)
        lengths = _map(path / "text_lengths.npy", "i", None)
    train, validation = _load_side(path, "train"), None
    if hold_out and POINTS in files:
        train = dataclasses.replace(train, held_out=load_csr(path / HELD_OUT, len(train)))
        validation = Validation.load(path, train.pairs)
    return {
        "train": train,
        "test": _load_side(path, "test"),
        "labels": _load_side(path, "label"),
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
        _check_rows(f"texts of {side.name}", side.text, -1, counts["text"], most_axes=2)
        _check_rows(f"images of {side.name}", side.image_rows, 0, counts["image"])
        if side.categories is not None:
            _check_rows("categories", side.categories[0], 0, len(side.categories[1]))
        for matrix in (side.relevance, side.filter, side.held_out):
            if matrix is not None and matrix.shape != (len(side), len(dataset.labels)):
                raise ValueError(f"a matrix of {side.name} has the shape {matrix.shape}")
    if dataset.questions is not None:
        dataset.questions.check(len(dataset.test), len(dataset.labels))


def _check_rows(what: str, rows: np.ndarray, low: int, high: int, most_axes: int = 1) -> None:
    if not 1 <= rows.ndim <= most_axes or rows.dtype.kind != "i":
        raise ValueError(f"{what} are {rows.dtype} {rows.shape}")
    if rows.size and not low <= rows.min() <= rows.max() < high:
        raise ValueError(f"{what} go from {rows.min()} to {rows.max()}, of {high:,}")


def _load_side(path: Path, name: str) -> Side:
    matrices: dict[str, Any] = {}
    items = load_arrays(path / f"{name}_items.npz")
    categories = path / "label_categories.npz"
    if name != "label":
        for kind in ("relevance", "filter"):
            matrices[kind] = load_csr(path / f"{name}_{kind}.npz", len(items["text"]))
    elif categories.is_file():
        arrays = load_arrays(categories)
        names = Strings.checked(arrays["blob"], arrays["offsets"])
        matrices["categories"] = (arrays["codes"], names)
    return Side(
        name,
        Strings.load(path / f"{name}_ids.npz"),
        Strings.load(path / f"{name}_titles.npz"),
        items["text"],
        items["image_offsets"],
        items["image_rows"],
        **matrices,
    )


def _map(path: Path, kind: str, *shape: int | None) -> np.ndarray:
    """Map a npy file; raise ValueError unless it has this kind of numbers and shape (None: any)."""
    array = np.lib.format.open_memmap(path, mode="r")
    fits = len(shape) == array.ndim and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype.kind != kind or not fits:
        raise ValueError(f"{path.name} is {array.dtype} {array.shape}")
    return array


def training_pairs(train: Side) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return the pairs that serve as positives, and those that must not serve as negatives.

    Pairs of the overlap filter are neither: the datapoint and the label are the same product.
    Neither are held-out pairs.
    """
    relevance = train.pairs.astype(bool).tocsr()
    kinds = (train.filter, train.held_out)
    apart = [kind.astype(bool).tocsr() for kind in kinds if kind is not None and kind.nnz]
    if not apart:
        return relevance, relevance
    neither = apart[0] if len(apart) == 1 else (apart[0] + apart[1]).tocsr()
    return without(relevance, neither), (relevance + neither).tocsr()
