"""Preparation as a whole: from a raw folder to an opened data set."""

import dataclasses
import errno
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from block_sizes import small_blocks
from places import GOLDEN
from raw_folders import (
    LABEL,
    SIDES,
    break_pictures,
    many_pictures,
    number_of,
    numbered_products,
    picture,
    tiny_repository,
    write_json_lines,
    write_repository,
    write_vectors,
)

from mufin_jax.data import manifest, sparse
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import decode_jpeg
from mufin_jax.data.manifest import MANIFEST
from mufin_jax.data.preparation import prepare as prepare_module
from mufin_jax.data.preparation import resize
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.record_images import load_split
from mufin_jax.data.sparse import load_csr
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import InputError, TooManyBadRows
from mufin_jax.runtime.storage.files import save_sealed

CONFIG = PrepareConfig(image_size=16, max_tokens=8, vocab_size=200)

blocks = small_blocks((resize, "_CHUNK", 1))  # vectors


def prepared(raw, out, config=CONFIG) -> Dataset:
    prepare(config, raw, out)
    return Dataset.load(out, verify=True)


def sides(dataset: Dataset):
    return {"train": dataset.train, "test": dataset.test, "label": dataset.labels}


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """A catalogue whose picture numbers, img.bin lines and ids are in unrelated orders.

    A product can be on several sides under one id. Some share pictures, and some have none.
    """
    rng = np.random.default_rng(0)
    bags = {f"P{i}": rng.permutation(300)[: i % 5].tolist() for i in range(60)}
    bags["P7"] = bags["P8"]
    ids = {
        side: [f"P{i}" for i in rng.permutation(60)[:count]]
        for side, count in zip(SIDES, (50, 30, 40), strict=True)
    }
    titles = {side: [(uid, f"title of {uid}") for uid in ids[side]] for side in SIDES}
    relevance = {side: [[i % 40, (3 * i) % 40] for i in range(len(ids[side]))] for side in SIDES}
    images = {side: [bags[uid] for uid in ids[side]] for side in SIDES}
    order = rng.permutation(300).tolist()
    raw = tmp_path_factory.mktemp("shuffled") / "raw"
    write_repository(raw, titles, relevance, images, order)
    return raw, ids, bags


@pytest.mark.parametrize("store", ["array", "records"])
def test_every_image_reaches_its_own_product(shuffled, store, tmp_path):
    raw, ids, bags = shuffled
    gigabytes = 1.0 if store == "array" else 0.0
    dataset = prepared(raw, tmp_path, PrepareConfig(image_size=16, image_array_gb=gigabytes))
    assert (tmp_path / "images.npy").exists() == (store == "array")
    for name, side in sides(dataset).items():
        assert list(side.ids) == ids[name]
        # As in a batch: in any order, with repeated items.
        for i in np.random.default_rng(1).integers(len(side), size=2 * len(side)):
            pixels = dataset.images[side.images_of(int(i))]
            assert [number_of(image) for image in pixels] == bags[ids[name][i]]


def test_images_and_titles_are_stored_once_in_order_of_first_mention(shuffled, tmp_path):
    raw, ids, bags = shuffled
    dataset = prepared(raw, tmp_path)
    mentioned = dict.fromkeys(n for side in SIDES for uid in ids[side] for n in bags[uid])
    stored = dataset.images[np.arange(len(dataset.images))]
    assert [number_of(image) for image in stored] == list(mentioned)
    uids = dict.fromkeys(uid for side in SIDES for uid in ids[side])
    assert len(dataset.texts) == len(dataset.text_lengths) == len(uids)
    for side in sides(dataset).values():
        for i, uid in enumerate(side.ids):
            wanted, _ = dataset.tokenizer.encode([f"title of {uid}"], dataset.texts.shape[1])
            np.testing.assert_array_equal(dataset.texts[side.text[i]], wanted[0])


