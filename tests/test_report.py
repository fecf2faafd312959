"""The report: what its CSV files claim; one page without scripts; made as a whole."""

import csv
import dataclasses
import html.parser
import io
import re
import shutil
import warnings
from pathlib import Path

import jax
import minute
import numpy as np
import pytest

from mufin_jax import experiment as experiments
from mufin_jax.data.dataset import Dataset
from mufin_jax.errors import InputError, Stopped
from mufin_jax.experiment import run
from mufin_jax.files import read_json
from mufin_jax.report import counts, figures, scenes, style
from mufin_jax.report.facts import run_facts
from mufin_jax.report.items import Answer, Item, Result, printable
from mufin_jax.report.page import Shown, number, page
from mufin_jax.report.panel import Missing, Panel, panel_or_reason, to_csv
from mufin_jax.report.spread import spread
from mufin_jax.report.style import drawable, house_style
from mufin_jax.sharding import make_mesh
from mufin_jax.stages import report as stage
from mufin_jax.stages.report import ReportConfig

DRAWN = {"curves", "figure1", "figure3", "figure4", "figure5_heat_map", "figure5_map", "figure6",
         "figure8"}  # fmt: skip
TABLES = {"results", "table1", "curves", "table6", "figure1", "figure1_means", "figure4",
          "figure5_heat_map", "figure5_scenes", "figure5_map", "figure5_cosines", "figure6",
          "figure8"}  # fmt: skip
HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "x" * 10_000, "{{ 7 * 7 }}",
    "right \u202etfel\u202c \u200f\u2066", "line\nbreak\ttab \x00\x1b[31m",
    "👩‍🚀 台所 🛋️", "$\\frac{1}{0}$",
    "", "=HYPERLINK(\"http://x\")", "\ud800 lone",
]  # fmt: skip


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path, *kinds: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in kinds}


@pytest.fixture(scope="module")
def reported(minute_run, tmp_path_factory):
    """The report of the minute run, after one that a signal cut short; and what that one left."""
    workdir = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(minute_run, workdir)
    shutil.rmtree(workdir / "report")
    config = ReportConfig(points=20, shown=2, vectors=60)
    experiment = dataclasses.replace(minute.MINUTE, workdir=workdir, report=config)
    mesh, draw = make_mesh(jax.devices()[:1]), stage._draw

    def cut_short(*_):
        raise Stopped("report: stopped by a signal")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._STYLE, "savefig.dpi", 40)  # nobody looks at these
        patch.setattr(experiments, "use_compile_cache", lambda folder: None)
        patch.setattr(stage, "page", cut_short)
        patch.setattr(stage, "_draw", lambda panel, folder: "")
        with pytest.raises(Stopped):
            run(experiment, "report", mesh)
        left = files(workdir / "report" / "part", ".csv")
        assert not (workdir / "report" / "index.html").exists()
        assert not (workdir / "report" / "done.json").exists()
        patch.setattr(stage, "page", page)
        patch.setattr(stage, "_draw", draw)
        run(experiment, "report", mesh)
    return workdir, left


