"""Claims about ready image vectors, and about object arrays that nobody may unpickle."""

import dataclasses
import pickle

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from block_sizes import small_blocks
from flax import nnx
from raw_folders import RELEVANCE, TITLES, read_catalogue, write_vectors
from small import CONFIG

from mufin_jax.data.readers import vectors as vectors_module
from mufin_jax.data.readers.objects import read_lists
from mufin_jax.encoders.vectors import ReadyVectors, unit_scale
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.model.saved import load_model, new_model, save_model
from mufin_jax.runtime.errors import InputError

VECTORS = {side: np.arange(12, dtype=np.float16).reshape(4, 3) for side in TITLES}
MAPS = {"train": [[2, 0], -1, [3]], "test": [[1], [0]], "label": [-1, [0], [1, 2], [3]]}

blocks = small_blocks((vectors_module, "_CHUNK", 1))


def test_image_vectors_are_counted_through_all_files(tmp_path):
    catalogue, _ = read_catalogue(write_vectors(tmp_path / "raw", TITLES, RELEVANCE, VECTORS, MAPS))
    assert catalogue.form == "image vectors" and len(catalogue.vectors) == 3
    assert catalogue.sides["train"].image_keys.tolist() == [2, 0, 3]
    np.testing.assert_array_equal(catalogue.sides["train"].image_offsets, [0, 2, 2, 3])
    assert catalogue.sides["label"].image_keys.tolist() == [8, 9, 10, 11]


def test_titles_without_ids_get_ids_of_their_own(tmp_path):
    folder = write_vectors(tmp_path / "raw", TITLES, RELEVANCE, VECTORS, MAPS)
    (folder / "tst.raw.txt").write_text("first\nsecond\n")
    side = read_catalogue(folder)[0].sides["test"]
    assert side.titles == ["first", "second"] and len(set(side.ids)) == 2


def test_a_vector_that_is_not_finite_is_named_by_file_and_row(tmp_path):
    vectors = VECTORS | {"test": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}
    with pytest.raises(InputError, match=r"tst_embs_imgs_3_3.npy: row 1 holds NaN"):
        read_catalogue(write_vectors(tmp_path / "raw", TITLES, RELEVANCE, vectors, MAPS))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_object_arrays_are_read_without_unpickling(protocol, tmp_path, monkeypatch):
    entries = np.empty(5, object)
    entries[:] = [[1, 2], -1, np.array([3, 300_000]), np.int64(4), []]
    entries[4] = [np.int32(7), 2**40]
    with (tmp_path / "map.npy").open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (5,)}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(entries, file, protocol=protocol)
    monkeypatch.setattr(pickle, "load", None)
    wanted = [[1, 2], [], [3, 300_000], [4], [7, 2**40]]
    assert read_lists(tmp_path / "map.npy") == wanted


def test_a_hostile_object_array_is_rejected_and_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    entries = np.empty(2, object)
    entries[:] = [[1], Hostile()]
    np.save(tmp_path / "map.npy", entries, allow_pickle=True)
    with pytest.raises(InputError, match="not an array of lists of integers"):
        read_lists(tmp_path / "map.npy")
    assert not (tmp_path / "canary").exists()


def test_damaged_object_arrays_raise_input_error_only(tmp_path):
    entries = np.empty(3, object)
    entries[:] = [[1, 2], -1, np.array([3])]
    np.save(tmp_path / "map.npy", entries, allow_pickle=True)
    whole = (tmp_path / "map.npy").read_bytes()
    rng, rejected = np.random.default_rng(0), 0
    for trial in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "map.npy").write_bytes(data[: rng.integers(len(data))] if trial % 2 else data)
        try:
            assert len(read_lists(tmp_path / "map.npy")) > 0
        except InputError:
            rejected += 1
    assert rejected > 200


def norms_of(norm: float, rows: int = 300) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    return vectors * (np.float32(norm) / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("norm, power", [(1.0, 0), (1.4, 0), (0.72, 0), (15.2, -4), (1e-3, 10)])
@pytest.mark.parametrize("rows", [300, 20_000])
def test_the_scale_of_vectors_is_a_power_of_two_that_brings_them_to_norms_around_1(
    norm, power, rows, tmp_path
):
    vectors = norms_of(norm, rows)
    vectors[: rows // 2 - 1] = 0
    np.save(tmp_path / "vectors.npy", vectors)
    assert unit_scale(np.load(tmp_path / "vectors.npy", mmap_mode="r")) == 2.0**power


def test_vectors_of_zeros_are_not_scaled():
    assert unit_scale(np.zeros((3, 8), np.float32)) == 1


def test_vectors_of_any_scale_train_at_the_same_pace():
    def trained(norm: float) -> np.ndarray:
        vectors = jnp.asarray(norms_of(norm))
        encoder = ReadyVectors(8, nnx.Rngs(0))
        encoder.scale = unit_scale(np.asarray(vectors))
        optimizer = nnx.Optimizer(encoder, optax.adamw(1e-2), wrt=nnx.Param)
        gradient = nnx.grad(lambda encoder: encoder(vectors)[:, 0].mean())(encoder)
        optimizer.update(encoder, gradient)
        return np.asarray(encoder(vectors))

    np.testing.assert_allclose(trained(16.0), trained(1.0), atol=1e-5)


@pytest.fixture
def ready(dataset):
    """The data with ready vectors of both kinds, of norms around 50 and 6."""
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        dataset,
        image_vectors=16 * rng.normal(size=(len(dataset.images), 9)).astype(np.float32),
        text_vectors=2 * rng.normal(size=(dataset.num_texts, 9)).astype(np.float32),
    )


def test_a_new_model_brings_the_data_s_vectors_to_norms_around_1(ready, one_device, tmp_path):
    model = new_model(CONFIG, ready, one_device, seed=0)
    save_model(model, tmp_path / "model")
    for made in (model, load_model(tmp_path / "model", one_device)):
        for encoder, vectors in (
            (made.image_encoder, ready.image_vectors),
            (made.text_encoder, ready.text_vectors),
        ):
            found = np.linalg.norm(encoder(jnp.asarray(vectors)), axis=1)
            assert 0.7 < np.median(found) < 1.42
            np.testing.assert_array_equal(found, np.linalg.norm(vectors * encoder.scale, axis=1))


def test_a_joint_model_does_not_scale_the_data_s_vectors(ready, one_device):
    text = VisualBertConfig(width=18, depth=2, heads=2, mlp=10, max_positions=16, visual=9)
    config = dataclasses.replace(CONFIG, modalities="joint", self_attention="none", text=text)
    data = dataclasses.replace(ready, text_vectors=None)
    encoder = new_model(config, data, one_device, seed=0).image_encoder
    np.testing.assert_array_equal(encoder(jnp.asarray(data.image_vectors)), data.image_vectors)
