"""Claims about embedding whole sides: what direct calls give, whatever the block size."""

import dataclasses

import jax
import numpy as np
import pytest
from small import SIZES

from mufin_jax.data.loader import Loader
from mufin_jax.embedding import describe_all, describe_once, embed_side


@pytest.fixture(scope="module")
def loader(dataset, mesh):
    return Loader(dataset, "both", mesh.size)


@pytest.fixture(scope="module")
def vectors(model, loader):
    return describe_all(model, loader)


def test_a_side_embeds_as_a_direct_call_of_the_model_does(dataset, model, loader, vectors):
    rows = np.arange(8)
    pool, (bags,) = loader.batch([(dataset.train, rows)])
    direct = jax.jit(lambda model, pool, bags: model.embed(model.describe(pool), bags))(
        model, pool, bags
    )
    side = embed_side(model, loader, vectors, dataset.train, keep_bags=True)
    assert side.vector.shape == (SIZES["train"], 6) and side.bag is not None
    np.testing.assert_array_equal(side.mask[rows], bags.mask)
    np.testing.assert_allclose(side.vector[rows], direct.vector, atol=1e-5)
    np.testing.assert_allclose(side.bag[rows][bags.mask], direct.bag[bags.mask], atol=1e-5)


def test_the_size_of_blocks_does_not_matter(dataset, model, loader, vectors):
    np.testing.assert_allclose(describe_all(model, loader, block=16), vectors, atol=1e-5)
    whole = embed_side(model, loader, vectors, dataset.train, keep_bags=True)
    parts = embed_side(model, loader, vectors, dataset.train, keep_bags=True, block=9)
    np.testing.assert_array_equal(parts.mask, whole.mask)
    np.testing.assert_allclose(parts.vector, whole.vector, atol=1e-6)
    np.testing.assert_allclose(parts.bag, whole.bag, atol=1e-6)


def test_only_the_descriptors_asked_for_are_described(model, loader, vectors):
    numbers = np.array([2, 5, loader.num_texts, loader.num_texts + 7])
    some = describe_all(model, loader, numbers)
    np.testing.assert_allclose(some[numbers], vectors[numbers], atol=1e-5)
    assert not np.delete(some, numbers, axis=0).any() and np.abs(vectors).sum(1).all()


def test_bags_are_kept_only_when_asked_for(dataset, model, loader, vectors):
    assert embed_side(model, loader, vectors, dataset.test).bag is None


def test_a_side_without_items_embeds_to_nothing(dataset, model, loader, vectors):
    empty = dataclasses.replace(
        dataset.test,
        text=np.zeros(0, np.int32),
        image_offsets=np.zeros(1, np.int64),
        image_rows=np.zeros(0, np.int64),
    )
    side = embed_side(model, loader, vectors, empty, keep_bags=True)
    assert side.vector.shape == (0, 6) and side.mask.shape == (0, 4) and len(side.bag) == 0


def test_vectors_described_once_are_read_back(model, loader, vectors, tmp_path):
    path = tmp_path / "vectors.npy"
    np.testing.assert_allclose(describe_once(model, loader, path), vectors, atol=1e-6)
    np.save(path, vectors + 1)
    np.testing.assert_array_equal(describe_once(model, loader, path), vectors + 1)


def test_batches_of_known_vectors_fill_bags_as_a_pool_would(dataset, model, loader, vectors):
    known = Loader(dataset, "both", loader.mesh_size)
    known.vectors = vectors
    groups = [(dataset.train, np.array([5, 3, 2, 5])), (dataset.labels, np.array([0, 1]))]
    rows, groups_of_bags = known.batch(groups)
    for (side, items), bags in zip(groups, groups_of_bags, strict=True):
        slots, mask = known.slots(side, items)
        np.testing.assert_array_equal(bags.mask, mask)
        np.testing.assert_array_equal(rows[bags.slots][mask], vectors[slots][mask])
    assert len(rows) % 8 == 0
