"""Claims about the label side of prediction: written label after label, split over the devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import new_model

from mufin_jax.model import label_table
from mufin_jax.model.embed_side import SideEmbedding
from mufin_jax.prediction.label_cache import LabelCache, cache_writer, gather
from mufin_jax.runtime.errors import InputError

DIM, L, MOST = 6, 13, 3


@pytest.fixture(scope="module")
def labels():
    """Thirteen labels of none to three descriptors."""
    rng = np.random.default_rng(0)
    mask = np.arange(MOST) < rng.integers(0, MOST + 1, L)[:, None]
    mask[5], mask[6] = False, True
    vectors = rng.normal(size=(L, DIM)).astype(np.float32)
    bag = rng.normal(size=(L, MOST, DIM)).astype(np.float32)
    return SideEmbedding(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), bag, mask)


@pytest.fixture(scope="module")
def block(model):
    return model.cross_attention


def write(folder, labels, rows, mesh, size):
    with cache_writer(folder, rows, DIM, mesh) as append:
        for start in range(0, L, size):
            ids = np.arange(start, min(start + size, L))
            append(ids, SideEmbedding(labels.vector[ids], labels.bag[ids], labels.mask[ids]))


@pytest.fixture(scope="module")
def table(mesh):
    return label_table.initialize(jax.random.key(0), L, DIM, mesh)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, labels, table, mesh):
    folder = tmp_path_factory.mktemp("memory") / "labels"
    write(folder, labels, table.rows, mesh, 4)
    return folder


@pytest.mark.parametrize("kept", ["float32", "bfloat16", None])
@pytest.mark.parametrize("size", [4, 13])
def test_the_files_hold_the_bags_and_the_classifiers(labels, mesh, tmp_path, size, kept):
    rows, w = None, labels.vector
    if kept:
        config = label_table.TableConfig(dtype=kept)
        table = label_table.initialize(jax.random.key(0), L, DIM, mesh, 0.25, config)
        rows, eta = table.rows, np.asarray(label_table.gather(table.rows, jnp.arange(L), mesh).eta)
        w = 0.25 * labels.vector + 0.75 * eta / np.linalg.norm(eta, axis=1, keepdims=True)
        w = w / np.linalg.norm(w, axis=1, keepdims=True)
    write(tmp_path, labels, rows, mesh, size)
    arrays = {name: np.load(tmp_path / f"{name}.npy") for name in ("bags", "offsets", "w")}
    np.testing.assert_array_equal(arrays["bags"], labels.bag[labels.mask])
    np.testing.assert_array_equal(np.diff(arrays["offsets"]), labels.mask.sum(1))
    np.testing.assert_allclose(arrays["w"], w, atol=1e-6)
    assert arrays["bags"].dtype == arrays["w"].dtype == np.float32


def test_memory_and_classifiers_of_a_shortlist_are_those_of_its_labels(
    folder, labels, dataset, block, mesh, one_device
):
    asked = np.array([[6, 5, -1, 0], [12, 6, 3, 3]])
    real = np.where(asked[..., None] >= 0, labels.mask[asked], False)
    direct = block.memory(jnp.array(labels.bag), jnp.array(labels.mask))
    w = np.load(folder / "w.npy")
    for devices, own in (
        (mesh, block),
        (one_device, new_model(dataset, one_device).cross_attention),
    ):
        cache = LabelCache.load(folder, own, devices)
        slots = cache.slots(asked)
        assert slots.shape == (2, 4, MOST) and slots.dtype == np.int32
        np.testing.assert_array_equal(slots >= 0, real)
        found, classes = jax.jit(gather, static_argnums=3)(cache.arrays, asked, slots, devices)
        np.testing.assert_array_equal(found.mask, real)
        for one, whole in ((found.keys, direct.keys), (found.values, direct.values)):
            expected = np.where(real[..., None, None], np.asarray(whole)[asked], 0)
            np.testing.assert_allclose(one, expected, atol=1e-6)
        np.testing.assert_array_equal(classes, np.where(asked[..., None] >= 0, w[asked], 0))


def test_each_device_holds_only_its_own_rows(folder, labels, block, mesh):
    for array, count in zip(
        LabelCache.load(folder, block, mesh).arrays, (labels.mask.sum(), L), strict=True
    ):
        assert not array.is_fully_replicated and len(array) == -(-count // 8) * 8
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {-(-count // 8)}


def test_the_cost_of_reading_does_not_depend_on_the_number_of_labels(mesh):
    many = 65_536
    where = jax.NamedSharding(mesh, jax.P("devices"))
    arrays = tuple(
        jax.ShapeDtypeStruct((many, *shape), jnp.float32, sharding=where)
        for shape in ((2 * DIM,), (DIM,))
    )
    asked, slots = np.zeros((8, 5), np.int32), np.zeros((8, 5, MOST), np.int32)
    compiled = jax.jit(gather, static_argnums=3).lower(arrays, asked, slots, mesh).compile()
    assert not re.search(rf"\[(\d+,)*{many}(,\d+)*\]", compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * many // 8  # one float a local row
    collectives = re.findall(r"= (.*?) (all-\w+|collective-\w+)", compiled.as_text())
    assert collectives and not any(f"{many // 8}" in shapes for shapes, _ in collectives)


def test_labels_without_any_descriptor_have_no_memory(labels, block, mesh, tmp_path):
    bare = SideEmbedding(labels.vector, labels.bag, np.zeros_like(labels.mask))
    write(tmp_path, bare, None, mesh, 13)
    cache = LabelCache.load(tmp_path, block, mesh)
    slots = cache.slots(np.array([[0, 12]]))
    assert (slots == -1).all()
    found, _ = gather(cache.arrays, jnp.array([[0, 12]]), jnp.array(slots), mesh)
    assert not np.asarray(found.keys).any()


@pytest.mark.parametrize("name", ["bags.npy", "w.npy", "offsets.npy", "manifest.json"])
def test_a_missing_or_damaged_file_is_named(labels, block, mesh, tmp_path, name):
    write(tmp_path, labels, None, mesh, 13)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        LabelCache.load(tmp_path, block, mesh)
    path.unlink()
    with pytest.raises(InputError, match=name):
        LabelCache.load(tmp_path, block, mesh)
