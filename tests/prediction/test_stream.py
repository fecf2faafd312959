"""Files of items answered: the same bytes after any stop, in every form; bad rows are named."""

import csv
import dataclasses
import gzip
import json
import zlib

import numpy as np
import pytest
from filelock import FileLock
from raw_folders import picture

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.readers.fields import Columns
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.prediction import stream
from mufin_jax.prediction.answer_files import form_of
from mufin_jax.prediction.answers import Prediction, as_json
from mufin_jax.prediction.item_files import ItemFile
from mufin_jax.prediction.items import Item
from mufin_jax.prediction.stream import answer_file
from mufin_jax.runtime.errors import Held, InputError, TooManyBadRows

COUNT = 23
TITLES = [f"lamp, {i} W" for i in range(COUNT)]
FACTS = {"config": {"max_images": 2}, "processing": dataclasses.asdict(ImageProcessing(8))}
DATASET = object.__new__(Dataset)  # nothing else of it is read
object.__setattr__(DATASET, "manifest", FACTS)


def predict(items):
    """Three labels a title or picture, which depend on it alone."""
    answers = []
    for item in items:
        key = zlib.crc32(repr((item.titles, [one.pixels.sum() for one in item.pictures])).encode())
        answers.append([
            Prediction(n, f"label{n}", f"ähnlich, {n}", float(np.float32(1 / n)))
            for n in (key % 7 + 1, key % 11 + 10, key % 13 + 30)
        ])  # fmt: skip
    return answers


