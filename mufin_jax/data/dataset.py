"""A prepared folder, opened: ids, titles, token ids, images and relevance, mapped from the disk."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse
from jaxtyping import Float32, Int, Int32, Int64, UInt8

from mufin_jax.data.manifest import read_manifest
from mufin_jax.data.records import RecordImages
from mufin_jax.data.strings import Strings
from mufin_jax.data.text import Tokenizer
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.errors import InputError


@runtime_checkable
class Images(Protocol):
    """Distinct images at training size, by row."""

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """The pixels of some images, 0 to 255."""
        ...


class ArrayImages:
    """Images in an array, such as one mapped from images.npy."""

    def __init__(self, pixels: UInt8[np.ndarray, "i h w 3"]):
        """Wraps the array."""
        self.pixels = pixels

    def __len__(self) -> int:
        """The number of images."""
        return len(self.pixels)

    def __getitem__(self, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w 3"]:
        """A copy of some images."""
        return np.array(self.pixels[np.asarray(rows)])


@dataclasses.dataclass(frozen=True)
class Side:
    """The items of one side: training points, test points or labels.

    Attributes:
      name: "train", "test" or "label".
      ids: the items' ids.
      titles: the items' titles, "" where there is none.
      text: row of each item's title in `Dataset.texts`, or -1.
      image_offsets, image_rows: item i has the images
        `image_rows[image_offsets[i]:image_offsets[i + 1]]`.
      relevance: points x labels, 1 where relevant; None for labels.
      filter: points x labels, 1 where a pair is not scored; None for labels.
      categories: for labels that have them, a code each and the names of the codes.
    """

    name: str
    ids: Strings
    titles: Strings
    text: Int32[np.ndarray, " n"]
    image_offsets: Int64[np.ndarray, " n_plus_1"]
    image_rows: Int64[np.ndarray, " images"]
    relevance: scipy.sparse.csr_matrix | None = None
    filter: scipy.sparse.csr_matrix | None = None
    categories: tuple[Int32[np.ndarray, " n"], Strings] | None = None

    def __len__(self) -> int:
        """The number of items."""
        return len(self.text)

    @property
    def pairs(self) -> scipy.sparse.csr_matrix:
        """The relevance of a side of points.

        Raises:
          ValueError: for the labels, which have none.
        """
        if self.relevance is None:
            raise ValueError(f"the side {self.name!r} has no relevance: wanted points, not labels")
        return self.relevance

    def images_of(self, i: int) -> Int64[np.ndarray, " images"]:
        """The rows of item i's images."""
        return self.image_rows[self.image_offsets[i] : self.image_offsets[i + 1]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared folder; open it with `Dataset.open`.

    Attributes:
      path: the folder.
      manifest: what `prepare` recorded.
      train, test, labels: the three sides.
      texts: token ids of the distinct titles, padded with 0, mapped from the disk; none if there
        are vectors.
      text_lengths: their numbers of real tokens.
      text_vectors: ready vectors of the distinct titles, mapped from the disk, or None.
      images: the distinct images; empty if there are vectors.
      image_vectors: ready vectors, mapped from the disk, or None.
      ceiling: the best reachable score in percent, by metric, if it is known.
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

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "Dataset":
        """Opens a folder that `prepare` wrote; reads no image and no text yet.

        Args:
          path: the folder.
          verify: compare the checksums of all files, which reads every byte.

        Raises:
          InputError: if the folder is missing, incomplete, of another version, or changed.
        """
        path = Path(path)
        manifest = read_manifest(path, verify)
        try:
            return cls(path, manifest, **_load(path, manifest))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be read ({error}): prepare the data anew") from None

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
        return Tokenizer.load(self.path / "tokenizer.json")

    @functools.cached_property
    def processing(self) -> ImageProcessing:
        """How `images` were brought to their size, and how to normalise them."""
        fields = self.manifest["processing"]
        tuples = {name: tuple(fields[name]) for name in ("mean", "std")}  # JSON has lists only
        return ImageProcessing(**(fields | tuples))


def _load(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    files = manifest["files"]
    vectors = _map(path / "image_vectors.npy") if "image_vectors.npy" in files else None
    size = manifest["processing"]["size"]
    if "images.npy" in files:
        images = ArrayImages(_map(path / "images.npy"))
    elif vectors is None:
        images = RecordImages(path / "records", _map(path / "image_homes.npy"), size)
    else:
        images = ArrayImages(np.zeros((0, size, size, 3), np.uint8))
    ceiling = path / "ceiling.json"
    text_vectors = _map(path / "text_vectors.npy") if "text_vectors.npy" in files else None
    if text_vectors is None:
        texts, lengths = _map(path / "texts.npy"), _map(path / "text_lengths.npy")
    else:
        texts, lengths = np.zeros((0, 1), np.int32), np.zeros(0, np.int32)
    return {
        "train": _load_side(path, "train"),
        "test": _load_side(path, "test"),
        "labels": _load_side(path, "label"),
        "texts": texts,
        "text_lengths": lengths,
        "text_vectors": text_vectors,
        "images": images,
        "image_vectors": vectors,
        "ceiling": json.loads(ceiling.read_text("utf-8")) if "ceiling.json" in files else None,
    }


def _load_side(path: Path, name: str) -> Side:
    matrices: dict[str, Any] = {}
    categories = path / "label_categories.npz"
    if name != "label":
        for kind in ("relevance", "filter"):
            matrices[kind] = scipy.sparse.csr_matrix(
                scipy.sparse.load_npz(path / f"{name}_{kind}.npz")
            )
    elif categories.is_file():
        with np.load(categories, allow_pickle=False) as arrays:
            names = Strings(arrays["blob"], arrays["offsets"])
            matrices["categories"] = (arrays["codes"], names)
    with np.load(path / f"{name}_items.npz", allow_pickle=False) as arrays:
        return Side(
            name,
            Strings.load(path / f"{name}_ids.npz"),
            Strings.load(path / f"{name}_titles.npz"),
            arrays["text"],
            arrays["image_offsets"],
            arrays["image_rows"],
            **matrices,
        )


def _map(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)
