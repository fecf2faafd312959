"""Products with several texts: further fields of an item become further texts of its bag."""

import csv
import importlib
import json
from pathlib import Path

import minute
import numpy as np
import pytest
from raw_folders import read_catalogue, write_json_lines

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.readers import load_catalogue
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.tally import Tally
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report import vector_panels
from mufin_jax.runtime.errors import InputError

CONFIG = PrepareConfig(
    image_size=8, records=False, vocab_size=128, max_tokens=8, columns=("texts=about,colour",)
)
COUNT = 40


def products() -> list[dict]:
    found = [
        {"ASIN": f"P{i}", "title": f"lamp {i}", "also_buy": [f"P{(i + k) % COUNT}" for k in (1, 2)],
         "about": f"it shines {i}", "colour": ("red", "blue")[i % 2]}
        for i in range(COUNT)
    ]  # fmt: skip
    for i in (4, 12, 20):
        del found[i]["title"]
    found[5]["about"] = None
    found[6] |= {"about": found[6]["title"], "colour": " red "}  # the title again
    return found


def texts_of(path: Path, *columns: str) -> dict[str, list[str]]:
    catalogue = load_catalogue(path, Tally(0.05), 15, 10**7, Columns.parse(columns))
    return {
        side.ids[i]: side.texts_of(i) for side in catalogue.sides.values() for i in range(len(side))
    }


def wanted() -> dict[str, list[str]]:
    fields = ("title", "about", "colour")
    texts = {item["ASIN"]: [item.get(name) or "" for name in fields] for item in products()}
    return {uid: [*dict.fromkeys(t.strip() for t in some if t)] for uid, some in texts.items()}


def write_table(folder: Path, ending: str) -> Path:
    if ending == "parquet":
        table = importlib.import_module("pyarrow").Table.from_pylist(products())
        importlib.import_module("pyarrow.parquet").write_table(table, folder / "products.parquet")
        return folder
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(products()[0]))
        writer.writeheader()
        for item in products():
            writer.writerow(item | {"also_buy": "|".join(item["also_buy"])})
    return folder


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_further_fields_are_further_texts(ending, tmp_path):
    if ending == "jsonl":
        write_json_lines(tmp_path, products=products())
    else:
        write_table(tmp_path, ending)
    assert texts_of(tmp_path, "texts=about,colour") == wanted()


def test_without_the_option_an_item_has_its_title_alone(tmp_path):
    catalogue, _ = read_catalogue(write_json_lines(tmp_path, products=products()))
    assert all(side.texts is None for side in catalogue.sides.values())


def test_lists_objects_and_numbers_are_texts(tmp_path):
    about = ["it shines", ["twice", None], 2.5, float("nan"), True]
    colour = {"a": "red &amp; blue", "b": "", "c": {"d": 3}, "e": None}
    some = products()
    some[7] |= {"about": about, "colour": colour}
    some[8] |= {"about": False, "colour": []}
    write_json_lines(tmp_path, products=some)
    found = texts_of(tmp_path, "texts=about,colour")
    assert found["P7"] == ["lamp 7", "it shines twice 2.5", "a: red & blue; c: d: 3"]
    assert found["P8"] == ["lamp 8"]


def test_a_field_that_no_item_has_is_an_error(tmp_path):
    write_json_lines(tmp_path, products=products())
    with pytest.raises(InputError, match="no item has a value in 'abot', which columns names"):
        texts_of(tmp_path, "texts=about,abot")


def test_a_named_column_may_be_missing_from_one_of_the_files(tmp_path):
    points = [{"ASIN": f"Q{i}", "title": f"query {i}", "goes": ["L1"]} for i in range(3)]
    labels = [{"ASIN": f"L{i}", "title": f"label {i}", "about": "bright"} for i in range(3)]
    write_json_lines(tmp_path, trn=points, tst=points, lbl=labels)
    found = texts_of(tmp_path, "related=goes", "texts=about")
    assert found["Q1"] == ["query 1"] and found["L2"] == ["label 2", "bright"]
    with pytest.raises(InputError, match=r"trn\.jsonl, .*lbl\.jsonl: no item has a value in 'go'"):
        texts_of(tmp_path, "related=go")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("texts")
    prepare(CONFIG, write_json_lines(folder / "raw", products=products()), folder / "prepared")
    return Dataset.load(folder / "prepared")


