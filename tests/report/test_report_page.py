"""The parts of the report: a page without scripts, figures, CSV cells, maps and facts."""

import dataclasses
import io
import re
import warnings

import numpy as np
import pytest
from pages import check_contained

from mufin_jax.report import figures, scenes, tables
from mufin_jax.report.page import Shown, number, render_page
from mufin_jax.report.panel import Missing, Panel, panel_or_reason, to_csv
from mufin_jax.report.run_facts import run_facts
from mufin_jax.report.style import drawable, house_style
from mufin_jax.report.thumbnails import Answer, Item, Result, printable
from mufin_jax.report.tsne import spread
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages import report as stage
from mufin_jax.stages.report import ReportConfig

HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "x" * 10_000, "{{ 7 * 7 }}",
    "right \u202etfel\u202c \u200f\u2066", "line\nbreak\ttab \x00\x1b[31m",
    "👩‍🚀 台所 🛋️", "$\\frac{1}{0}$",
    "", "=HYPERLINK(\"http://x\")", "\ud800 lone",
]  # fmt: skip


METRICS = {"labels": 13, "points": 11, "P@1": 1.5, "P@5": 2.5, "R@10": 3.5, "ceiling": None,
           "ms_per_point": 0.5}  # fmt: skip


def test_the_page_says_what_is_left_out_without_categories_or_scenes(dataset):
    unnamed = dataclasses.replace(
        dataset, labels=dataclasses.replace(dataset.labels, categories=None)
    )
    made = panel_or_reason("figure3", "By category", lambda: tables.category_table(unnamed, {}))
    assert "no categories" in made.missing
    with pytest.raises(Missing, match="only the built-in miniature"):
        scenes.scene_pairs(dataset, None)
    text = render_page("x", METRICS, [Shown(made)], run_facts({})).decode()
    assert "Left out: the data name no categories" in text


def hostile_answer(title: str) -> Answer:
    picture = np.zeros((8, 8, 3), np.uint8)
    item = Item(printable(title, 60), printable(title), (picture,))
    bare = dataclasses.replace(item, pictures=())
    return Answer(bare, (Result(item, True), Result(bare, False)))


@pytest.mark.parametrize("title", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_titles_remain_text_on_the_page(title):
    panel = Panel(
        "figure8", title, title, {"table": [{"category": title, title: 1.0}]}, shown="table",
        answers=[hostile_answer(title)],
    )  # fmt: skip
    facts = run_facts({"experiment": {"name": title}, "versions": {title: title}})
    text = render_page(title, METRICS, [Shown(panel)], facts).decode("utf-8")
    elements = check_contained(text)
    assert "49" not in text  # the template of a title is not evaluated
    if "script" in title:
        assert title in elements.text


def test_drawing_a_figure_twice_gives_the_same_bytes(tmp_path):
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
        figures.answers(found).savefig(io.BytesIO(), format="svg")
    assert drawable("台所 lamp 🛋️ $x$", 40) == "□ lamp □ $x$"


@pytest.mark.parametrize(
    ("count", "size"), [(1, (2, 3)), (2, (2, 6)), (3, (4, 6)), (5, (4, 9)), (9, (6, 9))]
)
def test_pictures_are_arranged_in_order_on_white(count, size):
    pictures = [np.full((2, 3, 3), 10 * i, np.uint8) for i in range(count)]
    whole = figures._side_by_side(pictures)
    assert whole.shape == (*size, 3)
    first = whole[::2, ::3, 0].ravel().tolist()
    assert first == [10 * i for i in range(count)] + [255] * (len(first) - count)


def test_titles_lose_direction_marks_and_line_breaks_and_are_cut():
    assert printable("a\u202e b\nc\x00\u200f") == "a b c"
    assert len(printable("word " * 3000)) <= 160 and printable("word " * 3000).endswith("…")


def test_csv_cells_are_not_formulas_and_numbers_have_six_digits():
    content = to_csv([{"title": "=1+1", "value": 1 / 3, "none": None, "n": -3}])
    assert content == b"title,value,none,n\n'=1+1,0.333333,,-3\n"


def test_ids_and_categories_lose_direction_marks_and_line_breaks():
    hostile = "\u202e=SUM(A1)\n\x1b[2J"
    assert to_csv([{"label": hostile}]) == b"label\n'=SUM(A1) [2J\n"
    assert number(hostile) == "=SUM(A1) [2J"


def test_equal_vectors_give_equal_maps_that_keep_groups_apart():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 7), (11, 13, 17), axis=0)
    vectors = centres + 0.05 * rng.normal(size=centres.shape)
    one, other = spread(vectors, 3), spread(vectors, 3)
    np.testing.assert_array_equal(one, other)
    groups = np.repeat(np.arange(3), (11, 13, 17))
    nearest = np.linalg.norm(one[:, None] - one, axis=-1) + np.diag([np.inf] * len(one))
    assert (groups[nearest.argmin(1)] == groups).all()


def test_a_map_of_too_few_vectors_is_left_out_and_of_too_many_rejected():
    with pytest.raises(Missing, match="3 vectors are too few"):
        spread(np.eye(3), 0)
    with pytest.raises(ValueError, match="expected at most 2000"):
        spread(np.zeros((2001, 2)), 0)


def test_facts_contain_hours_and_memory_but_no_folder():
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
def test_invalid_settings_are_rejected_with_the_value(wrong):
    with pytest.raises(InputError, match=re.escape(f"report.{next(iter(wrong))}")):
        ReportConfig(**wrong)