@pytest.mark.slow
def test_every_figure_is_a_png_an_svg_and_a_csv_beside_the_page(reported):
    folder = reported[0] / "report"
    names = {path.name for path in folder.iterdir()}
    drawn = {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")}
    assert names == drawn | {f"{name}.csv" for name in TABLES} | {
        "index.html", "settings.json", "done.json",
    }  # fmt: skip
    assert all((folder / name).stat().st_size > 20 for name in names)


@pytest.mark.slow
def test_a_report_cut_short_is_made_anew_with_the_same_bytes(reported):
    workdir, left = reported
    assert len(left) == len(TABLES) and files(workdir / "report", ".csv") == left
    assert not (workdir / "report" / "part").exists()


@pytest.mark.slow
def test_table_1_counts_the_data(reported):
    found = {row["measure"]: float(row["value"]) for row in rows(reported[0] / "report", "table1")}
    dataset = Dataset.open(reported[0] / "prepare")
    assert found["training points, N"] == 80 and found["labels, L"] == 30
    assert found["test points, N'"] == 24
    pairs = dataset.train.pairs.nnz
    np.testing.assert_allclose(found["labels a training point"], pairs / 80, rtol=1e-5)
    np.testing.assert_allclose(found["training points a label"], pairs / 30, rtol=1e-5)
    titles = [dataset.text_lengths[text] if text >= 0 else 0 for text in dataset.labels.text]
    np.testing.assert_allclose(found["tokens a label"], np.mean(titles), rtol=1e-5)
    pictures = [len(dataset.train.images_of(i)) for i in range(80)]
    np.testing.assert_allclose(found["pictures a training point"], np.mean(pictures), rtol=1e-5)


@pytest.mark.slow
def test_the_bins_of_figure_4_add_up_to_recall_at_10_and_hold_all_labels(reported):
    found = rows(reported[0] / "report", "figure4")
    assert len(found) == 5 and sum(int(row["labels"]) for row in found) == 30
    wanted = read_json(reported[0] / "metrics.json")["rows"]
    for column, row in (
        ("MUFIN R@10", "MUFIN"),
        ("Module I alone R@10", "Module I alone (P-I-bag)"),
    ):
        whole = sum(float(line[column]) for line in found)
        np.testing.assert_allclose(whole, wanted[row]["R@10"], rtol=1e-4)


@pytest.mark.slow
def test_table_6_averages_to_precision_at_5(reported):
    found = rows(reported[0] / "report", "table6")
    points = np.array([int(row["test points"]) for row in found])
    values = np.array([float(row["MUFIN P@5"]) for row in found])
    assert points.sum() == 24  # every test point of the miniature has a label of a category
    wanted = read_json(reported[0] / "metrics.json")["P@5"]
    np.testing.assert_allclose((points * values).sum() / 24, wanted, rtol=1e-4)


@pytest.mark.slow
def test_figure_1_answers_one_query_by_both_and_by_each_modality(reported):
    found = rows(reported[0] / "report", "figure1")
    assert {row["by"] for row in found} == {"title and pictures", "pictures alone", "title alone"}
    assert len({row["query"] for row in found}) == 1 and len(found) == 15
    means = rows(reported[0] / "report", "figure1_means")
    assert [row["test points"] for row in means] == ["20"] * 3


@pytest.mark.slow
def test_figure_8_marks_as_right_what_the_test_data_hold(reported):
    dataset = Dataset.open(reported[0] / "prepare")
    points, labels = list(dataset.test.ids), list(dataset.labels.ids)
    found = rows(reported[0] / "report", "figure8")
    assert len(found) == 10
    for row in found:
        pair = points.index(row["query"]), labels.index(row["label"])
        assert int(row["right"]) == dataset.test.pairs[pair]


@pytest.mark.slow
def test_rows_of_the_heat_map_sum_to_one(reported):
    found = rows(reported[0] / "report", "figure5_heat_map")
    sums: dict[str, float] = {}
    for row in found:
        line = row["point's descriptor"]
        sums[line] = sums.get(line, 0) + float(row["attention"])
    np.testing.assert_allclose(list(sums.values()), 1, atol=1e-5)


@pytest.mark.slow
def test_maps_have_a_place_for_every_vector(reported):
    found = rows(reported[0] / "report", "figure5_map")
    kinds = [row["vector"] for row in found]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        kind: 12 for kind in ("x1", "x2+", "x2-", "w+", "w-")
    }
    assert len(rows(reported[0] / "report", "figure6")) == 30
    cosines = rows(reported[0] / "report", "figure5_cosines")
    assert all(
        -1 <= float(row[name]) <= 1 for row in cosines for name in ("x1 with w", "x2 with w")
    )


