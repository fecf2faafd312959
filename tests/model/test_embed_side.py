"""Claims about embedding whole sides: what direct calls give, block by block, in bounded memory."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest
from small import SIZES

from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Pixels, Vectors
from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from mufin_jax.model import embed_side
from mufin_jax.model.embed_side import (
    SideEmbedding,
    describe_once,
    embed_blocks,
    embed_once,
    pictures_a_call,
)
from mufin_jax.model.item_encoder import ItemEncoder


@pytest.fixture(scope="module")
def loader(dataset, mesh):
    return Loader(dataset, "both", devices=mesh.size)


@pytest.fixture(scope="module")
def vectors(model, loader, tmp_path_factory):
    return describe_once(model, loader, tmp_path_factory.mktemp("described") / "vectors.npy")


def whole(model, loader, vectors, side, keep_bags=True, block=1024) -> SideEmbedding:
    """Return the embedding of a side, computed in one block."""
    blocks = list(embed_blocks(model, loader, vectors, side, keep_bags, block))
    rows = np.concatenate([rows for rows, _ in blocks])
    np.testing.assert_array_equal(rows, np.arange(len(side)))
    parts = [part for _, part in blocks]
    bags = [part.bag for part in parts if part.bag is not None]
    return SideEmbedding(
        np.concatenate([part.vector for part in parts]),
        np.concatenate(bags) if keep_bags else None,
        np.concatenate([part.mask for part in parts]),
    )


def first(side, count):
    """Return a side of `count` items, which repeat those of another side."""
    items = np.arange(count) % len(side)
    images = [side.images_of(int(i)) for i in items]
    offsets = np.cumsum([0, *map(len, images)])
    return dataclasses.replace(
        side, text=side.text[items], image_offsets=offsets,
        image_rows=np.concatenate([np.zeros(0, np.int64), *images]),
    )  # fmt: skip


def test_a_side_embeds_as_a_direct_call_of_the_model_does(dataset, model, loader, vectors):
    rows = np.arange(8)
    pool, (bags,) = loader.batch([(dataset.train, rows)])
    direct = jax.jit(lambda model, pool, bags: model.embed(model.describe(pool), bags))(
        model, pool, bags
    )
    side = whole(model, loader, vectors, dataset.train)
    assert side.vector.shape == (SIZES["train"], 6) and side.bag is not None
    np.testing.assert_array_equal(side.mask[rows], bags.mask)
    np.testing.assert_allclose(side.vector[rows], direct.vector, atol=1e-5)
    np.testing.assert_allclose(side.bag[rows][bags.mask], direct.bag[bags.mask], atol=1e-5)


def test_the_size_of_blocks_does_not_matter(dataset, model, loader, vectors, tmp_path):
    fewer = describe_once(model, loader, tmp_path / "vectors.npy", block=16)
    np.testing.assert_allclose(fewer, vectors, atol=1e-5)
    one = whole(model, loader, vectors, dataset.train)
    parts = whole(model, loader, vectors, dataset.train, block=9)
    np.testing.assert_array_equal(parts.mask, one.mask)
    np.testing.assert_allclose(parts.vector, one.vector, atol=1e-6)
    np.testing.assert_allclose(parts.bag, one.bag, atol=1e-6)


def test_large_pictures_are_described_in_smaller_blocks(dataset, one_device, monkeypatch):
    """EfficientNet-Lite0 makes 113 x 113 x 96 numbers of a picture of 224 pixels."""
    stages = {"widths": (16, 24), "depths": (1, 1), "kernels": (3, 3), "strides": (1, 2)}
    config = EfficientNetLiteConfig(**stages, expansions=(1, 6), head=32)  # two stages of seven
    encoder = abstract_module(lambda rngs: EfficientNetLite(config, rngs))
    processing = dataclasses.replace(dataset.processing, size=224)
    model = ItemEncoder(encoder, None, None, None, dim=8, processing=processing, mesh=one_device)
    loader = Loader(dataset, "images")
    for size, most in ((224, 128), (64, 512)):
        pixels = Pixels(np.zeros((1, size, size, 3), np.uint8))
        monkeypatch.setattr(loader, "pictures", lambda rows, pixels=pixels: (pixels, rows))
        assert pictures_a_call(model, loader, 512) == most
    monkeypatch.setattr(embed_side, "LARGEST", 3 * 113 * 113 * 96 * 4)
    monkeypatch.setattr(
        loader, "pictures", lambda rows: (Pixels(np.zeros((1, 224, 224, 3), np.uint8)), rows)
    )
    assert pictures_a_call(model, loader, 7) == 3


def test_ready_vectors_of_pictures_are_read_in_whole_blocks(dataset, model, loader, monkeypatch):
    """The model does nothing to them: no array grows with their number."""
    vectors = Vectors(np.ones((1, 8), np.float32))
    monkeypatch.setattr(loader, "pictures", lambda rows: (vectors, rows))
    assert pictures_a_call(model, loader, 512) == 512


def test_blocks_of_pictures_are_as_small_as_their_memory_requires(
    model, loader, vectors, tmp_path, monkeypatch
):
    monkeypatch.setattr(embed_side, "LARGEST", 2000)
    asked, read = [], loader.pictures
    monkeypatch.setattr(loader, "pictures", lambda rows: asked.append(len(rows)) or read(rows))
    found = describe_once(model, loader, tmp_path / "v.npy", block=64)
    np.testing.assert_allclose(found, vectors, atol=1e-5)
    assert 8 <= max(asked) < 64


@pytest.mark.parametrize("modalities", ["text", "images"])
def test_descriptors_that_the_model_does_not_see_are_zero(
    dataset, model, loader, vectors, tmp_path, modalities
):
    found = describe_once(
        model, Loader(dataset, modalities, devices=8), tmp_path / "v.npy", block=7
    )
    texts = np.arange(len(vectors)) < loader.num_texts
    seen = texts == (modalities == "text")
    np.testing.assert_allclose(found[seen], vectors[seen], atol=1e-5)
    assert found.shape == vectors.shape and not found[~seen].any()
    assert np.abs(vectors).sum(1).all()


def test_bags_are_kept_only_when_requested(dataset, model, loader, vectors):
    assert whole(model, loader, vectors, dataset.test, keep_bags=False).bag is None


def test_a_side_without_items_embeds_to_nothing(dataset, model, loader, vectors, tmp_path):
    empty = first(dataset.test, 0)
    assert not list(embed_blocks(model, loader, vectors, empty, keep_bags=True))
    assert embed_once(model, loader, vectors, empty, tmp_path / "x.npy").shape == (0, 6)


def test_vectors_that_were_written_are_read_again(dataset, model, loader, vectors, tmp_path):
    path, side = tmp_path / "vectors.npy", dataset.train
    np.testing.assert_allclose(describe_once(model, loader, path), vectors, atol=1e-6)
    np.save(path, vectors + 1)
    np.testing.assert_array_equal(describe_once(model, loader, path), vectors + 1)
    x = embed_once(model, loader, vectors, side, tmp_path / "x.npy")
    np.testing.assert_array_equal(x, whole(model, loader, vectors, side).vector)
    np.save(tmp_path / "x.npy", x + 1)
    again = embed_once(model, loader, vectors, side, tmp_path / "x.npy")
    np.testing.assert_array_equal(again, np.load(tmp_path / "x.npy"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["vectors.npy", "x.npy"]


def test_interrupted_describing_leaves_no_file(model, loader, tmp_path, monkeypatch):
    texts, calls = loader.texts, []

    def fails(*rows):
        calls.append(rows)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return texts(*rows)

    monkeypatch.setattr(loader, "texts", fails)
    with pytest.raises(KeyboardInterrupt):
        describe_once(model, loader, tmp_path / "vectors.npy", block=4)
    assert not list(tmp_path.iterdir())


def test_memory_holds_blocks_and_not_the_side(dataset, model, loader, vectors, tmp_path):
    def peak(blocks) -> tuple[int, int]:
        """Return the peak bytes of host arrays and of device arrays."""
        side, devices = first(dataset.train, 64 * blocks), 0
        tracemalloc.start()
        for _ in embed_blocks(model, loader, vectors, side, keep_bags=True, block=64):
            devices = max(devices, sum(array.nbytes for array in jax.live_arrays()))
        host = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return host, devices

    few, many = peak(2), peak(100)
    bags = 100 * 64 * 4 * 6 * 4  # bytes of X1 of the longer side
    assert many[0] < few[0] + bags / 10
    assert many[1] < few[1] + bags / 10


def test_batches_of_known_vectors_fill_bags_as_a_pool_would(dataset, model, loader, vectors):
    known = loader.with_sources(known=Vectors(vectors))
    groups = [(dataset.train, np.array([5, 3, 2, 5])), (dataset.labels, np.array([0, 1]))]
    pool, groups_of_bags = known.batch(groups)
    rows = pool.known.rows
    assert pool.texts is pool.images is None
    for (side, items), bags in zip(groups, groups_of_bags, strict=True):
        slots, mask = known.slots(side, items)
        np.testing.assert_array_equal(bags.mask, mask)
        np.testing.assert_array_equal(rows[bags.slots][mask], vectors[slots][mask])
    assert len(rows) % 8 == 0
