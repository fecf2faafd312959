"""Panels of queries and their results: figure 1 (by modality) and figure 8."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.rankings import Scored, drop
from mufin_jax.report import figures
from mufin_jax.report.cross_attention import ask
from mufin_jax.report.panel import Missing, Panel
from mufin_jax.report.sample import Asked
from mufin_jax.report.tables import overlap, sample, titles
from mufin_jax.report.thumbnails import Answer, Result, show

PLACES, PICTURES = 5, 6
"""The most results of a query that are shown, and the most pictures of it."""
ANSWERS, ITEMS = 10, 25
"""The most answers of a question that are shown, and the most pictures of its outfit."""


def modalities(asked: Asked) -> Panel:
    """Make figure 1: one query by both modalities, by its pictures, and by its text.

    Raises:
        Missing: if the model, or the data, have only one modality.
    """
    test, rows = asked.dataset.test, asked.rows
    filtered = overlap(asked.dataset)
    filtered = None if filtered is None else filtered[rows]

    def alone(kind: Literal["text", "images"]) -> np.ndarray:
        return drop(ask(asked.predictor, rows, kind), test.pairs[rows], filtered).ranking

    lists = {
        "title and pictures": asked.scored.ranking[rows],
        "pictures alone": alone("images"),
        "title alone": alone("text"),
    }
    places, pictures = _shown(asked.dataset)
    hits = {n: metrics.listed_in(found[:, :places], asked.relevance) for n, found in lists.items()}
    depths = (1, places) if asked.dataset.questions is None else (1,)
    both, *either = (found[:, : depths[-1]].sum(1) for found in hits.values())
    whole = (titles(test)[rows] > 0) & (np.diff(test.image_offsets)[rows] > 0)
    if not whole.any():
        raise Missing("no test point has a title and pictures")
    # The query for which both together find most more than either. Ties: both find something.
    gain = np.where(whole, both - np.maximum(*either), -np.inf) + 0.1 * np.minimum(*either)
    best = int(gain.argmax())
    query = show(asked.dataset, test, int(rows[best]), pictures)
    seen = query, dataclasses.replace(query, title=""), dataclasses.replace(query, pictures=())
    found = [
        Answer(part, _results(asked.dataset, labels[best], right[best]), by)
        for part, (by, labels), right in zip(seen, lists.items(), hits.values(), strict=True)
    ]
    means = [
        {"seen of the query": name, "test points": len(rows)}
        | {f"P@{k}": metrics.precision(labels, asked.relevance, k) for k in depths}
        for name, labels in lists.items()
    ]
    able = np.count_nonzero(whole)
    drawn = (
        f"Of {able:,} test points with a title and pictures, this is the one for which both "
        "together find most more than either"
        if gain[best] >= 1
        else f"For none of {able:,} such test points do both together find more than either"
    )
    if asked.dataset.questions is not None:
        drawn = f"A question's given answers are ranked, and the first one counts as found. {drawn}"
    caption = (
        "One query, by one trained model that sees all of it or only one modality; labels keep "
        f"both. {drawn}: an example, not a measure. The table is the measure."
    )
    tables = {"figure1": _table(found), "figure1_means": means}
    return Panel(
        "figure1", "Figure 1: what each modality finds", caption, tables,
        lambda: figures.answers(found), "figure1_means", found,
    )  # fmt: skip


def predictions(dataset: Dataset, scored: Scored, shown: int, seed: int) -> Panel:
    """Make figure 8: test points drawn by the seed, and the labels predicted for them.

    Args:
        dataset: the prepared folder.
        scored: MUFIN's ranking.
        shown: the number of queries.
        seed: the seed of the draw.
    """
    wanted = np.flatnonzero(np.diff(scored.relevance.indptr))
    pictured = wanted[np.diff(dataset.test.image_offsets)[wanted] > 0]
    wanted = pictured if len(pictured) else wanted
    if not len(wanted):
        raise Missing("no test point has a relevant label")
    rows = wanted[sample(len(wanted), shown, seed)]
    places, pictures = _shown(dataset)
    right = metrics.listed_in(scored.ranking[rows, :places], scored.relevance[rows])
    found = [
        Answer(
            show(dataset, dataset.test, int(row), pictures),
            _results(dataset, scored.ranking[row, :places], hits),
        )
        for row, hits in zip(rows, right, strict=True)
    ]
    if dataset.questions is None:
        caption = (
            f"{len(rows)} test points drawn by the seed, with their {places} best labels. Right "
            "means that the pair is in the test data. A label marked wrong may still be a good "
            "answer."
        )
    else:
        caption = (
            f"{len(rows)} questions drawn by the seed: an outfit that lacks one item (up to "
            f"{pictures} of its pictures), and the answers given to choose from (up to {places}), "
            "the one picked first. Right is the item that was there."
        )
    return Panel(
        "figure8", "Figure 8: predictions", caption, {"figure8": _table(found)},
        lambda: figures.answers(found), answers=found,
    )  # fmt: skip


def _shown(dataset: Dataset) -> tuple[int, int]:
    """Return how many results and how many pictures of a query are shown."""
    if dataset.questions is None:
        return PLACES, PICTURES
    return min(dataset.questions.answers.shape[1], ANSWERS), ITEMS


def _results(
    dataset: Dataset, labels: Int[np.ndarray, "_k"], right: Bool[np.ndarray, " k"]
) -> tuple[Result, ...]:
    """Return the labels of a list's first places, without -1."""
    return tuple(
        Result(show(dataset, dataset.labels, int(label)), bool(hit))
        for label, hit in zip(labels, right, strict=False)
        if label >= 0
    )


def _table(found: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return the CSV rows of queries and their results."""
    return [
        {"query": answer.query.id, "query's title": answer.query.title, "by": answer.by,
         "place": place + 1, "label": result.item.id, "label's title": result.item.title,
         "right": int(result.right)}
        for answer in found
        for place, result in enumerate(answer.results)
    ]  # fmt: skip
