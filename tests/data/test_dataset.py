"""Claims about opening a prepared folder."""

import numpy as np
import pytest
from raw_folders import tiny_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.manifest import MANIFEST
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.strings import Strings
from mufin_jax.data.synthetic.ads import AdsConfig, write_ads
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_sealed, save_sealed
from mufin_jax.runtime.storage.npy import NpyWriter


@pytest.fixture
def folder(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    (raw / "ceiling.json").write_text('{"P@1": 86.5, "explanation": "how"}')
    prepare(PrepareConfig(image_size=8, records=False), raw, tmp_path / "out")
    return tmp_path / "out"


def test_a_prepared_folder_loads_with_all_its_parts(folder):
    dataset = Dataset.load(folder)
    assert len(dataset.train) == len(dataset.test) == 40 and dataset.num_labels == 20
    assert dataset.train.ids[3] == "A3" and dataset.labels.titles[-1] == "green lamp 19"
    assert dataset.texts.shape == (100, 32) and len(dataset.text_lengths) == 100
    assert dataset.texts.dtype == np.int32
    assert dataset.processing.size == 8 and dataset.ceiling == {"P@1": 86.5}
    assert dataset.train.relevance is not None and dataset.train.filter is not None
    assert dataset.train.relevance.shape == dataset.train.filter.shape == (40, 20)
    assert dataset.labels.relevance is None and dataset.image_vectors is None
    assert isinstance(dataset.texts, np.memmap)
    assert dataset.text_vectors is None and dataset.num_texts == 100


def test_ready_text_vectors_replace_token_ids(tmp_path):
    write_ads(AdsConfig(labels=9, points=7, test_points=3, dim=5), tmp_path)
    dataset = Dataset.load(tmp_path)
    assert dataset.text_vectors is not None and dataset.image_vectors is not None
    assert dataset.text_vectors.shape == (19, 5) and dataset.image_vectors.shape == (10, 5)
    assert isinstance(dataset.text_vectors, np.memmap)
    assert dataset.num_texts == 19 and len(dataset.texts) == len(dataset.text_lengths) == 0
    assert len(dataset.images) == 0
    with pytest.raises(InputError, match="texts are ready vectors, which no tokenizer made"):
        _ = dataset.tokenizer


def test_images_come_as_copies_in_the_requested_order(folder):
    images = Dataset.load(folder).images
    pixels = images[np.array([3, 0, 3])]
    np.testing.assert_array_equal(pixels[0], pixels[2])
    assert (pixels[0] != pixels[1]).any() and pixels.flags.writeable


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / MANIFEST).unlink(), "has no manifest.json"),
        (lambda f: (f / MANIFEST).write_text("{"), r"damaged \(wrong SHA-256\)"),
        (lambda f: (f / MANIFEST).write_text("[]"), r"damaged \(wrong SHA-256\)"),
        (lambda f: (f / "images.npy").unlink(), "images.npy: nothing found"),
        (lambda f: (f / "texts.npy").write_bytes(b"short"), "texts.npy: 5 found"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(damage, message, folder):
    damage(folder)
    with pytest.raises(InputError, match=message):
        Dataset.load(folder)


def test_a_folder_of_another_version_must_be_prepared_again(folder):
    save_sealed(folder / MANIFEST, load_sealed(folder / MANIFEST) | {"version": 99})
    with pytest.raises(InputError, match=r"has version 99, expected 1: prepare the data again"):
        Dataset.load(folder)


def test_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        Dataset.load(tmp_path / "absent")


def test_verification_finds_a_flipped_bit_that_sizes_do_not_show(folder):
    data = bytearray((folder / "images.npy").read_bytes())
    data[-7] ^= 1
    (folder / "images.npy").write_bytes(data)
    Dataset.load(folder)
    with pytest.raises(InputError, match=r"images.npy has changed"):
        Dataset.load(folder, verify=True)


def test_pickled_arrays_are_not_loaded(folder):
    items = folder / "train_items.npz"
    np.savez(items, text=np.array([{}], object), allow_pickle=True)
    manifest = load_sealed(folder / MANIFEST)
    manifest["files"]["train_items.npz"]["bytes"] = items.stat().st_size
    save_sealed(folder / MANIFEST, manifest)
    with pytest.raises(InputError, match="cannot be read"):
        Dataset.load(folder)


def test_points_have_pairs_and_labels_have_none(folder):
    dataset = Dataset.load(folder)
    assert dataset.train.pairs is dataset.train.relevance
    with pytest.raises(ValueError, match="'label' has no relevance"):
        _ = dataset.labels.pairs


def test_strings_are_loaded_unchanged(tmp_path):
    texts = ["", "café", "日本", "a" * 300, ""]
    Strings.pack(texts).save(tmp_path / "strings.npz")
    strings = Strings.load(tmp_path / "strings.npz")
    assert list(strings) == texts and len(strings) == 5
    assert strings[-2] == "a" * 300 and strings[1] == "café"
    assert Strings.pack(["\ud800"])[0] == "?"
    with pytest.raises(IndexError):
        strings[5]


def test_rows_written_one_by_one_make_an_ordinary_npy_file(tmp_path):
    rows = np.arange(2 * 3 * 1300, dtype=np.int32).reshape(1300, 3, 2)
    with NpyWriter(tmp_path / "rows.npy", (3, 2), np.int32) as writer:
        for start in range(0, 1300, 7):
            writer.append(rows[start : start + 7])
            np.testing.assert_array_equal(writer.written(), rows[: start + 7])
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy", mmap_mode="r"), rows)
    with NpyWriter(tmp_path / "none.npy", (3, 2), np.int32):
        pass
    assert np.load(tmp_path / "none.npy").shape == (0, 3, 2)
