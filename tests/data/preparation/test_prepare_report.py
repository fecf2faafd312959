"""The prepare report tells on one screen what was read, kept and lost."""

import json
import logging

import pytest
from raw_folders import picture, tiny_outfits, tiny_repository, write_json_lines

from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.preparation.report import screen
from mufin_jax.data.readers.tally import Fact

CONFIG = PrepareConfig(image_size=8, records=False, vocab_size=64, max_tokens=8)


def products() -> list[dict]:
    return [
        {"ASIN": f"P{i}", "title": f"lamp {i}", "images": [f"images/{i}.jpg"],
         "also_buy": [f"P{(i + k) % 40}" for k in (1, 2, 3)]} for i in range(40)
    ]  # fmt: skip


def prepared(raw, tmp_path, config=CONFIG) -> tuple[dict, list[str]]:
    """Return the summary's rows by name, and the warnings."""
    prepare(config, raw, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "prepare_report.json").read_text())
    return {row["what"]: row for row in report["summary"]}, report.get("warnings", [])


def numbers(rows: dict, *what: str) -> list[tuple[int, int]]:
    return [(rows[name]["number"], rows[name]["of"]) for name in what]


def test_the_summary_counts_products_relations_and_pictures_with_their_first_examples(tmp_path):
    items = products()
    items[3].update(also_buy=[])
    items[4].update(also_buy=["gone", "lost"])
    items[5]["also_buy"].append("gone")
    items[6].update(images=[])
    items[7].update(title="", images=["images/7.jpg", "https://shop/7.jpg"])
    items[8].update(title="a lamp with legs and more legs and yet more of these legs")
    raw = write_json_lines(tmp_path / "raw", products=[p | {"photo": "x"} for p in items])
    (raw / "images" / "9.jpg").write_bytes(picture(9)[:100])
    rows, _ = prepared(raw, tmp_path)
    assert numbers(rows, "products without a relation", "relations that match nothing") == [
        *((1, 40), (3, 117))
    ]
    assert rows["products without a relation"]["first"] == "products.jsonl:4: P3"
    first = rows["relations that match nothing"]["first"]
    assert first == "2 ids, the first in products.jsonl:5: 'gone'"
    assert numbers(rows, "distinct pictures kept", "broken image") == [(38, 39), (1, 39)]
    assert "9.jpg: cannot be decoded" in rows["broken image"]["first"]
    assert numbers(rows, "products without a match") == [(1, 40)]
    assert numbers(rows, "titles cut at 8 tokens")[0][0] == 1
    assert "a lamp with legs" in rows["titles cut at 8 tokens"]["first"]
    assert rows["items without a title"]["first"].endswith("'P7'")
    assert numbers(rows, "unread field photo (looks like images)") == [(40, 40)]
    assert rows["broken image"]["share"] == pytest.approx(1 / 39, abs=1e-5)


def test_labels_that_training_never_sees_are_counted_and_a_warning_above_a_tenth(tmp_path):
    labels = [{"uid": f"L{i}", "title": f"shelf {i}"} for i in range(10)]
    points = [{"uid": f"T{i}", "title": "oak", "target_ind": [i]} for i in range(9)]
    test = [
        *({**point, "uid": f"Q{i}"} for i, point in enumerate(points[1:])),
        {"uid": "L9", "title": "self", "target_ind": [9]},
    ]
    raw = write_json_lines(tmp_path / "raw", trn=points, tst=test, lbl=labels)
    rows, warnings = prepared(raw, tmp_path)
    assert numbers(rows, "labels without a training pair") == [(1, 10)]
    assert rows["labels without a training pair"]["first"] == "label 'L9'"
    assert numbers(rows, "test points without a label to score") == [(1, 9)]  # its label is itself
    assert [w.partition(":")[0] for w in warnings] == [
        *("no train or test or label item has a picture", "test points without a label to score")
    ]
    points[8]["target_ind"] = [0]
    _, warnings = prepared(write_json_lines(raw, trn=points), tmp_path)
    assert warnings[-2] == ("labels without a training pair: 2 of 10 (20%); the first: label 'L8'")


def test_relations_of_which_most_match_nothing_are_a_warning(tmp_path):
    items = products()
    for item in items:
        item["also_buy"] += ["gone"] * 4
    _, warnings = prepared(write_json_lines(tmp_path / "raw", products=items), tmp_path)
    (warning,) = warnings
    assert warning.startswith("relations that match nothing: 160 of 280 (57%); the first: 1 ids")


@pytest.mark.parametrize("make", [tiny_repository, tiny_outfits])
def test_sound_data_have_a_summary_and_no_warning(make, tmp_path, caplog):
    raw = tmp_path / "raw"
    raw.mkdir()
    if make is tiny_repository:
        raw = raw / "in"
    with caplog.at_level(logging.INFO):
        rows, warnings = prepared(make(raw), tmp_path)
    assert warnings == [] and rows["train items kept"]["share"] == 1
    assert (
        rows["relevant pairs kept"]["share"] == 1 and rows["distinct pictures kept"]["share"] == 1
    )
    lines = [r.getMessage() for r in caplog.records if " kept " in r.getMessage()]
    assert len(lines) == 5 and len({line.index(" of ") for line in lines}) == 1


def test_a_line_of_the_screen_is_short_and_facts_of_nothing_are_left_out():
    lines = screen([
        Fact("train items kept", 0, 10), Fact("broken image", 0, 5),
        Fact("a", 1_234_567, 2_000_000, "x" * 500), Fact("b", 3),
    ])  # fmt: skip
    assert [line.split()[0] for line in lines] == ["train", "a", "b"]
    assert "1,234,567 of   2,000,000   61.7%" in lines[1]
    assert max(map(len, lines)) < 120
