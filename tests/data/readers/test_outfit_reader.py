"""Polyvore's files: how outfits and questions are read, and how bad entries are reported."""
# ruff: noqa: E501 (the table of bad entries has one a line)

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from raw_folders import number_of, tiny_outfits

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.readers import load_catalogue, outfit_lines, outfits
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError, TooManyBadRows
from mufin_jax.runtime.storage.files import load_json

CONFIG = PrepareConfig(image_size=8, records=False, vocab_size=128, max_tokens=8, max_bad=0.5)


def prepared(raw: Path, config: PrepareConfig = CONFIG) -> Dataset:
    prepare(config, raw, raw.parent / "prepared")
    return Dataset.load(raw.parent / "prepared")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Dataset:
    return prepared(tiny_outfits(tmp_path_factory.mktemp("outfits") / "raw"))


def items_of(dataset: Dataset, labels) -> list[int]:
    return [int(dataset.labels.ids[int(label)]) for label in labels]


def test_each_item_of_a_training_outfit_is_the_label_of_the_other_items(tiny):
    assert list(tiny.train.ids) == [
        *("7_1", "7_2", "7_3", "7_4", "8_1", "8_2", "9_1", "9_2", "9_3", "9_4")
    ]
    wanted = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 1]]
    points = [(item, [i for i in outfit if i != item]) for outfit in wanted for item in outfit]
    for row, (item, others) in enumerate(points):
        assert items_of(tiny, tiny.train.pairs[row].indices) == [item]
        pixels = tiny.images[tiny.train.images_of(row)]
        assert [number_of(image) for image in pixels] == others
        texts = tiny.train.text[row]
        titles = [tiny.labels.text[items_of(tiny, range(17)).index(i)] for i in others]
        assert texts[texts >= 0].tolist() == titles
        assert tiny.train.filter is not None
        assert sorted(items_of(tiny, tiny.train.filter[row].indices)) == sorted(others)


def test_labels_are_the_items_of_training_then_of_test(tiny):
    assert items_of(tiny, range(17)) == [*range(1, 18)]
    assert tiny.labels.titles[0] == "garment 1" and tiny.labels.titles[2] == "url 3"
    assert list(tiny.labels.categories[1]) == ["tops"]


def test_questions_have_their_answers_and_mark_what_training_has_not_seen(tiny):
    questions = tiny.questions
    assert [items_of(tiny, row) for row in questions.answers] == [
        [13, 12, 16, 17],
        [16, 10, 11, 15],
    ]
    assert questions.right.tolist() == [1, 0]
    assert questions.unseen.tolist() == [True, False]  # item 2 is in outfit 7
    assert items_of(tiny, tiny.test.pairs[0].indices) == [12]
    assert tiny.test.titles[0] == "garment 10 | garment 11"
    assert [items_of(tiny, outfit) for outfit in questions.outfits()] == [
        [10, 11, 12],
        [10, 13, 16],
    ]
    assert questions.compatible.tolist() == [True, False]


