"""One side of a prepared folder: ids, titles, texts and pictures of its items, and their labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Int, Int32, Int64
from scipy import sparse

from mufin_jax.data.sparse import load_csr, without
from mufin_jax.data.strings import Strings
from mufin_jax.runtime.storage.npy import load_arrays


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

    @classmethod
    def load(cls, path: Path, name: str) -> "Side":
        """Load a side of a prepared folder, unchecked and without what is held out."""
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
        return cls(
            name,
            Strings.load(path / f"{name}_ids.npz"),
            Strings.load(path / f"{name}_titles.npz"),
            items["text"],
            items["image_offsets"],
            items["image_rows"],
            **matrices,
        )

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.text)

    def __repr__(self) -> str:
        labels = "" if self.relevance is None else f", {self.relevance.nnz:,} relevant labels"
        return (
            f"Side({self.name!r}: {len(self):,} items, {len(self.image_rows):,} pictures{labels})"
        )

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
