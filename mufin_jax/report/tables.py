"""The report's tables: table 1 (the data), table 6 (by category), figure 4's bins, the curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.evaluation.rankings import Scored, by_category, by_popularity
from mufin_jax.report.panel import Missing
from mufin_jax.runtime.distributed.padding import divide_up
from mufin_jax.runtime.draws import Draw, generator

POINTS_DRAWN = 400
"""The most points of a training curve."""

Rankings = Mapping[str, Scored]


def data_table(dataset: Dataset) -> list[dict[str, Any]]:
    """Make table 1: the numbers of items, and the averages of an item.

    A missing title counts 0 tokens; the tokens of ready text vectors are unknown. Pairs of the
    overlap filter are counted too.
    """
    train, test, labels = dataset.train, dataset.test, dataset.labels
    pairs = train.pairs.nnz
    rows = [
        ("training points, N", len(train)),
        ("labels, L", len(labels)),
        ("test points, N'", len(test)),
        ("labels a training point", pairs / max(len(train), 1)),
        ("training points a label", pairs / max(len(labels), 1)),
        ("labels a test point", test.pairs.nnz / max(len(test), 1)),
        ("tokens a training point", _tokens(dataset, train)),
        ("tokens a label", _tokens(dataset, labels)),
        ("pictures a training point", len(train.image_rows) / max(len(train), 1)),
        ("pictures a label", len(labels.image_rows) / max(len(labels), 1)),
        ("training points without a title, %", _without(titles(train) == 0)),
        ("training points without a picture, %", _without(np.diff(train.image_offsets) == 0)),
    ]
    return [{"measure": name, "value": value} for name, value in rows]


def category_table(dataset: Dataset, rankings: Rankings, k: int = 5) -> list[dict[str, Any]]:
    """Make table 6: P@k of each ranking by category, with the category's test points and labels.

    Raises:
        Missing: if the labels have no categories.
    """
    if dataset.labels.categories is None:
        raise Missing("the data name no categories of their labels (categories.txt)")
    codes, names = dataset.labels.categories[0], list(dataset.labels.categories[1])
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    found = {
        name: by_category(scored.ranking, scored.relevance, codes, names, k)
        for name, scored in rankings.items()
    }
    first = next(iter(found.values()))
    known = {name: int(size) for name, size in zip(names, sizes, strict=True)}
    rows = [
        {"category": category, "test points": int(values["points"]), "labels": known[category]}
        | {f"{name} P@{k}": rows[category][f"P@{k}"] for name, rows in found.items()}
        for category, values in first.items()
    ]
    if not rows:
        raise Missing("no test point has a relevant label of a known category")
    return sorted(rows, key=lambda row: (-row["test points"], row["category"]))


def bin_table(dataset: Dataset, rankings: Rankings) -> list[dict[str, Any]]:
    """Make figure 4's table: what each of five bins of equal volume adds to R@10, by ranking."""
    rows: list[dict[str, Any]] = []
    for name, scored in rankings.items():
        bins = by_popularity(scored.ranking, scored.relevance, dataset.train.pairs)
        if not rows:
            rows = [
                {"bin": i + 1, "labels": one["labels"], "training pairs": one["volume"]}
                for i, one in enumerate(bins)
            ]
        for row, one in zip(rows, bins, strict=True):
            row[f"{name} R@10"] = one["R@10"]
    return rows


def curve(folder: Path) -> list[dict[str, Any]]:
    """Return at most POINTS_DRAWN recorded steps of a training, or none if there is no file."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    with path.open("rb") as lines:
        total = sum(1 for _ in lines)
    every = max(1, divide_up(total, POINTS_DRAWN))
    rows = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if number % every == 0 or number == total - 1:
                rows.append(_line(line))
    return [row for row in rows if row]


def curve_table(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the curves as one table, a row a step."""
    names = ("loss", "negative_cosine", "gradient")
    return [
        {"stage": stage, "step": row["step"]} | {name: row.get(name) for name in names}
        for stage, rows in curves.items()
        for row in rows
    ]


def overlap(dataset: Dataset) -> csr_matrix | None:
    """Return the test points' overlap filter, or None for questions: all their answers count."""
    return dataset.test.filter if dataset.questions is None else None


def titles(side: Side) -> Int[np.ndarray, " n"]:
    """Return the number of titles of each item of a side."""
    return (side.text >= 0).sum(axis=tuple(range(1, side.text.ndim)))


def sample(count: int, most: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return the numbers of at most `most` of `count` things, drawn by the seed, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(generator(seed, Draw.REPORT, count).choice(count, most, replace=False))


def _line(line: bytes) -> dict[str, Any]:
    """Parse a line of metrics; return nothing if a kill has cut it."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    if "cosine" in row:  # the older name of the mean cosine of negatives
        row["negative_cosine"] = row.pop("cosine")
    return row


def _tokens(dataset: Dataset, side: Side) -> float | None:
    if dataset.text_vectors is not None:
        return None
    lengths = np.asarray(dataset.text_lengths)
    return float(lengths[side.text[side.text >= 0]].sum() / max(len(side), 1))


def _without(lacking: np.ndarray) -> float:
    return float(100 * lacking.mean()) if len(lacking) else 0.0
