"""Joint descriptors: an item is one descriptor, its title read with its pictures (VisualBERT)."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from mufin_jax.data.bags import Bags, JointTexts, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.descriptors import Part, Picture, Vector, by_item, image_part, stacked
from mufin_jax.data.layout import Layout, PoolSizes
from mufin_jax.data.packing import text_width, unpacked
from mufin_jax.data.sources import ImageSource, Pixels, Sources, Vectors
from mufin_jax.runtime.errors import InputError


class JointItems:
    """The items of all sides of a dataset, numbered over training points, test points and labels.

    It has the attributes of `descriptors.Descriptors`: every item is read as a text.

    Args:
        dataset: a prepared folder.
        most_images: pictures of an item that are seen, at most, by the side's name.

    Raises:
        InputError: if the titles are ready vectors, or items have several.
    """

    num_images = 0
    sees_texts = sees_images = together = True

    def __init__(self, dataset: Dataset, most_images: Mapping[str, int]):
        self.dataset, self.most_images = dataset, most_images
        self.sides = (dataset.train, dataset.test, dataset.labels)
        self.starts = np.cumsum([0, *map(len, self.sides)])
        self.num_texts = int(self.starts[-1])
        self.pictures_a_text = max(1, *most_images.values())
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

    def slots(
        self, side: Side, rows: Int[np.ndarray, "b"]
    ) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        """Return the numbers of some items, a bag each, and which of them have anything to see."""
        slots = self.numbers(side, rows)[:, None]
        return np.maximum(slots, 0), slots >= 0

    def pool(
        self,
        texts: Int[np.ndarray, "t"],
        images: Int[np.ndarray, "i"] | None,
        sources: Sources,
        layout: Layout,
        sizes: PoolSizes,
    ) -> tuple[Pool, Int[np.ndarray, "_"]]:
        """Return the pool of these items, and the row of X0 that holds each.

        Pictures by themselves are no descriptors: `images` must be empty.
        """
        homes = np.arange(len(texts))
        if isinstance(sources.texts, Vectors):
            return Pool(Vectors(layout.read(sources.texts.rows, texts, sizes.texts)), None), homes
        found, lengths, shown = self.read(texts)
        tokens, places = unpacked(found, lengths, sizes.width)
        distinct = np.unique(shown[shown >= 0])
        chosen = np.where(shown >= 0, np.searchsorted(distinct, shown), -1).astype(np.int32)
        joint = JointTexts(
            layout.pad(tokens, sizes.texts),
            layout.pad(places, sizes.texts, -1),
            layout.pad(chosen, sizes.texts, -1),
        )
        source = sources.images
        return Pool(joint, type(source)(layout.read(source.rows, distinct, sizes.images))), homes

    def counts(
        self, drawn: Sequence[Int[np.ndarray, "_"]], sources: Sources
    ) -> tuple[int, dict[str, list[int]]]:
        """Return the width of texts, and how long each axis is, for batches of these items."""
        read = [self.read(numbers) for numbers in drawn]
        items = [len(numbers) for numbers in drawn]
        pictures = [len(np.unique(shown[shown >= 0])) for _, _, shown in read]
        width = max(text_width(lengths) for _, lengths, _ in read)
        return width, {"descriptors": items, "texts": items, "images": pictures}

    def assemble(
        self,
        titles: Sequence[Sequence[str]],
        pictures: Sequence[Sequence[Picture]],
        text_vectors: Sequence[Sequence[Vector]] = (),
        image_vectors: Sequence[Sequence[Vector]] = (),
    ) -> tuple[Pool, Bags]:
        """Return the pool and the bags of items that are in no dataset, by their own content.

        An item without a title is read with an empty one, for its pictures.
        """
        dataset = self.dataset
        own = [title[0] if title else "" for title in titles]
        tokens, places = unpacked(*dataset.tokenizer.encode(own, dataset.texts.shape[1]))
        chosen = np.full((len(own), 1), -1, np.int32)
        if dataset.image_vectors is None:
            images = Pixels(stacked(pictures, dataset.processing.size))
            counts = [len(some) for some in pictures]
            chosen = by_item(counts, np.arange(len(images.rows)))
        else:
            images = Vectors(np.asarray(dataset.image_vectors[:0]))  # items have none
        slots = np.arange(len(own), dtype=np.int32)[:, None]
        return Pool(JointTexts(tokens, places, chosen), images), Bags(slots, slots >= 0)

    def samples(self, count: int, images: Sequence[int]) -> Iterator[Pool]:
        """Yield an empty pool of `count` items for each number of pictures, to compile for."""
        tokens, vectors = np.zeros((count, 1), np.int32), self.dataset.image_vectors
        if vectors is None:
            size = self.dataset.processing.size
            seen = Pixels(np.zeros((count, size, size, 3), np.uint8))
        else:
            seen = Vectors(np.zeros((count, vectors.shape[1]), np.float32))
        for most in images:
            yield Pool(JointTexts(tokens, tokens, np.zeros((count, most), np.int32)), seen)

    def parts(self, pool: Pool, columns: Callable[[int], int]) -> Iterator[Part]:
        """Yield the items of a pool, of one width, or the pictures of a pool that has no items.

        Images that are read with titles must be vectors: each block gets a copy of its own.
        """
        if isinstance(pool.texts, JointTexts) and pool.images is not None:
            yield self._items(pool.texts, pool.images, columns(pool.texts.pictures.shape[1]))
        elif pool.images is not None:
            yield image_part(pool.images)

    def encoded_first(self, pool: Pool) -> ImageSource | None:
        """Return the pool's pixels: each picture is encoded once, whatever block reads it."""
        joint = isinstance(pool.texts, JointTexts)
        return pool.images if joint and not isinstance(pool.images, Vectors) else None

    def _items(self, texts: JointTexts, images: ImageSource, columns: int) -> Part:
        """Return the part of a pool's items: texts of one width, with pictures in few columns."""
        width = text_width(np.array([self.dataset.texts.shape[1]]))

        def wider(rows: np.ndarray, size: int, columns: int, fill: int) -> np.ndarray:
            missing = ((0, size - len(rows)), (0, columns - rows.shape[1]))
            return np.pad(rows, missing, constant_values=fill)

        def cut(rows: slice, size: int) -> Pool:
            chosen = wider(texts.pictures[rows], size, columns, -1).ravel()
            shown = np.zeros((len(chosen), *images.rows.shape[1:]), images.rows.dtype)
            shown[chosen >= 0] = images.rows[chosen[chosen >= 0]]
            own = np.where(chosen >= 0, np.arange(len(chosen)), -1).astype(np.int32)
            block = JointTexts(
                wider(texts.tokens[rows], size, width, 0),
                wider(texts.places[rows], size, width, -1),
                own.reshape(size, columns),
            )
            return Pool(block, type(images)(shown))

        return Part(len(texts.tokens), 1, cut)

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
        pictures = np.full((len(numbers), self.pictures_a_text), -1, np.int64)
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