def check(item):
    if not item.titles and not item.pictures:
        raise InputError(f"{item.name}: nothing to see")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 3)
    monkeypatch.setattr(stream, "PART", 6)


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    rows = [{"id": f"q{i}", "title": text} for i, text in enumerate(TITLES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(path, out, answer=predict, columns=(), max_bad=0.0, **settings):
    source = ItemFile(path, Columns.parse(columns))
    reader = source.reader(DATASET, check)
    return answer_file(source, out, reader, answer, {"k": 3} | settings, max_bad)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_has_the_answers_that_the_predictor_gives(items, tmp_path):
    summary = ask(items, tmp_path / "out.jsonl")
    found = lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [f"q{i}" for i in range(COUNT)]
    assert [row["row"] for row in found] == [*range(1, COUNT + 1)]
    wanted = predict([Item("", None, [text], []) for text in TITLES])
    assert [row["labels"] for row in found] == [as_json(answer) for answer in wanted]
    assert summary.items == summary.now == COUNT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.jsonl", "out.jsonl"]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "tsv.gz", "parquet"])
def test_a_file_that_was_stopped_gets_the_same_bytes(items, tmp_path, form):
    ask(items, tmp_path / f"whole.{form}")
    out, calls = tmp_path / f"out.{form}", 0

    def stopped(block):
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return predict(block)

    for _ in range(9):
        try:
            ask(items, out, stopped)
        except KeyboardInterrupt:
            assert not out.exists()
        else:
            break
    assert calls == 14  # eight blocks; three calls were stopped, and three blocks answered twice
    assert out.read_bytes() == (tmp_path / f"whole.{form}").read_bytes()


def test_tables_have_a_line_for_each_label(items, tmp_path):
    for form in ("jsonl", "csv", "tsv.gz", "parquet"):
        ask(items, tmp_path / f"out.{form}")
    wanted = [
        (row["row"], row["id"], rank, one["id"], one["title"], one["score"])
        for row in lines(tmp_path / "out.jsonl")
        for rank, one in enumerate(row["labels"], 1)
    ]
    with open(tmp_path / "out.csv", newline="") as file:
        table = [*csv.reader(file)]
    assert table[0] == ["row", "id", "rank", "label", "title", "score"]
    assert table[1:] == [[*map(str, one)] for one in wanted]
    assert [*csv.reader(gzip.open(tmp_path / "out.tsv.gz", "rt"), delimiter="\t")] == table
    parquet = pytest.importorskip("pyarrow.parquet")
    read = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [tuple(row.values()) for row in read] == wanted


def test_items_come_from_tables_without_ids_and_under_other_names(items, tmp_path):
    ask(items, tmp_path / "out.jsonl")
    with gzip.open(tmp_path / "items.csv.gz", "wt") as file:
        csv.writer(file).writerows([["name"], *([text] for text in TITLES)])
    ask(tmp_path / "items.csv.gz", tmp_path / "other.jsonl", columns=["title=name"])
    found, wanted = lines(tmp_path / "other.jsonl"), lines(tmp_path / "out.jsonl")
    assert [row["labels"] for row in found] == [row["labels"] for row in wanted]
    assert "id" not in found[0]


def test_other_options_and_another_input_are_rejected(items, tmp_path):
    out = tmp_path / "out.jsonl"

    def stopped(block):
        if len(block) < 3:
            raise KeyboardInterrupt
        return predict(block)

    with pytest.raises(KeyboardInterrupt):
        ask(items, out, stopped)
    with pytest.raises(InputError, match=r"begun with something else \(k: 3 -> 4\): give what it"):
        ask(items, out, k=4)
    content = items.read_text()
    items.write_text(content.replace("q1", "q2"))
    with pytest.raises(InputError, match=r"begun with something else \(the input file\)"):
        ask(items, out)
    items.write_text(content)
    with FileLock(tmp_path / "out.jsonl.partial" / "lock"):
        with pytest.raises(Held, match="another process writes this file"):
            ask(items, out)
    assert ask(items, out).now == COUNT % 6
    with pytest.raises(InputError, match=r"out.jsonl is there already: delete it, or choose"):
        ask(items, out)


def test_bad_rows_are_left_out_and_named(items, tmp_path):
    rows = items.read_text().splitlines()
    rows[4], rows[9], rows[15] = "{broken", '{"title": " "}', '{"title": 5}'
    items.write_text("\n".join([*rows, ""]))
    out = tmp_path / "out.jsonl"
    expected = r"3 of 23 lines are bad.*first at items.jsonl:5: .*raise --max-bad"
    for _ in range(2):  # what is bad is known after a stop, too
        with pytest.raises(TooManyBadRows, match=expected):
            ask(items, out)
    summary = ask(items, out, max_bad=0.2)
    assert (summary.items, summary.now) == (20, 0)
    assert str(summary) == "20 items; 3 x bad line"
    assert {5, 10, 16}.isdisjoint(row["row"] for row in lines(out))
    assert "nothing to see" in summary.tally.listed[1]["reason"]
    assert "expected `title` to be a string" in summary.tally.listed[2]["reason"]


def test_pictures_lie_next_to_the_file_and_nowhere_else(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    for path in (folder / "a.png", tmp_path / "b.png"):
        path.write_bytes(picture(1))
    (folder / "c.png").write_bytes(b"no picture")
    rows = [["title", "images"]]
    rows += [["lamp", one] for one in ("a.png", "../b.png", "c.png", "http://x/d.png", "")]
    with open(folder / "items.csv", "w") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "out.jsonl"
    with pytest.raises(TooManyBadRows, match=r"2 of 3 images are bad.*first at items.csv:3: "):
        ask(folder / "items.csv", out)
    ask(folder / "items.csv", out, max_bad=0.9)
    shown, *others = (row["labels"] for row in lines(out))
    assert len(others) == 4 and all(other == others[0] for other in others) and shown != others[0]


def test_an_item_shows_as_many_pictures_as_those_of_its_run(tmp_path):
    """The run's max_images is 2 (FACTS): the third picture of a row is named and not seen."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(picture(ord(name)))
    path = tmp_path / "items.jsonl"
    rows = [{"title": "lamp", "images": [f"{name}.png" for name in some]} for some in ("abc", "ab")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = ask(path, tmp_path / "out.jsonl")
    first, second = (row["labels"] for row in lines(tmp_path / "out.jsonl"))
    assert first == second
    assert "1 images beyond the first 2 left out" in summary.tally.listed[0]["reason"]


@pytest.mark.parametrize(
    ("path", "found"),
    [("no.jsonl", "no.jsonl: no such file"), ("a.txt", "a.txt: expected a name that ends in .jso")],
)
def test_what_is_no_file_of_items_is_rejected(tmp_path, path, found):
    (tmp_path / "a.txt").write_text("lamp")
    with pytest.raises(InputError, match=found):
        ItemFile(tmp_path / path, Columns())


def test_answers_of_an_unknown_form_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"out.xlsx: expected a name that ends in .jsonl, .csv"):
        form_of(tmp_path / "out.xlsx")


def test_a_file_without_rows_is_rejected(tmp_path):
    (tmp_path / "items.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match=r"items.jsonl is empty: expected items, a row each"):
        ask(tmp_path / "items.jsonl", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]
