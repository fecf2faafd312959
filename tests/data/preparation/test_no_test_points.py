"""A user without test points trains on everything; an absent or empty test file is one line."""

import dataclasses
import logging

import numpy as np
import pytest
from raw_folders import write_json_lines

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.config import PrepareConfig
from mufin_jax.data.preparation.prepare import prepare
from mufin_jax.data.readers.hash_split import is_test
from mufin_jax.runtime.errors import InputError

PLAIN = PrepareConfig(vocab_size=64)


def products(count: int, first: int = 0) -> list[dict]:
    return [
        {"ASIN": f"B{i:03}", "title": f"lamp {i}",
         "also_buy": [f"B{(i + k) % count:03}" for k in (1, 2)]}
        for i in range(first, count)
    ]  # fmt: skip


@pytest.mark.parametrize("records", [True, False])
def test_a_test_share_of_zero_trains_on_everything(tmp_path, records):
    raw = write_json_lines(tmp_path / "raw", products=products(30))
    prepare(dataclasses.replace(PLAIN, test_share=0.0, records=records), raw, tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out", verify=True)
    assert (len(dataset.train), len(dataset.test), dataset.num_labels) == (30, 0, 30)


def test_larger_test_shares_hold_the_smaller_ones():
    ids = [f"B{i}" for i in range(2000)]
    held = [{uid for uid in ids if is_test(uid, share)} for share in (0.0, 0.05, 0.2, 0.4)]
    assert not held[0] and held[1] < held[2] < held[3]
    assert held[2] == {uid for uid in ids if is_test(uid)}
    np.testing.assert_allclose([len(some) / 2000 for some in held], (0, 0.05, 0.2, 0.4), atol=0.03)


@pytest.mark.parametrize("empty", [True, False])
def test_an_absent_or_empty_test_file_is_one_line(tmp_path, empty, caplog):
    all_ = products(30)
    raw = write_json_lines(tmp_path / "raw", trn=all_, lbl=all_)
    if empty:
        (raw / "tst.jsonl").write_text("")
    with caplog.at_level(logging.WARNING):
        prepare(PLAIN, raw, tmp_path / "out")
    said = [record.message for record in caplog.records if "test" in record.message]
    assert said == ["tst is absent or empty: there are no test points"]
    assert len(Dataset.load(tmp_path / "out").test) == 0


def test_titles_without_a_test_file_are_prepared(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    titles = "".join(f"B{i}->lamp {i}\n" for i in range(6))
    for name in ("train.raw.txt", "label.raw.txt"):
        (raw / name).write_text(titles)
    (raw / "trn_X_Y.txt").write_text("6 6\n" + "".join(f"{(i + 1) % 6}:1\n" for i in range(6)))
    prepare(PLAIN, raw, tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert (len(dataset.train), len(dataset.test)) == (6, 0)


def test_a_share_of_data_that_have_their_own_split_is_rejected(tmp_path):
    all_ = products(30)
    raw = write_json_lines(tmp_path / "raw", trn=all_, lbl=all_, tst=all_)
    with pytest.raises(InputError, match=r"a file for each side: leave --prepare.test-share out"):
        prepare(dataclasses.replace(PLAIN, test_share=0.0), raw, tmp_path / "out")
    with pytest.raises(InputError, match=r"test_share is 0.9: expected a share from 0 to 0.5"):
        dataclasses.replace(PLAIN, test_share=0.9)