def test_one_answer_seen_in_training_makes_a_question_seen(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    changed(raw, ASKED, lambda asked: asked[0]["answers"].append("23_3"))  # item 2, of outfit 7
    assert prepared(raw).questions.unseen.tolist() == [False, False]


def test_a_json_file_of_too_many_bytes_is_rejected(tmp_path, monkeypatch):
    raw = tiny_outfits(tmp_path / "raw")
    size = (raw / FACTS).stat().st_size
    monkeypatch.setattr(outfits, "MOST_BYTES", size)
    prepared(raw)
    monkeypatch.setattr(outfits, "MOST_BYTES", size - 1)
    with pytest.raises(InputError, match=f"{FACTS} has {size:,} bytes: expected at most"):
        prepared(raw)


def test_outfits_are_also_read_from_the_folder_itself(tiny, tmp_path):
    found = prepared(tiny_outfits(tmp_path / "raw", where=""))
    assert list(found.train.ids) == list(tiny.train.ids)
    assert found.questions.answers.tolist() == tiny.questions.answers.tolist()


def test_outfits_to_judge_are_optional(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    (raw / "disjoint" / "compatibility_test.txt").unlink()
    assert prepared(raw).questions.outfits() == []


def test_an_answer_without_text_and_picture_cannot_be_chosen(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    changed(
        raw, "polyvore_item_metadata.json", lambda facts: facts["13"].update(title="", url_name="")
    )
    (raw / "images" / "13.jpg").unlink()
    found = prepared(raw)
    assert found.questions.answers[0].tolist()[0] == -1
    assert items_of(found, found.questions.answers[0][1:]) == [12, 16, 17]
    assert [items_of(found, o) for o in found.questions.outfits()] == [[10, 11, 12], [10, 16]]


def changed(raw: Path, name: str, change: Callable) -> None:
    path = raw / name
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


TRAIN, TEST = "disjoint/train.json", "disjoint/test.json"
ASKED, FACTS = "disjoint/fill_in_blank_test.json", "polyvore_item_metadata.json"


@pytest.mark.parametrize(
    ("name", "change", "row", "message"),
    [
        (TRAIN, lambda x: x.append(7), 4, "expected an object, found int"),
        (TRAIN, lambda x: x[1].pop("set_id"), 2, "expected `set_id`, found NoneType"),
        (TRAIN, lambda x: x[1].update(items={}), 2, "expected `items`, found dict"),
        (TRAIN, lambda x: x[1].update(items=[]), 2, "no items"),
        (TRAIN, lambda x: x[1]["items"][0].update(item_id=None), 2, "expected `item_id`, found NoneType"),
        (TRAIN, lambda x: x[1]["items"][0].update(index=2), 2, "index 2 occurs twice"),
        (TRAIN, lambda x: x[1].update(set_id="7"), 2, "set_id 7 occurs in an earlier entry"),
        (TRAIN, lambda x: x[1].update(items=x[1]["items"] * 40), 2, "80 items: expected at most 64"),
        (ASKED, lambda x: x[0]["answers"].append("21_9"), 1, "names '21_9', which is not an item of"),
        (ASKED, lambda x: x[0]["question"].append(["a"] * 10**5), 1, "names list, which is not an item"),
        (ASKED, lambda x: x[0].update(question=[]), 1, "expected items of the outfit, and two or"),
        (ASKED, lambda x: x[0].update(answers=["21_3", "21_3"]), 1, "two or more distinct answers"),
        (ASKED, lambda x: x[0]["answers"].extend([one for one in x[0]["answers"] if one != "21_3"][:1]), 1, "two or more distinct answers"),
        (ASKED, lambda x: x[0]["answers"].remove("21_3"), 1, "0 answers are from the question's outfit"),
        (ASKED, lambda x: x[0]["answers"].append("21_1"), 1, "2 answers are from the question's outfit"),
        (FACTS, lambda x: x.pop("4"), 0, "item 4 is absent"),
        (FACTS, lambda x: x.update({"4": 3}), 4, "item 4 is a int, not an object"),
        (FACTS, lambda x: x["4"].update(image="../../x.jpg"), 1, "../../x.jpg: a path that leads out"),
        (FACTS, lambda x: x["4"].update(image="/etc/passwd"), 1, "/etc/passwd: not a path relative"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_left_out_and_reported_with_file_and_place(
    tmp_path, name, change, row, message
):
    raw = tiny_outfits(tmp_path / "raw")
    changed(raw, name, change)
    prepared(raw)
    (found,) = load_json(tmp_path / "prepared" / "prepare_report.json")["listed"]
    file = TRAIN if "path" in message else name  # a picture is reported where it first occurs
    assert (found["file"], found["row"]) == (file, row) and message in found["reason"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 21_1 21_2", "begins with '2': expected 0 or 1"),
        ("1 21_1", "1 distinct items: expected two or more"),
        ("1 21_1 99_1", "names '99_1', which is not an item of test.json"),
        ("1 " + "21_1 " * 65, "65 items: expected at most 64"),
    ],
)
def test_a_bad_outfit_to_judge_is_left_out_and_reported(tmp_path, line, message):
    raw = tiny_outfits(tmp_path / "raw")
    path = raw / "disjoint" / "compatibility_test.txt"
    path.write_text(f"{line}\n{path.read_text()}")
    assert len(prepared(raw).questions.outfits()) == 2
    (found,) = load_json(tmp_path / "prepared" / "prepare_report.json")["listed"]
    assert found["file"] == "disjoint/compatibility_test.txt" and found["row"] == 1
    assert message in found["reason"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (TRAIN, None, "lacks disjoint/train.json or train.json"),
        (TEST, None, "lacks disjoint/test.json"),
        (TRAIN, "[", "disjoint/train.json is not JSON"),
        (TEST, "\udcff", "disjoint/test.json is not JSON"),
        (TRAIN, "{}", "disjoint/train.json: expected a list, found dict"),
        (FACTS, "[]", "polyvore_item_metadata.json: expected an object, found list"),
        (ASKED, "[" * 100_000, "fill_in_blank_test.json is not JSON"),
        (ASKED, "[]", "fill_in_blank_test.json: none of its 0 entries can be used"),
        (TRAIN, "[]", "train.json: none of its 0 entries can be used"),
    ],
)
def test_an_unusable_file_ends_the_run_with_one_line(tmp_path, name, text, message):
    raw = tiny_outfits(tmp_path / "raw")
    (raw / name).unlink()
    if text is not None:
        (raw / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as raised:
        prepared(raw)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_lead_out_of_the_folder_are_rejected(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    (raw / TEST).rename(tmp_path / "elsewhere.json")
    os.symlink(tmp_path / "elsewhere.json", raw / TEST)
    with pytest.raises(InputError, match="a link that leads out of the data folder"):
        prepared(raw)


def test_too_many_bad_entries_end_the_run(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    changed(raw, ASKED, lambda x: x[0].update(answers=[]))
    with pytest.raises(TooManyBadRows, match="1 of 2 questions are bad"):
        prepared(raw, PrepareConfig(image_size=8, records=False, vocab_size=128))


def test_a_repeated_item_of_an_outfit_counts_once():
    members = [{"item_id": item, "index": i} for i, item in enumerate("abaca")]

    (outfit,) = outfit_lines.read_outfits("f", [{"set_id": 1, "items": members}], Tally(0.0))
    assert outfit.items == ["a", "b", "c"] and outfit.indices == ["0", "1", "3"]
    assert outfit.named["4"] == "a"


def test_a_corrupt_questions_file_is_rejected(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    found, path = prepared(raw), tmp_path / "prepared" / "questions.npz"
    whole = {name: getattr(found.questions, name) for name in np.load(path).files}
    for name, harm in {
        "answers": whole["answers"] + 17,
        "right": whole["right"] + 4,
        "unseen": whole["unseen"][:1],
        "offsets": whole["offsets"] + 1,
        "items": whole["items"].astype(np.float32),
        "compatible": whole["compatible"][:1],
    }.items():
        np.savez(path, **(whole | {name: harm}))
        with pytest.raises(InputError, match="again"):
            Dataset.load(tmp_path / "prepared")


def test_long_titles_of_large_outfits_do_not_fill_the_memory(tmp_path):
    raw = tiny_outfits(tmp_path / "raw")
    members = [{"item_id": str(n), "index": n} for n in range(64)]
    train = [{"set_id": f"s{n}", "items": members} for n in range(8)]
    changed(raw, TRAIN, lambda found: found.extend(train))
    metadata = {str(n): {"title": f"{n} " + "very " * 4000} for n in range(64)}
    (raw / outfits.METADATA).write_text(json.dumps(metadata))  # 1.3 MB
    tally = Tally(0.05)
    tracemalloc.start()
    catalogue = load_catalogue(raw, tally, 15, 10_000_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6  # 640 MB if a point's title had all of the 63 titles
    assert tally.counts["long title"] == 17 + 47
    longest = max(map(len, catalogue.sides["train"].titles))
    assert outfits.MOST_JOINED - outfits.MOST_TITLE < longest <= outfits.MOST_JOINED
    assert catalogue.sides["label"].titles[0] == ("1 " + "very " * 200)[: outfits.MOST_TITLE]


def test_the_title_of_a_point_joins_whole_titles():
    assert outfits._joined(["a", "b c", "d"]) == "a | b c | d"
    assert outfits._joined([]) == ""
    assert outfits._joined(["x" * 4090, "abc", "d"]) == "x" * 4090 + " | abc"  # 4096 characters
    assert outfits._joined(["x" * 4090, "abcd", "d"]) == "x" * 4090
