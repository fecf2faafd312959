"""Whole items as descriptors: what a joint encoder reads at once, a title with its pictures."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Int32

from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.runtime.errors import InputError


class JointItems:
    """Numbers the items of all sides, and reads them by these numbers.

    Args:
        dataset: a prepared folder.
        most_images: pictures of an item that are seen, at most, by the side's name.

    Attributes:
        columns: m, pictures of any item at most; at least one.

    Raises:
        InputError: if the titles are ready vectors, or items have several.
    """

    def __init__(self, dataset: Dataset, most_images: Mapping[str, int]):
        self.dataset, self.most_images = dataset, most_images
        self.sides = (dataset.train, dataset.test, dataset.labels)
        self.starts = np.cumsum([0, *map(len, self.sides)])
        self.columns = max(1, *most_images.values())
        found = None
        if dataset.text_vectors is not None:
            found = "texts are ready vectors"
        elif any(side.text.ndim > 1 for side in self.sides):
            found = "items have several titles each"
        if found:
            raise InputError(
                f"{dataset.path}: {found}, and model.modalities=joint reads one title of an item "
                "with its pictures; choose --model.modalities=both"
            )
        tokens, lengths = dataset.tokenizer.encode([""], dataset.texts.shape[1])
        self._no_title = tokens[0], lengths[0]

    def __len__(self) -> int:
        """How many items there are."""
        return int(self.starts[-1])

    def numbers(self, side: Side, rows: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b"]:
        """Return the numbers of some items of a side; -1 for one of which nothing is seen.

        Raises:
            InputError: if the side is that of another dataset, to which these numbers mean nothing.
        """
        place = [one.name for one in self.sides].index(side.name)
        own = self.sides[place]
        for name in ("text", "image_offsets", "image_rows") if side is not own else ():
            if not np.array_equal(getattr(side, name), getattr(own, name)):
                raise InputError(
                    f"{self.dataset.path}: other data than its side {side.name!r} were given to a "
                    "joint model; open the folder that the model was trained on"
                )
        pictured = side.images_in(rows, self.most_images[side.name])[:, 0] >= 0
        return np.where((side.text[rows] >= 0) | pictured, self.starts[place] + rows, -1)

    def read(
        self, numbers: Int[np.ndarray, "t"]
    ) -> tuple[Int32[np.ndarray, "t s"], Int32[np.ndarray, "t"], Int[np.ndarray, "t m"]]:
        """Return token ids, how many are real, and rows of pictures (-1: none) of some items.

        Of an item without a title, the tokens are those of an empty one: [CLS] and [SEP].
        """
        text = np.full(len(numbers), -1, np.int64)
        pictures = np.full((len(numbers), self.columns), -1, np.int64)
        for side, start in zip(self.sides, self.starts, strict=False):
            own = np.flatnonzero((numbers >= start) & (numbers < start + len(side)))
            rows = numbers[own] - start
            text[own] = side.text[rows]
            shown = side.images_in(rows, self.most_images[side.name])
            pictures[own, : shown.shape[1]] = shown
        tokens = np.asarray(self.dataset.texts[np.maximum(text, 0)])
        lengths = np.asarray(self.dataset.text_lengths[np.maximum(text, 0)])
        empty, length = self._no_title
        tokens = np.where((text < 0)[:, None], empty[None], tokens)
        return tokens, np.where(text < 0, length, lengths), pictures