@pytest.mark.parametrize(
    ("wanted", "prompt"), [(None, "query: "), ("passage", "passage: "), ("", "")]
)
def test_a_prepared_folder_puts_its_prompt_in_front_of_old_and_new_titles(
    shuffled, tmp_path, wanted, prompt
):
    e5 = GOLDEN / "xlm_roberta"
    config = dataclasses.replace(CONFIG, records=False, tokenizer=str(e5), prompt=wanted)
    dataset = prepared(shuffled[0], tmp_path, config)
    assert dataset.tokenizer.prompt == prompt
    title = dataset.train.titles[0]
    expected, _ = Tokenizer.load(e5, "").encode([f"{prompt}{title}"], 8)
    np.testing.assert_array_equal(dataset.texts[dataset.train.text[0]], expected[0])
    np.testing.assert_array_equal(dataset.tokenizer.encode([title], 8)[0], expected)


def test_records_contain_the_same_items(shuffled, tmp_path):
    raw, ids, bags = shuffled
    prepare(CONFIG, raw, tmp_path)
    for name in SIDES:
        for record, uid in zip(load_split(tmp_path / "records", name), ids[name], strict=True):
            assert record["uid"].decode() == uid
            assert record["title"].decode() == f"title of {uid}"
            assert [number_of(decode_jpeg(image)) for image in record["images"]] == bags[uid]


