"""Separate descriptors: each text and picture of an item is encoded alone (paper, section 3)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, PackedTexts, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.descriptors import (
    Part,
    Picture,
    Vector,
    by_item,
    image_part,
    stacked,
    vectors_of,
)
from mufin_jax.data.layout import Layout, PoolSizes
from mufin_jax.data.manifest import WITHOUT_ITEMS
from mufin_jax.data.packing import count_rows, pack_texts, row_width, widths_of
from mufin_jax.data.sources import ImageSource, Pixels, Sources, Tokens, Vectors
from mufin_jax.runtime.distributed.padding import grown
from mufin_jax.runtime.errors import InputError


class SeparateDescriptors:
    """Texts and images of a dataset: text r has the number r, image r `num_texts + r`.

    It has the attributes of `descriptors.Descriptors`.

    Args:
        dataset: a prepared folder.
        modalities: what the model sees.
        most_images: pictures of an item that are seen, at most, by the side's name.

    Raises:
        InputError: if the model sees only texts, or only pictures, and the data have none.
    """

    together = False
    pictures_a_text = 1

    def __init__(
        self,
        dataset: Dataset,
        modalities: Literal["both", "text", "images"],
        most_images: Mapping[str, int],
    ):
        self.dataset, self.most_images = dataset, most_images
        self.sees_texts, self.sees_images = modalities != "images", modalities != "text"
        self.num_texts = dataset.num_texts
        vectors = dataset.image_vectors
        self.num_images = len(dataset.images if vectors is None else vectors)
        sides, missing = (dataset.train, dataset.test, dataset.labels), None
        if dataset.manifest.get(WITHOUT_ITEMS):
            pass  # only items that bring their own content are read
        elif modalities == "images" and not any(most_images.values()):
            missing = "picture"
        elif modalities == "text" and not any((side.text >= 0).any() for side in sides):
            missing = "title"
        if missing:
            raise InputError(
                f"{dataset.path}: no item has a {missing}, and a model of modalities={modalities} "
                "sees nothing else; choose --model.modalities=both, or bring other data"
            )

    def slots(
        self, side: Side, rows: Int[np.ndarray, "b"]
    ) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        """Return the descriptor numbers of some items, and which of them are real."""
        columns, most = [], self.most_images[side.name]
        if self.sees_texts:
            text = side.text[rows].astype(np.int64)
            columns.append(text if text.ndim > 1 else text[:, None])
        if self.sees_images and (most or not self.sees_texts):
            images = side.images_in(rows, most)
            columns.append(np.where(images >= 0, self.num_texts + images, -1))
        slots = np.concatenate(columns, 1)
        return np.maximum(slots, 0), slots >= 0

    def pool(
        self,
        texts: Int[np.ndarray, "t"],
        images: Int[np.ndarray, "i"] | None,
        sources: Sources,
        layout: Layout,
        sizes: PoolSizes,
    ) -> tuple[Pool, Int[np.ndarray, "_"]]:
        """Return the pool of these texts and images, and the row of X0 that holds each."""
        words, shown, homes, rows = None, None, np.zeros(0, np.int64), 0
        if self.sees_texts and isinstance(sources.texts, Vectors):
            words = Vectors(layout.read(sources.texts.rows, texts, sizes.texts))
            homes, rows = np.arange(len(texts)), len(words.rows)
        elif self.sees_texts and isinstance(sources.texts, Tokens):
            found = np.asarray(sources.texts.rows[texts])
            lengths = np.asarray(sources.texts.lengths[texts])
            tokens, places, homes = pack_texts(found, lengths, sizes.width)
            tokens, places = layout.pad(tokens, sizes.rows), layout.pad(places, sizes.rows, -1)
            words, rows = PackedTexts(tokens, places), TEXTS_A_ROW * len(tokens)
        if self.sees_images and images is not None:
            source = sources.images
            shown = type(source)(layout.read(source.rows, images, sizes.images))
            homes = np.append(homes, rows + np.arange(len(images)))
        return Pool(words, shown), homes

    def counts(
        self, drawn: Sequence[Int[np.ndarray, "_"]], sources: Sources
    ) -> tuple[int, dict[str, list[int]]]:
        """Return the width of texts, and how long each axis is, for batches of descriptors."""
        splits = [int(np.searchsorted(numbers, self.num_texts)) for numbers in drawn]
        lengths, width = [], 0
        if self.sees_texts and isinstance(sources.texts, Tokens):
            found = [numbers[:split] for numbers, split in zip(drawn, splits, strict=True)]
            lengths = [np.asarray(sources.texts.lengths[texts]) for texts in found]
            width = max(map(row_width, lengths))
        return width, {
            "descriptors": [len(numbers) for numbers in drawn],
            "texts": splits,
            "rows": [count_rows(some, width) for some in lengths] or [0],
            "images": [len(numbers) - split for numbers, split in zip(drawn, splits, strict=True)],
        }

    def assemble(
        self,
        titles: Sequence[Sequence[str]],
        pictures: Sequence[Sequence[Picture]],
        text_vectors: Sequence[Sequence[Vector]] = (),
        image_vectors: Sequence[Sequence[Vector]] = (),
    ) -> tuple[Pool, Bags]:
        """Return the pool and the bags of items that are in no dataset, by their own content."""
        texts = images = None
        columns, first = [], 0
        ready = self.dataset.text_vectors
        if self.sees_texts and ready is not None:
            texts = Vectors(vectors_of(text_vectors, ready.shape[1]))
            first = len(texts.rows)
            columns.append(by_item([len(own) for own in text_vectors], np.arange(first)))
        elif self.sees_texts:
            flat = [title for own in titles for title in own]
            ids, lengths = self.dataset.tokenizer.encode(flat, self.dataset.texts.shape[1])
            tokens, places, homes = pack_texts(ids, lengths)
            texts, first = PackedTexts(tokens, places), TEXTS_A_ROW * len(tokens)
            columns.append(by_item([len(own) for own in titles], homes))
        if self.sees_images:
            ready = self.dataset.image_vectors
            if ready is not None:
                images, shown = Vectors(vectors_of(image_vectors, ready.shape[1])), image_vectors
            else:
                images = Pixels(stacked(pictures, self.dataset.processing.size))
                shown = pictures
            homes = first + np.arange(len(images.rows))
            columns.append(by_item([len(own) for own in shown], homes))
        slots = np.concatenate(columns, 1)
        return Pool(texts, images), Bags(np.maximum(slots, 0), slots >= 0)

    def samples(self, count: int, images: Sequence[int]) -> Iterator[Pool]:
        """Yield an empty pool of `count` rows for each kind and width, to compile for."""
        texts, vectors = self.dataset.text_vectors, self.dataset.image_vectors
        if self.sees_texts and texts is not None:
            yield Pool(Vectors(np.zeros((count, texts.shape[1]), np.float32)), None)
        elif self.sees_texts:
            for width in widths_of(count, self.dataset.texts.shape[1]):
                tokens = np.zeros((count, width), np.int32)
                yield Pool(PackedTexts(tokens, tokens), None)
        if self.sees_images and vectors is not None:
            yield Pool(None, Vectors(np.zeros((count, vectors.shape[1]), np.float32)))
        elif self.sees_images:
            size = self.dataset.processing.size
            yield Pool(None, Pixels(np.zeros((count, size, size, 3), np.uint8)))

    def parts(self, pool: Pool, columns: Callable[[int], int]) -> Iterator[Part]:
        """Yield the texts and the images of a pool, each of which can be cut into blocks."""
        if isinstance(pool.texts, Vectors):
            vectors = pool.texts.rows
            yield Part(
                len(vectors), 1, lambda rows, size: Pool(Vectors(grown(vectors[rows], size)), None)
            )
        elif isinstance(pool.texts, PackedTexts):
            yield self._packed(pool.texts)
        if pool.images is not None:
            yield image_part(pool.images)

    def encoded_first(self, pool: Pool) -> ImageSource | None:
        """Return None: a picture is encoded by itself, in any block."""
        return None

    def _packed(self, texts: PackedTexts) -> Part:
        """Return the part of packed texts, in rows of one of few widths."""
        count, width = texts.tokens.shape
        widths = widths_of(count, self.dataset.texts.shape[1])
        wider = ((0, 0), (0, min(w for w in widths if w >= width) - width))
        tokens = np.pad(texts.tokens, wider)
        places = np.pad(texts.places, wider, constant_values=-1)

        def cut(rows: slice, size: int) -> Pool:
            block = PackedTexts(grown(tokens[rows], size), grown(places[rows], size, -1))
            return Pool(block, None)

        return Part(count, TEXTS_A_ROW, cut)