@pytest.mark.slow
def test_scene_pairs_are_those_of_the_generator(reported):
    workdir = reported[0]
    dataset, truth = Dataset.open(workdir / "prepare"), workdir / "miniature" / "truth.npz"
    known = np.load(truth)
    found = scenes.scene_pairs(dataset, truth)
    wanted = []
    for point, label in zip(*(part.tolist() for part in dataset.test.pairs.nonzero()), strict=True):
        companion = known["test_companion"][point]
        looks = [known[f"label_{name}"][[label, companion]] for name in ("theme", "kind", "hue")]
        pictures = len(dataset.labels.images_of(label))
        several = pictures + (dataset.labels.text[label] >= 0) > 1 and pictures
        scene = len(dataset.test.images_of(point)) == known["test_pictures"][point] + 1
        if companion >= 0 and scene and all(one == other for one, other in looks) and several:
            wanted.append((point, label))
    assert list(zip(found.points, found.labels, strict=True)) == wanted and wanted
    counted = rows(workdir / "report", "figure5_scenes")
    assert [row["scene pairs"] for row in counted] == [str(len(wanted))] * 2


@pytest.mark.parametrize(
    ("weights", "largest"),
    [([[0.9, 0.1], [0.2, 0.8]], False), ([[0.6, 0.4], [0.2, 0.8]], True)],
)
def test_a_scene_is_found_where_the_largest_cell_is_its_and_a_picture_s(weights, largest):
    assert scenes._largest(np.array(weights), 1, 1) is largest


def test_data_without_categories_or_scenes_say_what_is_left_out(dataset):
    unnamed = dataclasses.replace(
        dataset, labels=dataclasses.replace(dataset.labels, categories=None)
    )
    made = panel_or_reason("figure3", "By category", lambda: counts.category_table(unnamed, {}))
    assert "no categories" in made.missing
    with pytest.raises(Missing, match="only the built-in miniature"):
        scenes.scene_pairs(dataset, None)
    text = page("x", METRICS, [Shown(made)], run_facts({})).decode()
    assert "Left out: the data name no categories" in text


METRICS = {"labels": 13, "points": 11, "P@1": 1.5, "P@5": 2.5, "R@10": 3.5, "ceiling": None,
           "ms_per_point": 0.5}  # fmt: skip


class Elements(html.parser.HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def check_contained(text: str) -> Elements:
    """The page runs nothing and asks for nothing outside of itself."""
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form", "base", "svg"), (
            tag
        )
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href"):
            assert re.match(r"data:image/|#", attributes.get(name, "#")), attributes
    assert "url(" not in text and "@import" not in text
    return elements


@pytest.mark.slow
def test_the_page_is_whole_in_itself_and_names_no_folder(reported):
    workdir = reported[0]
    text = (workdir / "report" / "index.html").read_text("utf-8")
    elements = check_contained(text)
    assert sum(tag == "h2" for tag, _ in elements.found) == 11
    assert len(text) < 3_000_000
    assert str(workdir) not in text and str(workdir.parent) not in text
    for said in (
        "Table 1",
        "Figure 8",
        "Modules I and IV",
        "seed",
        "jax",
        "pretrain.optimizer.rate",
    ):
        assert said in text


def hostile_answer(title: str) -> Answer:
    picture = np.zeros((8, 8, 3), np.uint8)
    item = Item(printable(title, 60), printable(title), (picture,))
    bare = dataclasses.replace(item, pictures=())
    return Answer(bare, (Result(item, True), Result(bare, False)))