def test_two_preparations_of_the_same_data_are_byte_identical(shuffled, tmp_path):
    raw = shuffled[0]
    code = (
        "import sys; from pathlib import Path;"
        "from mufin_jax.data.preparation.prepare import PrepareConfig, prepare;"
        "prepare(PrepareConfig(image_size=16), Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    for name in "ab":
        subprocess.run([sys.executable, "-c", code, str(raw), str(tmp_path / name)], check=True)
    names = [path.name for path in (tmp_path / "a").iterdir() if path.is_file()]
    assert len(names) > 18
    for name in set(names) - {"records.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_broken_images_are_removed_from_their_items_and_listed_by_row(tmp_path):
    items = numbered_products(60)
    items[4]["images"] += ["images/200.jpg", "../x.jpg", "https://shop/x.jpg"]
    raw = write_json_lines(tmp_path / "raw", trn=items, tst=items[:9], lbl=[LABEL])
    (raw / "images" / "2.jpg").write_bytes(picture(2)[:200])
    dataset = prepared(raw, tmp_path / "out")
    assert len(dataset.train.images_of(2)) == 0
    found = [number_of(image) for image in dataset.images[dataset.train.images_of(4)]]
    assert found == [4, 200]
    report = json.loads((tmp_path / "out" / "prepare_report.json").read_text())
    # Each distinct image is listed at its first mention; the URL on both sides.
    assert report["counts"] == {"broken image": 2, "image by URL": 2}
    places = [(entry["file"], entry["row"]) for entry in report["listed"]]
    assert places == [("trn.jsonl", 5), ("tst.jsonl", 5), ("trn.jsonl", 3), ("trn.jsonl", 5)]


def test_items_without_text_and_image_lose_their_rows_and_columns(tmp_path):
    titles = {
        "train": [("A", "a"), ("B", ""), ("C", ""), ("D", "d")],
        "test": [("E", ""), ("F", "f")],
        "label": [("X", "x"), ("Y", ""), ("Z", "z")],
    }
    relevance = {"train": [[0, 1], [1], [2], [1, 2]], "test": [[0], [1, 2]]}
    images = {"train": [[], [], [5], []], "test": [[], []], "label": [[], [], [6]]}
    raw = write_repository(tmp_path / "raw", titles, relevance, images)
    dataset = prepared(raw, tmp_path / "out")
    assert list(dataset.train.ids) == ["A", "C", "D"] and list(dataset.labels.ids) == ["X", "Z"]
    assert dataset.train.relevance is not None and dataset.test.relevance is not None
    np.testing.assert_array_equal(dataset.train.relevance.toarray(), [[1, 0], [0, 1], [0, 1]])
    np.testing.assert_array_equal(dataset.test.relevance.toarray(), [[0, 1]])
    assert dataset.train.text.tolist() == [0, -1, 1]
    assert number_of(dataset.images[dataset.train.images_of(1)][0]) == 5
    report = json.loads((tmp_path / "out" / "prepare_report.json").read_text())
    assert report["counts"] == {"empty item": 3}


def test_labels_keep_their_categories_when_others_are_dropped(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    names = [f"category {i % 3}" for i in range(20)]
    (raw / "categories.txt").write_text("\n".join(names) + "\n")
    text = (raw / "raw_data" / "label.raw.txt").read_text().replace("C4->", "C3->")
    (raw / "raw_data" / "label.raw.txt").write_text(text)
    dataset = prepared(raw, tmp_path / "out")
    assert dataset.labels.categories is not None and dataset.num_labels == 19
    codes, categories = dataset.labels.categories
    for uid, code in zip(dataset.labels.ids, codes, strict=True):
        assert categories[int(code)] == f"category {int(uid[1:]) % 3}"


def test_too_many_broken_images_stop_with_the_first_one(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    break_pictures(raw, 5)
    with pytest.raises(TooManyBadRows, match=r"3 of 40 images.*broken image.*train.raw.txt:1"):
        prepare(CONFIG, raw, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("damage", ["no text at all", "no relevant pair"])
def test_a_catalogue_with_nothing_to_learn_is_rejected(damage, tmp_path):
    title = "" if damage == "no text at all" else "t"
    titles = {side: [(f"{side}{i}", title) for i in range(3)] for side in SIDES}
    relevance = {"train": [[], [], []], "test": [[0], [1], [2]]}
    raw = write_repository(tmp_path / "raw", titles, relevance)
    wanted = "none of the 3 train items" if damage == "no text at all" else "no training point"
    with pytest.raises(InputError, match=wanted):
        prepare(CONFIG, raw, tmp_path / "out")


def test_ready_vectors_replace_pictures(tmp_path):
    titles = {side: [(f"{side}{i}", f"title {i}") for i in range(3)] for side in SIDES}
    titles["train"][1] = ("", "bad line")
    vectors = {
        side: (100 * s + np.arange(12)).reshape(4, 3).astype(np.float16)
        for s, side in enumerate(SIDES)
    }
    maps = {"train": [[3], [0], -1], "test": [[1, 0], -1, [2]], "label": [-1, [2], [3, 1]]}
    relevance = {"train": [[0], [1], [2]], "test": [[0], [1], [2]]}
    raw = write_vectors(tmp_path / "raw", titles, relevance, vectors, maps)
    config = PrepareConfig(image_size=16, max_bad=0.2)
    dataset = prepared(raw, tmp_path / "out", config)
    assert dataset.image_vectors is not None and dataset.image_vectors.dtype == np.float32
    assert len(dataset.images) == 0
    assert dataset.num_texts == 3  # of the items that are kept: "bad line" is none of theirs
    kept = {"train": [[3], []], "test": [[1, 0], [], [2]], "label": [[], [2], [3, 1]]}
    for name, side in sides(dataset).items():
        for i, rows in enumerate(kept[name]):
            found = dataset.image_vectors[side.images_of(i)]
            np.testing.assert_array_equal(found, vectors[name][rows])


def test_the_array_of_pictures_takes_no_more_than_it_may(tmp_path):
    """40 pictures of 16 x 16 pixels in three colours are 30,720 bytes."""
    raw = tiny_repository(tmp_path / "raw")
    config = dataclasses.replace(CONFIG, records=False, image_array_gb=30_721 / 1e9)
    assert len(prepared(raw, tmp_path / "out", config).images) == 40
    less = dataclasses.replace(config, image_array_gb=30_719 / 1e9)
    with pytest.raises(InputError, match=r"40 pictures exceed image_array_gb=3.0719e-05: r"):
        prepare(less, raw, tmp_path / "less")


def test_the_preprocessing_of_a_checkpoint_overrides_the_config(tmp_path):
    processing = ImageProcessing(size=8, fit="stretch", mean=(0.1, 0.2, 0.3))
    prepare(CONFIG, tiny_repository(tmp_path / "raw"), tmp_path / "out", processing)
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.processing == processing
    assert dataset.images[np.arange(2)].shape == (2, 8, 8, 3)


def test_an_interrupted_preparation_restarts_and_keeps_other_files(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    out = tmp_path / "out"
    first = prepared(raw, out).manifest
    (out / MANIFEST).unlink()
    (out / "images.npy").write_bytes(b"cut short")
    (out / "label_categories.npz").write_bytes(b"of an earlier catalogue")
    (out / "log.txt").write_text("not ours")
    again = prepared(raw, out)
    assert again.manifest == first and again.labels.categories is None
    assert (out / "log.txt").read_text() == "not ours"


def test_a_killed_second_preparation_leaves_no_valid_folder(tmp_path, monkeypatch):
    raw = tiny_repository(tmp_path / "raw")
    config = PrepareConfig(image_size=16, records=False)
    prepared(raw, tmp_path / "out", config)

    class Killed(BaseException):
        """Like a kill, this runs no cleanup of the library."""

    def kill_at_the_manifest(path, content):
        if path.name == MANIFEST:
            raise Killed
        save_sealed(path, content)

    monkeypatch.setattr(manifest, "save_sealed", kill_at_the_manifest)  # the last file
    with pytest.raises(Killed):
        prepare(config, raw, tmp_path / "out")
    with pytest.raises(InputError):
        Dataset.load(tmp_path / "out")


def test_pictures_that_may_be_stored_nowhere_are_rejected(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    config = PrepareConfig(image_size=16, image_array_gb=1e-5, records=False)
    with pytest.raises(InputError, match="40 pictures exceed image_array_gb=1e-05"):
        prepare(config, raw, tmp_path / "out")


def test_an_output_that_is_a_file_is_rejected(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is not a folder"):
        prepare(CONFIG, raw, tmp_path / "out")


def test_an_output_folder_equal_to_the_source_is_rejected(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    with pytest.raises(InputError, match="both the catalogue and the output"):
        prepare(CONFIG, raw, raw)


@pytest.mark.parametrize(
    "field, value",
    [
        ("image_size", 0),
        ("max_images", 0),
        ("max_tokens", 2),
        ("max_bad", 1.5),
        ("vocab_size", 10),
        ("filter", "some"),
        ("fit", "tile"),
        ("image_array_gb", -1.0),
        ("std", (0.0, 1.0, 1.0)),
    ],
)
def test_an_invalid_config_is_rejected(field, value):
    with pytest.raises((InputError, TypeError)):
        PrepareConfig(**{field: value})


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    code = (
        "import sys, resource; from pathlib import Path;"
        "from mufin_jax.data.preparation.prepare import PrepareConfig, prepare;"
        "prepare(PrepareConfig(image_size=96), Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {}
    for count in (100, 3000):  # 27 kB a picture: 80 MB if they were held
        raw = many_pictures(tmp_path / f"raw{count}", count)
        command = [sys.executable, "-c", code, str(raw), str(tmp_path / f"out{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[count] = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert peaks[3000] - peaks[100] < 40e6


def test_real_photos_without_titles_are_prepared(shared_data, tmp_path):
    dataset = prepared(shared_data("grocery") / "converted", tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.num_labels) == (810, 405, 124)
    assert len(dataset.images) == 810 + 405 + 81  # coarse classes share a photo with a fine one
    assert (dataset.train.text == -1).all() and (dataset.labels.text >= 0).all()
    assert dataset.train.relevance is not None and dataset.train.relevance.nnz == 1620


def test_an_unreadable_source_leaves_the_prepared_folder_intact(tmp_path, monkeypatch):
    raw = tiny_repository(tmp_path / "raw")
    prepared(raw, tmp_path / "out")

    def load_catalogue(*_):
        raise OSError(errno.EIO, "Input/output error", str(raw))

    monkeypatch.setattr(prepare_module, "load_catalogue", load_catalogue)
    with pytest.raises(OSError, match="Input/output error"):
        prepare(CONFIG, raw, tmp_path / "out")
    Dataset.load(tmp_path / "out", verify=True)


def test_an_empty_filter_of_any_size_is_read(tmp_path, monkeypatch):
    points = 20_000_000
    scipy.sparse.save_npz(tmp_path / "filter.npz", scipy.sparse.csr_matrix((points, 3), dtype="f4"))
    assert (tmp_path / "filter.npz").stat().st_size < points / 100
    assert load_csr(tmp_path / "filter.npz", points).shape == (points, 3)

    dataset, told = prepared(tiny_repository(tmp_path / "raw"), tmp_path / "out"), {}
    monkeypatch.setattr(sparse, "check_unfolding", lambda path, more: told.update({path: more}))
    Dataset.load(tmp_path / "out")
    assert len(told) == 4
    for path, more in told.items():
        assert more >= 8 * len(dataset.train if path.name.startswith("train") else dataset.test)
