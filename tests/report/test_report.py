"""The report of a run: the content of its CSV files, and that it is complete."""

import dataclasses
import shutil
from pathlib import Path

import jax
import minute
import numpy as np
import pytest
from pages import check_contained, rows

from mufin_jax.data.dataset import Dataset
from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.run import run
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report import scenes, style
from mufin_jax.report.cross_attention import HeatMap, meet
from mufin_jax.report.page import render_page
from mufin_jax.report.scenes import CELLS, CHANCE, LARGEST, SHARES, TITLE, WHOLE
from mufin_jax.report.tables import sample
from mufin_jax.report.vector_panels import shown_map
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import Stopped
from mufin_jax.runtime.storage.files import load_json
from mufin_jax.stages import report as stage
from mufin_jax.stages.report import ReportConfig

DRAWN = {"curves", "figure1", "figure3", "figure4", "figure5_heat_map", "figure5_map", "figure6",
         "figure8"}  # fmt: skip
TABLES = {"results", "warm_cold", "table1", "curves", "table6", "figure1", "figure1_means",
          "figure4", "figure5_heat_map", "figure5_scenes", "figure5_map", "figure5_cosines",
          "figure6", "figure8"}  # fmt: skip


def files(folder: Path, *kinds: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in kinds}


@pytest.fixture(scope="module")
def reported(minute_run, tmp_path_factory):
    """The report of the minute run after an interruption, and the files of the first attempt."""
    workdir = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(minute_run, workdir)
    shutil.rmtree(workdir / "report")
    config = ReportConfig(points=20, shown=2, vectors=60)
    experiment = dataclasses.replace(minute.MINUTE, workdir=workdir, report=config)
    mesh, draw = make_mesh(jax.devices()[:1]), stage._draw

    def cut_short(*_):
        raise Stopped("report: stopped by a signal")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._STYLE, "savefig.dpi", 40)  # tests do not look at the drawings
        patch.setattr(running, "use_compile_cache", lambda folder: None)
        patch.setattr(stage, "render_page", cut_short)
        patch.setattr(stage, "_draw", lambda panel, folder: "")
        with pytest.raises(Stopped):
            run(experiment, "report", mesh)
        left = files(workdir / "report" / "part", ".csv")
        assert not (workdir / "report" / "index.html").exists()
        assert not (workdir / "report" / "done.json").exists()
        patch.setattr(stage, "render_page", render_page)
        patch.setattr(stage, "_draw", draw)
        run(experiment, "report", mesh)
    return workdir, left


