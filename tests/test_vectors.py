"""Claims about ready image vectors, and about object arrays that nobody may unpickle."""

import dataclasses
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from raw_folders import (
    write_vectors,
)
from small import CONFIG

from mufin_jax.artefacts import new_model
from mufin_jax.data import readers
from mufin_jax.data.readers.objects import read_lists
from mufin_jax.data.tally import Tally
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.errors import InputError


def read(folder, max_bad=0.05, max_images=15):
    tally = Tally(max_bad)
    return readers.read(folder, tally, max_images, 10_000_000), tally


TITLES = {
    "train": [("A,B", "a -> b"), ("C", ""), ("D", "d")],
    "test": [("E", "e"), ("F", "f")],
    "label": [("A,B", "x"), ("G", "y"), ("E", "z"), ("D", "w")],
}
RELEVANCE = {"train": [[3, 1], [], [0, 2]], "test": [[2, 3], [0]]}


VECTORS = {side: np.arange(12, dtype=np.float16).reshape(4, 3) for side in TITLES}
MAPS = {"train": [[2, 0], -1, [3]], "test": [[1], [0]], "label": [-1, [0], [1, 2], [3]]}


def test_image_vectors_are_counted_through_all_files(tmp_path):
    catalogue, _ = read(write_vectors(tmp_path / "raw", TITLES, RELEVANCE, VECTORS, MAPS))
    assert catalogue.form == "image vectors" and len(catalogue.vectors) == 3
    assert catalogue.sides["train"].image_keys.tolist() == [2, 0, 3]
    np.testing.assert_array_equal(catalogue.sides["train"].image_offsets, [0, 2, 2, 3])
    assert catalogue.sides["label"].image_keys.tolist() == [8, 9, 10, 11]


def test_titles_without_ids_get_ids_of_their_own(tmp_path):
    folder = write_vectors(tmp_path / "raw", TITLES, RELEVANCE, VECTORS, MAPS)
    (folder / "tst.raw.txt").write_text("first\nsecond\n")
    side = read(folder)[0].sides["test"]
    assert side.titles == ["first", "second"] and len(set(side.ids)) == 2


def test_a_vector_that_is_not_finite_is_named_by_file_and_row(tmp_path):
    vectors = VECTORS | {"test": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}
    with pytest.raises(InputError, match=r"tst_embs_imgs_3_3.npy: row 1 holds NaN"):
        read(write_vectors(tmp_path / "raw", TITLES, RELEVANCE, vectors, MAPS))


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


def test_a_hostile_object_array_is_refused_and_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    entries = np.empty(2, object)
    entries[:] = [[1], Hostile()]
    np.save(tmp_path / "map.npy", entries, allow_pickle=True)
    with pytest.raises(InputError, match="no array of lists of integers"):
        read_lists(tmp_path / "map.npy")
    assert not (tmp_path / "canary").exists()


def test_damaged_object_arrays_raise_input_error_only(tmp_path):
    entries = np.empty(3, object)
    entries[:] = [[1, 2], -1, np.array([3])]
    np.save(tmp_path / "map.npy", entries, allow_pickle=True)
    whole = (tmp_path / "map.npy").read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "map.npy").write_bytes(data[: rng.integers(len(data))] if trial % 2 else data)
        try:
            read_lists(tmp_path / "map.npy")
        except InputError:
            pass


@pytest.mark.parametrize("norm, power", [(1.0, 0), (1.4, 0), (0.72, 0), (15.2, -4), (1e-3, 10)])
def test_vectors_of_any_scale_come_to_norms_around_1_with_all_their_digits(norm, power):
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    vectors *= np.float32(norm) / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:140] = 0
    encoder = ReadyVectors(8, nnx.Rngs(0))
    encoder.bring_to_unit(vectors)
    np.testing.assert_array_equal(encoder(jnp.asarray(vectors)), vectors * np.float32(2.0**power))


def test_vectors_that_are_all_zero_stay_so():
    encoder = ReadyVectors(8, nnx.Rngs(0))
    encoder.bring_to_unit(np.zeros((3, 8), np.float32))
    np.testing.assert_array_equal(encoder(jnp.eye(8)), np.eye(8))


def test_a_new_model_brings_the_data_s_vectors_to_norms_around_1(dataset, one_device):
    vectors = np.random.default_rng(0).normal(size=(len(dataset.images), 9)).astype(np.float32)
    ready = dataclasses.replace(dataset, image_vectors=16 * vectors)
    model = new_model(CONFIG, ready, one_device, seed=0)
    assert isinstance(model.image_encoder, ReadyVectors)
    found = np.linalg.norm(model.image_encoder(jnp.asarray(ready.image_vectors)), axis=1)
    assert 0.7 < np.median(found) < 1.42


def test_a_joint_model_reads_the_data_s_vectors_as_they_are(dataset, one_device):
    vectors = np.random.default_rng(0).normal(size=(len(dataset.images), 9)).astype(np.float32)
    text = VisualBertConfig(width=18, depth=2, heads=2, mlp=10, max_positions=16, visual=9)
    config = dataclasses.replace(CONFIG, modalities="joint", self_attention="none", text=text)
    ready = dataclasses.replace(dataset, image_vectors=16 * vectors)
    encoder = new_model(config, ready, one_device, seed=0).image_encoder
    assert isinstance(encoder, ReadyVectors)
    np.testing.assert_array_equal(encoder(jnp.asarray(ready.image_vectors)), ready.image_vectors)