def test_prepared_items_have_a_bag_of_all_their_texts(prepared):
    expected = wanted()
    for side in (prepared.train, prepared.test, prepared.labels):
        assert side.text.shape == (len(side), 3)
        for i, uid in enumerate(side.ids):
            whole = prepared.tokenizer.encode(expected[uid], 8)
            own = side.text[i][side.text[i] >= 0]
            np.testing.assert_array_equal(prepared.texts[own], whole[0])
    titles = {item["ASIN"]: item.get("title", "") for item in products()}
    for side in (prepared.train, prepared.test, prepared.labels):  # the title alone is shown
        assert list(side.titles) == [titles[uid] for uid in side.ids]


def test_batches_hold_all_texts_of_an_item(prepared, one_device):
    loader = Loader(prepared, "text", one_device)
    _, (bags,) = loader.batch([(prepared.labels, np.arange(4))])
    expected = [len(wanted()[prepared.labels.ids[i]]) for i in range(4)]
    assert bags.mask.sum(1).tolist() == expected


def test_the_report_counts_items_with_several_texts(prepared):
    report = json.loads((prepared.path / "prepare_report.json").read_text())
    assert "empty item" not in report["counts"]  # a description without a title is enough
    items = [*prepared.train.ids, *prepared.test.ids, *prepared.labels.ids]
    (fact,) = [row for row in report["summary"] if row["what"] == "items with several texts"]
    assert fact["number"] == sum(len(wanted()[uid]) > 1 for uid in items)
    assert fact["of"] == len(items) and fact["first"] == "at most 3 texts"
    assert not [row for row in report["summary"] if row["what"].startswith("unread field about")]


def test_the_report_shows_each_text_of_an_item(prepared):
    for side in (prepared.test, prepared.labels):
        for i, uid in enumerate(side.ids):
            rows = [int(row) for row in side.text[i] if row >= 0]
            shown = [
                vector_panels._descriptor(prepared, prepared.num_texts, row, "another title").title
                for row in rows
            ]
            assert shown == wanted()[uid]


def test_ready_vectors_of_texts_with_several_texts_are_an_error(prepared, tmp_path):
    config = PrepareConfig(columns=CONFIG.columns, text_vectors=str(tmp_path))
    with pytest.raises(
        InputError, match=r"one vector an item, and texts=\.\.\. in --prepare.columns"
    ):
        prepare(config, prepared.path.parent / "raw", tmp_path / "out")


@pytest.mark.slow
def test_a_run_trains_evaluates_and_answers_with_several_texts(tmp_path, compiled, one_device):
    raw = write_json_lines(tmp_path / "raw", products=products())
    flags = [f"--data={raw}", "--prepare.columns", *CONFIG.columns, "--model.modalities=text"]
    minute.finish(tmp_path / "run", *flags, "--report.figures", cache=compiled)
    assert minute.metrics(tmp_path / "run" / "evaluate")["rows"]
    predictor = Predictor.load(tmp_path / "run", one_device)
    dataset = predictor.dataset
    assert dataset.labels.text.shape[1] == 3
    expected, scores = next(predictor.rank_side(dataset.test))
    items = [{"titles": wanted()[uid]} for uid in dataset.test.ids]
    answers = predictor.predict(items, 3)
    for row, answer in enumerate(answers):
        assert [one.label for one in answer] == expected[row, :3].tolist()
        np.testing.assert_allclose([one.score for one in answer], scores[row, :3], atol=1e-5)
    assert predictor.predict([{"title": item["titles"][0]} for item in items], 3) != answers