@pytest.mark.parametrize("title", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_titles_stay_text_on_the_page(title):
    panel = Panel(
        "figure8", title, title, {"table": [{"category": title, title: 1.0}]}, shown="table",
        answers=[hostile_answer(title)],
    )  # fmt: skip
    facts = run_facts({"experiment": {"name": title}, "versions": {title: title}})
    text = page(title, METRICS, [Shown(panel)], facts).decode("utf-8")
    elements = check_contained(text)
    assert "49" not in text  # the template of a title is not evaluated
    if "script" in title:
        assert title in elements.text


def test_the_same_figure_is_the_same_bytes(tmp_path):
    steps = [{"step": i, "loss": 1 / (1 + i), "cosine": None} for i in range(5)]
    panel = Panel("curves", "", draw=lambda: figures.curves({"Module I": steps}))
    made = []
    for _ in range(2):
        shown = stage._draw(panel, tmp_path)
        made.append([shown, *((tmp_path / f"curves.{k}").read_bytes() for k in ("png", "svg"))])
    assert made[0] == made[1] and shown.startswith("data:image/svg+xml;base64,")


def test_hostile_titles_are_drawn_without_a_missing_glyph():
    found = [hostile_answer(HOSTILE[i]) for i in (0, 2, 6, 7)]
    with warnings.catch_warnings(), house_style():
        warnings.simplefilter("error")
        figures.answers(found, 2).savefig(io.BytesIO(), format="svg")
    assert drawable("台所 lamp 🛋️ $x$", 40) == "□ lamp □ $x$"


def test_titles_lose_what_turns_or_breaks_lines_and_are_cut():
    assert printable("a\u202e b\nc\x00\u200f") == "a b c"
    assert len(printable("word " * 3000)) <= 160 and printable("word " * 3000).endswith("…")


def test_a_csv_cell_is_no_formula_and_numbers_have_six_digits():
    content = to_csv([{"title": "=1+1", "value": 1 / 3, "none": None, "n": -3}])
    assert content == b"title,value,none,n\n'=1+1,0.333333,,-3\n"


def test_ids_and_categories_of_a_table_lose_what_turns_or_breaks_lines():
    hostile = "\u202e=SUM(A1)\n\x1b[2J"
    assert to_csv([{"label": hostile}]) == b"label\n'=SUM(A1) [2J\n"
    assert number(hostile) == "=SUM(A1) [2J"


def test_a_map_is_the_same_for_the_same_vectors_and_keeps_groups_apart():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 7), (11, 13, 17), axis=0)
    vectors = centres + 0.05 * rng.normal(size=centres.shape)
    one, other = spread(vectors, 3), spread(vectors, 3)
    np.testing.assert_array_equal(one, other)
    groups = np.repeat(np.arange(3), (11, 13, 17))
    nearest = np.linalg.norm(one[:, None] - one, axis=-1) + np.diag([np.inf] * len(one))
    assert (groups[nearest.argmin(1)] == groups).all()


def test_a_map_of_few_vectors_is_left_out_and_of_many_refused():
    with pytest.raises(Missing, match="3 vectors are too few"):
        spread(np.eye(3), 0)
    with pytest.raises(ValueError, match="wanted at most 2000"):
        spread(np.zeros((2001, 2)), 0)


def test_facts_tell_hours_and_memory_but_no_folder():
    recorded = {
        "experiment": {"seed": 5, "data": "/somewhere/private/catalogue", "model": {"dim": 8}},
        "seconds": {"pretrain": 10_800.0, "report": 9.0}, "peak_bytes": {"pretrain": 2_000_000_000},
        "devices": ["cpu:0 cpu", "cpu:1 cpu"],
    }  # fmt: skip
    found = run_facts(recorded)
    assert ("data", "catalogue") in found["settings"] and ("model.dim", "8") in found["settings"]
    assert found["stages"] == [("pretrain", "3.0 h", "2.00 GB"), ("all", "3.0 h", "2.00 GB")]
    assert ("devices", "2 x cpu") in found["machine"] and found["seed"] == 5


@pytest.mark.parametrize(
    "wrong", [{"points": 0}, {"shown": 0}, {"vectors": 0}, {"vectors": 2001}], ids=str
)
def test_nonsense_is_refused_with_the_value(wrong):
    with pytest.raises(InputError, match=re.escape(f"report.{next(iter(wrong))}")):
        ReportConfig(**wrong)
