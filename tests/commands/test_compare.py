"""`mufin compare`: runs on the same test points, with intervals, wins and losses."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.commands.app import main
from mufin_jax.commands.compare import names_of
from mufin_jax.data.strings import Strings
from mufin_jax.evaluation import compared_runs
from mufin_jax.evaluation.compared_runs import FinishedRun, load_runs
from mufin_jax.evaluation.paired import METRICS, compare, largest, per_point, per_question
from mufin_jax.evaluation.rankings import drop, evaluate_ranking
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, save_json


def random_case(seed=0, points=40, labels=60, places=30):
    rng = np.random.default_rng(seed)
    ranking = np.stack([rng.permutation(labels)[:places] for _ in range(points)])
    ranking[3, 4:] = -1
    relevant = rng.random((points, labels)) < 0.1
    relevant[5] = False
    relevance = csr_matrix(relevant)
    filter = csr_matrix(rng.random((points, labels)) < 0.05)
    return ranking, relevance, filter


def test_the_means_of_test_points_are_the_metrics_of_the_run():
    ranking, relevance, filter = random_case()
    scored = drop(ranking, relevance, filter)
    whole = evaluate_ranking(ranking, relevance, filter, relevance)
    found = per_point(scored.ranking, scored.relevance)
    assert tuple(found) == METRICS
    for name, values in found.items():
        assert values.mean() == pytest.approx(whole[name])
    short = per_point(scored.ranking[:, :3], scored.relevance)
    assert short["P@5"].mean() <= found["P@5"].mean() and short["P@1"] is not found["P@1"]


def test_answers_that_tie_share_a_question_and_unseen_ones_never_win():
    ranking = np.array([[7, 8, 9], [8, 7, 9], [9, 8, 7], [8, -1, -1]])
    scores = np.array([[2.0, 1, 0], [2, 2, 1], [3, 2, 1], [1, -np.inf, -np.inf]])
    found = per_question(ranking, scores, np.array([7, 7, 7, 7]))
    assert found["FITB"].tolist() == [100, 50, 0, 0]


def test_an_interval_covers_the_true_difference_as_often_as_it_promises():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(100):
        gains = rng.normal(0.3, 1, 60)
        found = compare({"P@1": gains}, {"P@1": np.zeros(60)}, trial)["P@1"]
        inside += found.low < 0.3 < found.high
        assert found.won == np.count_nonzero(gains > 0) and found.won + found.lost == 60
    assert 87 <= inside <= 99


def test_a_difference_is_paired_and_repeats_to_the_bit():
    rng = np.random.default_rng(1)
    hard = rng.normal(50, 30, 200)  # most of the spread is the test points'
    one, other = {"R@10": hard + 1 + rng.normal(0, 1, 200)}, {"R@10": hard}
    found = compare(one, other)["R@10"]
    assert 0.5 < found.low < found.mean < found.high < 1.5
    assert compare(one, other)["R@10"] == found != compare(one, other, 1)["R@10"]
    assert compare({"R@10": hard[:1]}, {"R@10": hard[:1]})["R@10"].low is None


def test_the_largest_gains_come_first_and_only_gains_count():
    assert largest(np.array([0, 3.0, -1, 5, 3]), 10).tolist() == [3, 1, 4]
    assert largest(np.array([0, 3.0, -1, 5, 3]), 2).tolist() == [3, 1]


@pytest.fixture
def runs(minute_run, tmp_path):
    """Two runs on the same test points; the second has better lists, and no pictures."""
    first, second = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for run in (first, second):
        for name in ("evaluate", "finetune/model", "finetune/table"):
            shutil.copytree(minute_run / name, run / name)
        for name in ("metrics.json", "run.json", "finetune/settings.json"):
            shutil.copy(minute_run / name, run / name)
        (run / "prepare").symlink_to(minute_run / "prepare")
    whole = FinishedRun.load(first)
    with np.load(first / "evaluate" / "test.npz") as arrays:
        labels, scores = arrays["labels"].copy(), arrays["scores"]
    for row in range(0, len(labels), 2):  # half of the points: what is right comes first
        right = whole.scored.relevance[[row]].indices
        others = np.setdiff1d(labels[row], [*right, -1])
        labels[row, : len(right) + len(others)] = [*right, *others]
    np.savez(second / "evaluate" / "test.npz", labels=labels, scores=scores)
    settings = load_json(second / "finetune" / "settings.json")
    save_json(second / "finetune" / "settings.json", settings | {"batch_size": 77})
    return first, second


def call(*arguments):
    return main(["compare", *map(str, arguments)], {})


def test_two_runs_are_compared_in_tables_and_in_json(runs, capsys):
    assert call(*runs) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^24 test points +P@1 +P@5 +nDCG@5 +R@10$", shown, re.M)
    gained = re.search(
        r"^nDCG@5 +\+\d+\.\d\d +\+\d.* to \+\d+\.\d\d +(\d+) +0 +(\d+)$", shown, re.M
    )
    assert gained and int(gained[1]) + int(gained[2]) == 24
    assert re.search(r"^finetune.batch_size +40 +77$", shown, re.M)
    assert "b/run minus a/run" in shown and "2,000 samples, seed 0" in shown
    assert re.search(r"^weights of the model, numbers +[\d,]+ ", shown, re.M)
    assert call(*runs, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    whole = load_json(runs[0] / "metrics.json")
    assert found["metrics"]["a/run"]["R@10"] == pytest.approx(whole["R@10"])
    assert found["minus_first"]["b/run"]["nDCG@5"]["won"] == int(gained[1])
    assert found["settings"] == {"finetune.batch_size": {"a/run": 40, "b/run": 77}}


def test_the_page_shows_wins_with_pictures_and_loads_nothing(runs, tmp_path, capsys):
    page = tmp_path / "out" / "page.html"
    page.parent.mkdir()
    assert call(*runs, f"--out={page}") == 0
    text = page.read_text()
    assert "default-src 'none'" in text and "<script" not in text and 'src="http' not in text
    assert "b/run: 10 test points that it answers better than a/run" in text
    assert "b/run: 0 test points that it answers worse" in text and "there is none" in text
    assert text.count('class="answer"') == 20 and "data:image/jpeg" in text
    assert "finetune.batch_size" in text and 'id="facts"' not in text


def test_titles_and_names_on_the_page_are_escaped(runs, tmp_path, monkeypatch):
    whole = FinishedRun.load

    def evil(folder):
        run = whole(folder)
        titles = Strings.pack(["<script>alert(1)</script>"] * len(run.dataset.test))
        test = dataclasses.replace(run.dataset.test, titles=titles)
        return dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, test=test))

    monkeypatch.setattr(compared_runs.FinishedRun, "load", evil)
    monkeypatch.setattr(
        "mufin_jax.report.comparison_panels._with_pictures", lambda run: (run.dataset, False)
    )
    assert call(*runs, f"--out={tmp_path}/page.html") == 0
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text


def test_runs_on_other_test_points_are_rejected_in_one_line(runs, minute_run, monkeypatch):
    first, second = (FinishedRun.load(run) for run in runs)
    data = second.dataset

    def check(said, other):
        monkeypatch.setattr(
            compared_runs.FinishedRun, "load", lambda folder: {"a": first, "b": other}[folder.name]
        )
        with pytest.raises(InputError, match=said) as caught:
            load_runs([Path("a"), Path("b")])
        assert "\n" not in str(caught.value)

    def with_test(**changes):
        test = dataclasses.replace(data.test, **changes)
        return dataclasses.replace(second, dataset=dataclasses.replace(data, test=test))

    ids = list(data.test.ids)
    check(r"other test points \(23 and 24\)", with_test(ids=Strings.pack(ids[:-1])))
    check(
        r"first that differs is number 2: 'q' and",
        with_test(ids=Strings.pack([*ids[:2], "q", *ids[3:]])),
    )
    filter = csr_matrix(([1], ([4], [0])), data.test.pairs.shape)
    check("another overlap filter of test point", with_test(filter=filter))
    relevance = second.scored.relevance.tolil()
    relevance[3, 5] = 1 - relevance[3, 5]
    scored = second.scored._replace(relevance=relevance.tocsr())
    check("another relevant label of test point", dataclasses.replace(second, scored=scored))
    labels = dataclasses.replace(data.labels, ids=Strings.pack(reversed(list(data.labels.ids))))
    renamed = dataclasses.replace(data, labels=labels)
    check("another relevant label", dataclasses.replace(second, dataset=renamed))


def test_other_numbers_of_the_same_labels_are_the_same_test(runs, monkeypatch):
    """A warm start may know more labels: they are compared by their ids."""
    first, second = (FinishedRun.load(run) for run in runs)
    data, count = second.dataset, len(second.dataset.labels)
    order = np.random.default_rng(0).permutation(count)
    ids = Strings.pack([*(data.labels.ids[int(label)] for label in order), "new"])

    def wider(pairs):
        pairs = csr_matrix(pairs)[:, order]
        return csr_matrix((pairs.data, pairs.indices, pairs.indptr), (pairs.shape[0], count + 1))

    test = dataclasses.replace(
        data.test, relevance=wider(data.test.pairs),
        filter=None if data.test.filter is None else wider(data.test.filter),
    )  # fmt: skip
    labels = dataclasses.replace(data.labels, ids=ids)
    other = dataclasses.replace(
        second, dataset=dataclasses.replace(data, labels=labels, test=test),
        scored=second.scored._replace(relevance=wider(second.scored.relevance)),
    )  # fmt: skip
    monkeypatch.setattr(
        compared_runs.FinishedRun, "load", lambda folder: {"a": first, "b": other}[folder.name]
    )
    assert len(load_runs([Path("a"), Path("b")])) == 2


def test_wrong_use_is_answered_in_one_line(runs, tmp_path, capsys):
    first, second = runs
    (second / "evaluate" / "done.json").unlink()
    for arguments, said in (
        ([first], "expected the folders of two or more finished runs"),
        ([first, first], "the same folder is named twice"),
        ([first, tmp_path / "no"], "found no such folder; expected the folder of a run"),
        ([first, second], "its stage evaluate is not finished"),
        ([first, second, "--out=page.pdf"], "expected the name of a page, such as page.html"),
    ):
        assert call(*arguments) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1


def test_runs_are_named_by_as_many_parts_of_their_paths_as_tell_them_apart(tmp_path):
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z"]
    assert names_of(folders[1:]) == ["run", "z"]
    assert names_of(folders[:2]) == ["x/run", "y/run"]