@pytest.mark.slow
def test_every_figure_has_a_png_an_svg_and_a_csv_next_to_the_page(reported):
    folder = reported[0] / "report"
    names = {path.name for path in folder.iterdir()}
    drawn = {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")}
    assert names == drawn | {f"{name}.csv" for name in TABLES} | {
        "index.html", "settings.json", "done.json",
    }  # fmt: skip
    assert all((folder / name).stat().st_size > 20 for name in names)


@pytest.mark.slow
def test_an_interrupted_report_is_made_again_with_the_same_bytes(reported):
    workdir, left = reported
    assert len(left) == len(TABLES) and files(workdir / "report", ".csv") == left
    assert not (workdir / "report" / "part").exists()


@pytest.mark.slow
def test_table_1_counts_the_data(reported):
    found = {row["measure"]: float(row["value"]) for row in rows(reported[0] / "report", "table1")}
    dataset = Dataset.load(reported[0] / "prepare")
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
def test_the_bins_of_figure_4_contain_all_labels_and_add_up_to_recall_at_10(reported):
    found = rows(reported[0] / "report", "figure4")
    assert len(found) == 5 and sum(int(row["labels"]) for row in found) == 30
    wanted = load_json(reported[0] / "metrics.json")["rows"]
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
    wanted = load_json(reported[0] / "metrics.json")["P@5"]
    np.testing.assert_allclose((points * values).sum() / 24, wanted, rtol=1e-4)


@pytest.mark.slow
def test_figure_1_shows_one_query_by_both_and_by_each_modality(reported):
    found = rows(reported[0] / "report", "figure1")
    assert {row["by"] for row in found} == {"title and pictures", "pictures alone", "title alone"}
    assert len({row["query"] for row in found}) == 1 and len(found) == 15
    means = rows(reported[0] / "report", "figure1_means")
    assert [row["test points"] for row in means] == ["20"] * 3


@pytest.mark.slow
def test_figure_8_marks_the_pairs_of_the_test_data_as_right(reported):
    dataset = Dataset.load(reported[0] / "prepare")
    points, labels = list(dataset.test.ids), list(dataset.labels.ids)
    found = rows(reported[0] / "report", "figure8")
    assert len(found) == 10
    for row in found:
        pair = points.index(row["query"]), labels.index(row["label"])
        assert int(row["right"]) == dataset.test.pairs[pair]


@pytest.mark.slow
def test_rows_of_the_heat_map_and_shares_of_its_columns_sum_to_one(reported):
    found = rows(reported[0] / "report", "figure5_heat_map")
    names = ("point's descriptor", "label's descriptor")
    cells = {
        tuple(int(row[name]) for name in names): [
            float(row[name]) for name in ("attention", "share of its column")
        ]
        for row in found
    }
    n, m = (1 + max(place) for place in zip(*cells, strict=True))
    weights, shares = np.moveaxis(
        np.array([[cells[i, j] for j in range(m)] for i in range(n)]), 2, 0
    )
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(shares, weights / weights.sum(0), rtol=1e-3, atol=1e-4)


def shown_on_the_map(workdir):
    """Of the report's 20 points the first 12, where their best hold right and wrong labels."""
    test = Dataset.load(workdir / "prepare").test
    with np.load(workdir / "evaluate" / "test.npz") as ranked:
        rankings = ranked["labels"]
    left = [
        [label for label in ranking if label >= 0 and not test.filter[point, label]]
        for point, ranking in enumerate(rankings)
    ]
    kept = test.pairs.toarray().astype(bool) & ~test.filter.toarray().astype(bool)
    wanted = np.flatnonzero(kept.any(1))
    drawn = wanted[sample(len(wanted), 20, 0)][:12]
    return [p for p in drawn if len({bool(test.pairs[p, label]) for label in left[p][:20]}) == 2]


@pytest.mark.slow
def test_maps_have_coordinates_for_every_vector(reported):
    found = rows(reported[0] / "report", "figure5_map")
    kinds = [row["vector"] for row in found]
    count = len(shown_on_the_map(reported[0]))
    assert count >= 8 and {kind: kinds.count(kind) for kind in set(kinds)} == {
        kind: count for kind in ("x1", "x2+", "x2-", "w+", "w-")
    }
    assert len(rows(reported[0] / "report", "figure6")) == 30


@pytest.mark.slow
def test_cosines_are_of_the_best_ranked_relevant_and_other_labels(reported):
    workdir = reported[0]
    predictor = Predictor.load(workdir, make_mesh(jax.devices()[:1]))
    test = predictor.dataset.test
    points = {row["point"] for row in rows(workdir / "report", "figure5_map")}
    chosen, pairs = [], []
    with np.load(workdir / "evaluate" / "test.npz") as ranked:
        for point, ranking in enumerate(ranked["labels"]):
            if test.ids[point] in points:
                left = [label for label in ranking if label >= 0 and not test.filter[point, label]]
                right = [label for label in left[:20] if test.pairs[point, label]]
                wrong = [label for label in left[:20] if not test.pairs[point, label]]
                chosen.append(point)
                pairs.append((right[0], wrong[0]))
    (met,) = meet(predictor, np.array(chosen), np.array(pairs))
    found = rows(workdir / "report", "figure5_cosines")
    assert chosen == shown_on_the_map(workdir) and len(found) == 2
    for place, row in enumerate(found):
        assert row["test points"] == str(len(chosen)) and ("not" in row["label"]) == bool(place)
        w = met.w[:, place]
        for name, x in (("x1 with w", met.x1), ("x2 with w", met.x2[:, place])):
            wanted = np.mean([a @ b for a, b in zip(x, w, strict=True)])
            assert float(row[name]) == pytest.approx(wanted, abs=1e-5)
    assert found[0]["x1 with w"] != found[1]["x1 with w"] != found[1]["x2 with w"]


@pytest.mark.slow
def test_scene_pairs_are_those_of_the_generator(reported):
    workdir = reported[0]
    dataset, truth = Dataset.load(workdir / "prepare"), workdir / "miniature" / "truth.npz"
    known = np.load(truth)
    found, control = scenes.scene_pairs(dataset, truth)
    wanted, others = [], []
    for point, label in zip(*(part.tolist() for part in dataset.test.pairs.nonzero()), strict=True):
        companion = known["test_companion"][point]
        looks = [known[f"label_{name}"][[label, companion]] for name in ("theme", "kind", "hue")]
        pictures = len(dataset.labels.images_of(label))
        several = pictures + (dataset.labels.text[label] >= 0) > 1 and pictures
        scene = len(dataset.test.images_of(point)) == known["test_pictures"][point] + 1
        if companion >= 0 and scene and several:
            alike = all(one == other for one, other in looks)
            (wanted if alike else others).append((point, label))
    assert list(zip(found.points, found.labels, strict=True)) == wanted and wanted
    shown = {point for point, _ in wanted}
    others = [(point, label) for point, label in others if point in shown]
    assert list(zip(control.points, control.labels, strict=True)) == others and others
    counted = rows(workdir / "report", "figure5_scenes")
    sizes = [str(len(pairs)) for pairs in (wanted, others)]
    assert [row["pairs"] for row in counted] == [sizes[0]] * 4 + [sizes[1]] * 4

    # A point without a relevant twin of its scene is not in the control either.
    without = dataset.test.pairs.tolil(copy=True)
    for point, label in wanted:
        if point == others[0][0]:
            without[point, label] = 0
    fewer = dataclasses.replace(dataset.test, relevance=without.tocsr())
    _, control = scenes.scene_pairs(dataclasses.replace(dataset, test=fewer), truth)
    assert list(zip(control.points, control.labels, strict=True)) == [
        pair for pair in others if pair[0] != others[0][0]
    ]


def heat_map(weights, point=0):
    weights = np.array(weights)
    return HeatMap(point, 0, *map(np.arange, weights.shape), weights)


@pytest.mark.parametrize(
    ("weights", "largest"),
    [([[0.9, 0.1], [0.2, 0.8]], False), ([[0.6, 0.4], [0.2, 0.8]], True)],
)
def test_a_scene_is_found_if_the_largest_cell_is_of_the_scene_and_a_picture(weights, largest):
    seen, _, titled = scenes._sought(heat_map(weights), scene=1, row=1, column=1)
    assert seen[CELLS.index(WHOLE)] is largest and titled[CELLS.index(WHOLE)] is not largest


@pytest.mark.parametrize(
    ("weights", "seen", "titled"),
    [
        # A title attends to a title; only the scene attends to a picture.
        ([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], [1, 1, 1, 0], [0, 0, 0, 1]),
        ([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [1, 0, 0, 0], [0, 0, 1, 0]),  # a title attends to it
        ([[0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], [1, 1, 0, 1], [0, 0, 1, 0]),
        (
            [[0.6, 0.4], [0.2, 0.8], [0.3, 0.7]],
            [0, 0, 0, 0],
            [0, 0, 1, 0],
        ),  # another picture attends to it
    ],
)
def test_titles_compete_in_rows_of_the_point_and_columns_of_the_label(weights, seen, titled):
    found, chance, by_title = scenes._sought(heat_map(weights), scene=2, row=1, column=1)
    assert found == seen and by_title == titled
    np.testing.assert_allclose(chance, [1 / 2, 1 / 3, 1 / 6, 1 / 6])


def test_scenes_are_counted_in_percent_and_an_outstanding_one_is_shown():
    many = np.full((6, 2), 0.5)
    maps = [heat_map(many if i == 3 else [[0.5, 0.5]], i) for i in range(5)]
    seen = np.zeros((5, 4), bool)
    seen[:, CELLS.index(SHARES)] = [False, True, True, True, False]
    chance, titled = np.full((5, 4), 0.25), np.tile([False, False, False, True], (5, 1))
    found = scenes.Found(maps, seen, chance, titled, np.array([9.0, 1.0, 2.0, 3.0, 4.0]))
    # In number 0 something other than the scene stands out; number 3 is too large.
    assert shown_map(found).point == 2
    alone = dataclasses.replace(found, seen=seen & (np.arange(5) == 3)[:, None])
    assert shown_map(alone).point == 3  # too large, but the only one whose scene stands out
    counted = found.rows("twins")
    assert [row[LARGEST] for row in counted] == [0, 0, 60, 0]
    assert [row[CHANCE] for row in counted] == [25] * 4
    assert [row[TITLE] for row in counted] == [None, None, 0, 100]
    assert {row["pairs"] for row in counted} == {5} and counted[0]["labels"] == "twins"


@pytest.mark.slow
def test_the_page_is_self_contained_and_names_no_folder(reported):
    workdir = reported[0]
    text = (workdir / "report" / "index.html").read_text("utf-8")
    elements = check_contained(text)
    assert sum(tag == "h2" for tag, _ in elements.found) == 12
    assert len(text) < 3_000_000
    assert str(workdir) not in text and str(workdir.parent) not in text
    for words in (
        "Table 1",
        "Figure 8",
        "Modules I and IV",
        "seed",
        "jax",
        "pretrain.optimizer.rate",
    ):
        assert words in text
