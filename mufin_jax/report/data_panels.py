"""Panels of counts: the results, warm and cold, table 1, the curves, table 6, figures 3 and 4."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.outfits import OUTFIT_METRICS, PAPER_FITB, POLYVORE_QUESTIONS
from mufin_jax.evaluation.rankings import METRICS
from mufin_jax.evaluation.tables import MM_AMAZON_LABELS, PAPER_TABLE_2
from mufin_jax.evaluation.warm_cold import SHOWN, columns_by_kind, explanation
from mufin_jax.report import figures, tables
from mufin_jax.report.panel import Missing, Panel
from mufin_jax.report.tables import Rankings

PAPER = "Mittal et al., CVPR 2022"
MISSING_PICTURES = "Missing pictures"
WARM_AND_COLD = "Results of warm and of cold test points"


def results(metrics: Mapping[str, Any]) -> Panel:
    """Make table 2's columns: the run's rows, floors, ceiling, and the paper's rows if they fit."""
    rows = {name.replace("_", " "): values for name, values in metrics.get("rows", {}).items()}
    if metrics.get("ceiling") is not None:
        known = "P@1" if "P@1" in metrics else "FITB"
        rows["ceiling: all attributes known"] = {known: metrics["ceiling"]}
    if "questions" in metrics:
        return _answers(metrics, rows)
    if metrics.get("labels") == MM_AMAZON_LABELS:
        published = PAPER_TABLE_2.items()
        rows |= {f"{name}, as published ({PAPER})": values for name, values in published}
    found = {key for row in rows.values() for key in row}
    columns = [key for key in METRICS if key in found] + sorted(found - set(METRICS))
    table = [{"row": name} | {key: row.get(key) for key in columns} for name, row in rows.items()]
    if not table:
        raise Missing("metrics.json holds no rows")
    caption = (
        f"Percent, AUC a share, on {metrics.get('points', 0):,} test points after overlap "
        f"filtering; {metrics.get('points_without_positive', 0):,} of them then have no relevant "
        f"label and score 0. Floors, which need no training: {_floors(metrics)}. Title neighbours "
        "are kNN by TF-IDF, frozen neighbours kNN on the vectors of the untrained model."
    )
    return Panel("results", "Results", caption, {"results": table}, shown="results")


def _floors(metrics: Mapping[str, Any]) -> str:
    return ", ".join(name.replace("_", " ") for name in metrics.get("floors", {}))


def warm_and_cold(metrics: Mapping[str, Any]) -> Panel:
    """Make the table of warm and cold test points."""
    rows = columns_by_kind(metrics)
    if not rows:
        told = explanation(metrics) or "an older version evaluated this run"
        raise Missing(f"there are no two kinds of test points to compare: {told}")
    table = [{"row": name.replace("_", " ")} | row for name, row in rows.items()]
    caption = (
        f"Percent; {explanation(metrics)}. metrics.json holds all metrics of both kinds. "
        "Propensities are those of the whole training set."
    )
    return Panel("warm_cold", WARM_AND_COLD, caption, {"warm_cold": table}, shown="warm_cold")


def missing_pictures(metrics: Mapping[str, Any]) -> Panel:
    """Make the curve of missing pictures."""
    table = [
        {"share": one["share"], "points": one["points"]}
        | {f"{name}: {m}": row[m] for name, row in one["rows"].items() for m in SHOWN}
        for one in metrics["missing_pictures"]
    ]
    caption = (
        "Percent, of all test points, while a share of them shows no pictures. The points are "
        "chosen by a hash of their ids; those without a title keep their pictures. Labels keep "
        "theirs."
    )
    return Panel(
        "missing_pictures", MISSING_PICTURES, caption, {"missing_pictures": table},
        lambda: figures.shares(table), "missing_pictures",
    )  # fmt: skip


def _answers(metrics: Mapping[str, Any], rows: dict[str, Mapping[str, Any]]) -> Panel:
    """Make table 3's columns: fill-in-the-blank and compatibility."""
    if metrics["questions"] == POLYVORE_QUESTIONS:
        published = PAPER_FITB.items()
        rows |= {f"{name}, as published ({PAPER})": {"FITB": value} for name, value in published}
    table = [
        {"row": name} | {key: row.get(key) for key in OUTFIT_METRICS} for name, row in rows.items()
    ]
    caption = (
        f"Percent of {metrics['questions']:,} questions answered right, and of the "
        f"{metrics['questions_unseen']:,} without an item that occurs in training; AUC, a share, "
        f"of {metrics['outfits']:,} outfits to judge. Popularity and nearest title are floors: "
        "they need no training."
    )
    return Panel("results", "Results", caption, {"results": table}, shown="results")


def data(dataset: Dataset) -> Panel:
    """Make table 1."""
    caption = "Tokens are those that the text encoder reads, including the tokens at both ends."
    if dataset.num_labels == MM_AMAZON_LABELS:
        caption += f" The paper has 303,296 labels and 4.91 pictures a product ({PAPER})."
    table = tables.data_table(dataset)
    return Panel("table1", "Table 1: the data", caption, {"table1": table}, shown="table1")


def training(workdir: Path) -> Panel:
    """Make the curves of Modules I and IV."""
    names = {"pretrain": "Module I", "finetune": "Module IV"}
    found = {name: tables.curve(workdir / stage) for stage, name in names.items()}
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        raise Missing("nothing was trained: no stage has a metrics.jsonl")
    caption = (
        "Modules I and IV: the loss of a batch, and the mean cosine of its negatives, which is "
        "near 1 where training has collapsed. Each has a loss of its own; the two are not to be "
        "compared."
    )
    table = {"curves": tables.curve_table(found)}
    return Panel("curves", "Training", caption, table, lambda: figures.curves(found))


def categories(dataset: Dataset, rankings: Rankings) -> Panel:
    """Make table 6 and figure 3."""
    k = 5 if dataset.questions is None else 1
    table = tables.category_table(dataset, rankings, k)
    series = {name: f"{name} P@{k}" for name in rankings}
    caption = f"P@{k} of the test points of each category, those with most points first. " + (
        "A point is of the category that most of its relevant labels have."
        if dataset.questions is None
        else "P@1 is the share of the questions answered right, of equal scores by the answer "
        "given first; a question is of the category of its right answer, and none without one "
        "counts."
    )
    if len(table) > figures.MOST_BARS:
        caption += f" The first {figures.MOST_BARS} are drawn."
    return Panel(
        "figure3", "Table 6 and figure 3: by category", caption, {"table6": table},
        lambda: figures.bars(table, "category", series, f"P@{k}, %"), "table6",
    )  # fmt: skip


def popularity(dataset: Dataset, rankings: Rankings) -> Panel:
    """Make figure 4."""
    if dataset.questions is not None:
        raise Missing(
            "R@10 is of all labels, but test points are questions and rank their given answers"
        )
    table = tables.bin_table(dataset, rankings)
    series = {name: f"{name} R@10" for name in rankings}
    whole = ", ".join(f"{sum(row[c] for row in table):.2f} for {n}" for n, c in series.items())
    return Panel(
        "figure4",
        "Figure 4: frequent and rare labels",
        "Labels in five bins of equal volume (training pairs), from few frequent labels to many "
        f"rare ones. What the bins give to a method's R@10 adds up to it: {whole}.",
        {"figure4": table},
        lambda: figures.volume_bins(table, series),
        shown="figure4",
    )
