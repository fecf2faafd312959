"""Preparation with ready vectors of texts and of pictures, for a catalogue in any form."""

import logging

import numpy as np
import pytest
from block_sizes import small_blocks
from raw_folders import RELEVANCE, TITLES, tiny_outfits, write_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation import ready as ready_module
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json

IDS = ["G", "other", "A,B", "D", "E", "F", "C"]
"""All ids of `TITLES`, of one side or of several, and one more."""
TEXTS = np.random.default_rng(0).normal(size=(len(IDS), 5)).astype(np.float32)
PICTURES = ["D", "D", "A,B", "D", "E"]
SHOWN = np.random.default_rng(1).normal(size=(len(PICTURES), 4)).astype(np.float32)
SMALL = {"image_size": 8, "records": False, "vocab_size": 128, "max_tokens": 8}

blocks = small_blocks((ready_module, "_BLOCK", 2))


def write(path, ids, vectors):
    np.save(path.with_suffix(".npy"), vectors)
    path.with_suffix(".ids.txt").write_text("".join(f"{uid}\n" for uid in ids))
    return str(path)


@pytest.fixture
def raw(tmp_path):
    write_repository(
        tmp_path / "raw", TITLES, RELEVANCE,
        {side: [[i] for i in range(len(items))] for side, items in TITLES.items()},
    )  # fmt: skip
    return tmp_path / "raw"


@pytest.fixture
def ready(tmp_path):
    """The settings that name all ready vectors."""
    return {
        "text_vectors": write(tmp_path / "texts", IDS, TEXTS),
        "image_vectors": write(tmp_path / "shown", PICTURES, SHOWN),
    }


def prepared(raw, out, **settings):
    prepare(PrepareConfig(**SMALL, **settings), raw, out)
    return Dataset.load(out, verify=True)


def sides(dataset):
    return (dataset.train, dataset.test, dataset.labels)


def test_each_item_has_the_vectors_of_its_id(raw, ready, tmp_path):
    dataset = prepared(raw, tmp_path / "out", **ready)
    assert dataset.text_vectors is not None and dataset.image_vectors is not None
    for side in sides(dataset):
        for i, uid in enumerate(side.ids):
            np.testing.assert_array_equal(
                dataset.text_vectors[side.text[i]], TEXTS[IDS.index(uid)], uid
            )
            wanted = SHOWN[[row for row, named in enumerate(PICTURES) if named == uid]]
            np.testing.assert_array_equal(dataset.image_vectors[side.images_of(i)], wanted, uid)
    assert len(dataset.text_vectors) == 6 and len(dataset.image_vectors) == 5  # each once
    assert len(dataset.train) == 3  # C has no title, but a vector of one


def test_titles_stay_for_the_scores_that_read_them(raw, ready, tmp_path):
    dataset = prepared(raw, tmp_path / "out", **ready)
    assert list(dataset.labels.titles) == ["x", "y", "z", "w"]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_one_kind_of_vectors_leaves_the_other_kind_as_it_is(raw, ready, tmp_path):
    plain = prepared(raw, tmp_path / "plain")
    texts = prepared(raw, tmp_path / "texts out", text_vectors=ready["text_vectors"])
    assert texts.image_vectors is None
    for one, other in zip(sides(texts), sides(plain), strict=True):
        own = [one.image_rows[i] for i in range(len(one.image_rows))]
        places = [list(one.ids).index(uid) for uid in other.ids]
        found = np.array([own[i] for i in places])
        np.testing.assert_array_equal(texts.images[found], plain.images[other.image_rows])
    shown = prepared(raw, tmp_path / "shown out", image_vectors=ready["image_vectors"])
    assert shown.text_vectors is None and shown.num_texts == plain.num_texts


def test_filters_splits_and_held_out_pairs_do_not_depend_on_ready_vectors(raw, ready, tmp_path):
    settings = {"filter": "reciprocal", "validation_share": 0.5, "split": "cold"}
    plain = prepared(raw, tmp_path / "plain", **settings)
    dataset = prepared(raw, tmp_path / "out", **settings, **ready)
    for one, other in zip(sides(dataset)[:2], sides(plain)[:2], strict=True):
        shared = [list(other.ids).index(uid) for uid in one.ids if uid in list(other.ids)]
        own = [i for i, uid in enumerate(one.ids) if uid in list(other.ids)]
        for name in ("relevance", "filter"):
            found, wanted = getattr(one, name), getattr(other, name)
            np.testing.assert_array_equal(found[own].toarray(), wanted[shared].toarray())
    assert list(dataset.labels.ids) == list(plain.labels.ids)


def test_items_without_a_vector_are_counted_and_the_first_one_is_named(raw, tmp_path, caplog):
    path = write(tmp_path / "texts", ["D", "E", "F"], TEXTS[:3])
    with caplog.at_level(logging.WARNING):
        dataset = prepared(raw, tmp_path / "out", text_vectors=path)
    assert "3 of 6 items have no text vector; the first one is 'A,B'" in caplog.text
    report = load_json(tmp_path / "out" / "prepare_report.json")
    assert report["counts"] == {"no text vector": 3}
    assert report["listed"][0]["row"] == 1 and "A,B is not in" in report["listed"][0]["reason"]
    assert dataset.train.text.tolist()[:2] == [-1, -1]
    assert len(dataset.train) == 3  # their pictures are left


def test_an_item_without_vectors_and_pictures_is_dropped(raw, tmp_path):
    texts = write(tmp_path / "texts", ["D", "E", "F", "A,B"], TEXTS[:4])
    shown = write(tmp_path / "shown", ["D"], SHOWN[:1])
    dataset = prepared(raw, tmp_path / "out", text_vectors=texts, image_vectors=shown)
    assert list(dataset.train.ids) == ["A,B", "D"] and "G" not in list(dataset.labels.ids)
    counts = load_json(tmp_path / "out" / "prepare_report.json")["counts"]
    assert counts["empty item"] == 2


def test_no_more_pictures_of_an_item_are_kept_than_allowed(raw, ready, tmp_path):
    dataset = prepared(raw, tmp_path / "out", **ready, max_images=2)
    place = list(dataset.train.ids).index("D")
    found = dataset.image_vectors[dataset.train.images_of(place)]
    np.testing.assert_array_equal(found, SHOWN[:2])


def test_preparing_again_without_ready_vectors_removes_them(raw, ready, tmp_path):
    prepared(raw, tmp_path / "out", **ready)
    dataset = prepared(raw, tmp_path / "out")
    assert dataset.text_vectors is None and dataset.image_vectors is None
    assert not (tmp_path / "out" / "text_vectors.npy").exists()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_ready_vectors_of_outfits_are_rejected(tmp_path, kind):
    tiny_outfits(tmp_path / "raw")
    path = write(tmp_path / "v", ["1"], TEXTS[:1])
    with pytest.raises(InputError, match=rf"prepare.{kind}-vectors=.*: a point of outfits holds"):
        prepared(tmp_path / "raw", tmp_path / "out", **{f"{kind}_vectors": path})
