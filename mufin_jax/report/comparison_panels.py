"""The page of `mufin compare`: the test points that one run answers better than another."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.compared_runs import FinishedRun
from mufin_jax.evaluation.metrics import listed_in
from mufin_jax.evaluation.paired import CONFIDENCE, RESAMPLES, SEED, Difference, largest
from mufin_jax.report.page import Shown, render_page
from mufin_jax.report.panel import Panel
from mufin_jax.report.run_facts import shown_setting
from mufin_jax.report.thumbnails import Answer, Item, Result, printable, show
from mufin_jax.runtime.errors import InputError

SHOWN = 10
"""Wins, and losses, that are shown of a run."""
PLACES, PICTURES = 5, 4
"""Labels of a list, and pictures of a query, that are shown."""


def comparison_page(
    runs: Sequence[FinishedRun],
    names: Sequence[str],
    against: Sequence[Mapping[str, Difference]],
    settings: Mapping[str, Sequence[Any]],
) -> bytes:
    """Return a page that loads nothing, with the largest wins and losses of each run.

    Args:
        runs: the first one is what the others are compared with.
        names: theirs.
        against: for each run but the first, its differences to the first.
        settings: those that differ, with the value of each run.
    """
    first, metric = runs[0], runs[0].main_metric
    panels = [_results(runs, names), *_differences(names, against)]
    for run, name in zip(runs[1:], names[1:], strict=True):
        gains = run.points[metric] - first.points[metric]
        pair, called = (first, run), (names[0], name)
        for word, signed in (("better", gains), ("worse", -gains)):
            rows = largest(signed, SHOWN)
            title = f"{name}: {len(rows)} test points that it answers {word} than {names[0]}"
            caption = (
                f"At most {SHOWN}: those of the largest difference of {metric}. Right means that "
                "the pair is in the test data; a label marked wrong may still be a good answer."
            )
            panel = Panel(
                f"{word}-{len(panels)}", title, caption, answers=_answers(pair, called, rows)
            )
            if not len(rows):
                panel = dataclasses.replace(panel, missing="there is none")
            panels.append(panel)
    panels += _settings(runs, names, settings)
    about = (
        f"The same {len(first.dataset.test):,} test points, ranked by {len(runs)} finished runs."
    )
    found = {"labels": None}
    title = ", ".join(map(printable, names))
    return render_page(title, found, [Shown(panel) for panel in panels], None, about)


def _results(runs: Sequence[FinishedRun], names: Sequence[str]) -> Panel:
    rows = [
        {"run": name, **{metric: float(values.mean()) for metric, values in run.points.items()}}
        for name, run in zip(names, runs, strict=True)
    ]
    caption = "In percent, after overlap filtering."
    return Panel("results", "Results", caption, {"results": rows}, shown="results")


def _differences(names: Sequence[str], against: Sequence[Mapping[str, Difference]]) -> list[Panel]:
    caption = (
        f"Intervals of {CONFIDENCE:.0%}: paired bootstrap over test points, {RESAMPLES:,} samples, "
        f"seed {SEED}. They tell nothing of other seeds of the training."
    )
    panels = []
    for number, (name, found) in enumerate(zip(names[1:], against, strict=True)):
        rows = [
            {
                "metric": metric, "difference": f"{one.mean:+.2f}",
                "from": None if one.low is None else f"{one.low:+.2f}",
                "to": None if one.high is None else f"{one.high:+.2f}",
                "won": one.won, "lost": one.lost,
            }
            for metric, one in found.items()
        ]  # fmt: skip
        key = f"difference-{number}"
        panels.append(Panel(key, f"{name} minus {names[0]}", caption, {key: rows}, shown=key))
    return panels


def _settings(
    runs: Sequence[FinishedRun], names: Sequence[str], settings: Mapping[str, Sequence[Any]]
) -> list[Panel]:
    differ = [
        {"setting": name, **dict(zip(names, map(shown_setting, values), strict=True))}
        for name, values in settings.items()
    ]
    costs = [run.costs() for run in runs]
    spent = [
        {"cost": cost, **{n: one.get(cost) for n, one in zip(names, costs, strict=True)}}
        for cost in dict.fromkeys(cost for one in costs for cost in one)
    ]
    tables = (("settings", "Settings that differ", differ), ("cost", "Cost", spent))
    return [
        Panel(key, title, "", {key: rows}, shown=key, missing="" if rows else "all are equal")
        for key, title, rows in tables
    ]


def _answers(
    runs: tuple[FinishedRun, FinishedRun], names: tuple[str, str], rows: Int[np.ndarray, " k"]
) -> list[Answer]:
    """Return each test point twice: with the labels of the first run, and of the other one."""
    metric, found = runs[0].main_metric, []
    datasets = [_with_pictures(run) for run in runs]
    for row in rows.tolist():
        for run, name, (dataset, pictured) in zip(runs, names, datasets, strict=True):
            query = show(dataset, dataset.test, row, PICTURES if pictured else 0)
            if run is not runs[0]:
                query = Item(query.id, "", ())
            labels = run.scored.ranking[row, :PLACES]
            right = listed_in(labels[None], _relevant(run, row))[0]
            results = tuple(
                Result(show(dataset, dataset.labels, int(label), int(pictured)), bool(hit))
                for label, hit in zip(labels, right, strict=True)
                if label >= 0
            )
            value = run.points[metric][row]
            found.append(Answer(query, results, f"{printable(name)}: {metric} {value:.1f}"))
    return found


def _relevant(run: FinishedRun, row: int) -> csr_matrix:
    """Return the relevance of one test point; that of a question is its right answer."""
    relevance, questions = run.scored.relevance[[row]], run.dataset.questions
    if questions is None:
        return relevance
    right = questions.answers[row, questions.right[row]]
    relevance = relevance.tolil()
    relevance[0] = 0
    relevance[0, right] = 1
    return relevance.tocsr()


def _with_pictures(run: FinishedRun) -> tuple[Dataset, bool]:
    """Return a run's data with their pictures, if these are there; and whether they are."""
    path: Path = run.folder / "prepare"
    try:
        return Dataset.load(path), True
    except InputError:
        return run.dataset, False
