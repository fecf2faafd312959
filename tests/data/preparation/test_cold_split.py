"""The cold split leaves out the labels that are test products."""

import logging

import numpy as np
import pytest
from raw_folders import tiny_outfits, write_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.own_labels import own_labels
from mufin_jax.data.preparation.prepare import REPORT, PrepareConfig, prepare
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, save_json

TITLES = {
    "train": [("A", "a chair"), ("B", "a lamp"), ("C", "a desk")],
    "test": [("E", "an elm shelf"), ("F", "a fork"), ("X,Y", "two cups")],
    "label": [
        ("A", "a chair"),
        ("E", "an elm shelf"),
        ("D", "a door"),
        ("X,Y", "two cups"),
        ("X", "x"),
    ],
}
RELEVANCE = {"train": [[1, 2], [2, 3], [0, 4]], "test": [[0, 3], [1], [2, 4]]}
IMAGES = {"train": [[0], [1], [2]], "test": [[3], [], []], "label": [[0], [3, 9], [4], [8], []]}


def prepared(tmp_path, split, relevance=RELEVANCE, titles=TITLES, images=None):
    raw = write_repository(tmp_path / "raw", titles, relevance, images)
    save_json(raw / "ceiling.json", {"P@1": 90.0})
    config = PrepareConfig(image_size=8, records=False, vocab_size=128, max_tokens=8, split=split)
    prepare(config, raw, tmp_path / "out")
    return Dataset.load(tmp_path / "out", verify=True), load_json(tmp_path / "out" / REPORT)


def test_labels_that_are_test_products_leave_both_sides_of_the_data(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found, report = prepared(tmp_path, "cold", images=IMAGES)
    assert list(found.labels.ids) == ["A", "D", "X"]  # X,Y is another item than X
    assert len(found.train) == len(found.test) == 3
    np.testing.assert_array_equal(found.train.pairs.toarray(), [[0, 1, 0], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(found.test.pairs.toarray(), [[1, 0, 0], [0, 0, 0], [0, 1, 1]])
    assert (own_labels(found.test.ids, found.labels.ids) == -1).all()
    assert len(found.images) == 5  # those of the other items: 0 to 4; not 8 and 9
    told = "cold split: 2 of 5 labels are test products and left out, with 2 training pairs and "
    assert told + "2 test pairs; 1 test points have no relevant label any more" in caplog.text
    assert report["cold"] == {
        "labels_left_out": 2,
        "train_pairs_left_out": 2,
        "test_pairs_left_out": 2,
        "test_points_without_a_label_now": 1,
    }
    assert found.manifest["config"]["split"] == "cold"
    assert found.ceiling is None  # it was that of a test with all labels


def test_by_default_all_labels_are_kept(tmp_path):
    found, report = prepared(tmp_path, "given")
    assert len(found.labels) == 5 and "cold" not in report and found.ceiling == {"P@1": 90.0}
    assert "split" not in found.manifest["config"]  # as older versions wrote it


def test_a_split_that_leaves_no_label_is_rejected(tmp_path):
    titles = TITLES | {"label": [("E", "e"), ("F", "f")]}
    with pytest.raises(InputError, match="split=cold: all 2 labels are test products, expected"):
        prepared(tmp_path, "cold", {"train": [[0], [1], [0]], "test": [[1], [0], []]}, titles)


def test_questions_with_given_answers_have_no_cold_split(tmp_path):
    with pytest.raises(InputError, match="split=cold: the test points are questions"):
        prepare(
            PrepareConfig(image_size=8, records=False, split="cold"),
            tiny_outfits(tmp_path / "raw"), tmp_path / "out",
        )  # fmt: skip
