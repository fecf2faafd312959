"""Shapes of queries: there are few, with little padding, and after warm-up none compiles."""

import dataclasses

import jax
import numpy as np
import pytest
from raw_folders import picture
from small import COLOURS, new_model
from test_predictor import K, build

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, PackedTexts, Pool
from mufin_jax.data.loader import new_descriptors
from mufin_jax.data.sources import Pixels
from mufin_jax.prediction import shapes
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex


@pytest.mark.parametrize("devices", [1, 8])
def test_blocks_cover_all_descriptors_once_with_a_quarter_of_padding_at_most(devices):
    sizes = {-(-size // devices) * devices for size in shapes.DESCRIPTORS}
    for count in range(400):
        cut = list(shapes.blocks(count, devices))
        rows = [i for part, _ in cut for i in range(part.start, part.stop)]
        assert rows == list(range(count)) and {size for _, size in cut} <= sizes
        padding = sum(size for _, size in cut) - count
        assert padding <= max(count / 3, devices - 1)


def test_the_sizes_of_points_and_bags_are_few_and_large_enough():
    assert shapes.up_to(256, shapes.points) == [1, 16, 256]
    assert shapes.up_to(16, shapes.slots) == [4, 16]
    assert shapes.points(9, 8) == 16 and shapes.points(1, 8) == 8
    assert shapes.points(300) == 300 and shapes.slots(17) == 64


def test_what_padding_adds_is_masked():
    bags = Bags(np.full((3, 5), 2, np.int32), np.ones((3, 5), bool))
    padded = shapes.padded(bags)
    assert padded.mask.shape == padded.slots.shape == (16, 16)
    np.testing.assert_array_equal(padded.mask[:3, :5], bags.mask)
    assert padded.mask.sum() == 15 and padded.slots.sum() == 30


def cut(pool, dataset, most_tokens):
    """The blocks of a pool, for data whose longest text has so many tokens."""
    texts = np.zeros((len(dataset.texts), most_tokens), np.int32)
    descriptors = new_descriptors(dataclasses.replace(dataset, texts=texts), "both")
    return list(shapes.in_blocks(pool, descriptors))


def test_a_pool_is_cut_into_its_kinds_and_loses_nothing(dataset):
    texts = np.arange(1, 5 * 8 + 1).reshape(5, 8).astype(np.int32)
    pixels = np.arange(18, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    places = np.zeros_like(texts)
    parts = cut(Pool(PackedTexts(texts, places), Pixels(pixels)), dataset, 12)
    rows = [(part, n // TEXTS_A_ROW) for part, n in parts if part.images is None]
    tokens = np.concatenate([part.texts.tokens[:n] for part, n in rows])
    images = np.concatenate([part.images.rows[:n] for part, n in parts if part.texts is None])
    assert tokens.shape == (5, 32)  # as wide as rows get where no text has more than 12 tokens
    np.testing.assert_array_equal(tokens[:, :8], texts)
    for part, n in rows:
        assert (part.texts.places[:n, :8] == 0).all()
        assert (part.texts.places[:n, 8:] == -1).all() and (part.texts.places[n:] == -1).all()
    np.testing.assert_array_equal(images, pixels)


def test_a_single_row_of_texts_is_hardly_padded(dataset):
    tokens = np.ones((1, 16), np.int32)
    ((part, vectors),) = cut(Pool(PackedTexts(tokens, 0 * tokens), None), dataset, 32)
    assert part.texts.tokens.shape == (1, 16) and vectors == TEXTS_A_ROW


@pytest.mark.parametrize("backend", ["exact", pytest.param("sharded", marks=pytest.mark.slow)])
def test_a_thousand_predictions_compile_nothing_after_warm_up(
    backend, dataset, one_device, tmp_path, compilations
):
    predictor = build(tmp_path, new_model(dataset, one_device), None, dataset)
    # The index first looks at one entry a label; often it must look at more.
    config = IndexConfig(backend=backend, over_fetch=1)
    predictor.index = LabelIndex.load(tmp_path / "predictor" / "index", one_device, config)
    jax.jit(lambda x: x + 1)(1.0)
    assert compilations  # the listener works
    predictor.warm_up(points=40, images=3, titles=3)  # six descriptors: one size more than four
    compilations.clear()
    rng, asked = np.random.default_rng(0), 0
    while asked < 1_000:
        items = []
        for _ in range(1 if rng.random() < 0.2 else rng.integers(1, 41)):
            words = [rng.choice(COLOURS, rng.integers(0, 12)) for _ in range(rng.integers(1, 4))]
            images = [picture(int(n)) for n in rng.integers(60, size=rng.integers(0, 4))]
            titles = [" ".join(["lamp", *some]) for some in words]
            items.append({"titles": titles, "images": images})
        found = predictor.predict(items, k=3)
        assert [len(row) for row in found] == [3] * len(items) and K > 3
        asked += len(items)
    assert compilations == []
