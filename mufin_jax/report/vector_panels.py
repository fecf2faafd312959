"""Panels of the model's vectors: figure 5 (attention, adapted embeddings) and figure 6."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation import metrics
from mufin_jax.report import figures
from mufin_jax.report.cross_attention import HeatMap, heat_map, meet
from mufin_jax.report.panel import Missing, Panel
from mufin_jax.report.sample import Asked
from mufin_jax.report.scenes import (
    CELLS,
    CHANCE,
    LARGEST,
    SHARES,
    TITLE,
    Found,
    look,
    scene_pairs,
)
from mufin_jax.report.style import SERIES
from mufin_jax.report.tables import sample
from mufin_jax.report.thumbnails import Item, printable
from mufin_jax.report.tsne import MOST, spread
from mufin_jax.runtime.storage.npy import mapped

POINTS = 40
"""Test points of figure 5's map, each with five vectors: more would overlap."""
TWINS, OTHERS = "twins", "others wanted"
"""Names of the labels of scene pairs, and of the control."""
MOST_CELLS = 5
"""The preferred maximum of descriptors on each side of a heat map."""


def heat_maps(asked: Asked, truth: Path | None) -> Panel:
    """Make figure 5, left: the attention of a datapoint's descriptors to a label's.

    For the miniature catalogue, whose scenes are known, the panel also counts the scene pairs whose
    largest attention is from the scene to the twin of the object in its background. For outfits, it
    shows a question with its right answer.
    """
    tables: dict[str, Any] = {}
    try:
        twins, others = scene_pairs(asked.dataset, truth)
        found = look(asked.predictor, twins)
    except Missing as reason:
        maps = _maps(asked)
        best = max(maps, key=_contrast)
        why = (
            f"Of the first {len(maps):,} points' pairs with the best-ranked relevant label, the "
            "one with the largest product of a number and its share is shown; pairs of at most "
            f"{MOST_CELLS} descriptors a side come first. Scenes are not counted: {reason}."
        )
    else:
        counted = found.rows(TWINS)
        control = look(asked.predictor, others).rows(OTHERS) if others.points.size else []
        why = _scenes_found(counted, control)
        tables["figure5_scenes"] = counted + control
        best = shown_map(found)
    test, labels = asked.dataset.test, asked.dataset.labels
    dataset, texts = asked.dataset, asked.predictor.loader.num_texts
    rows = [_descriptor(dataset, texts, int(n), test.titles[best.point]) for n in best.rows]
    columns = [_descriptor(dataset, texts, int(n), labels.titles[best.label]) for n in best.columns]
    tables["figure5_heat_map"] = [
        {"point": test.ids[best.point], "point's descriptor": i, "label": labels.ids[best.label],
         "label's descriptor": j, "attention": float(weight),
         "share of its column": float(best.shares[i, j])}
        for (i, j), weight in np.ndenumerate(best.weights)
    ]  # fmt: skip
    caption = (
        "Rows: a test point's descriptors. Columns: those of a relevant label. Numbers: the "
        "cross-attention of one to the other; each row sums to one. Colours: the numbers' shares "
        "of their columns, that is, how much of the attention that a label's descriptor receives "
        f"is from each of the point's descriptors. {why}"
    )
    return Panel(
        "figure5_heat_map", "Figure 5: cross-attention", caption, tables,
        lambda: figures.attention(rows, columns, best.weights, best.shares),
        "figure5_scenes" if "figure5_scenes" in tables else None,
    )  # fmt: skip


def shown_map(found: Found) -> HeatMap:
    """Return the map with the strongest scene; scenes that stand out and small maps come first."""
    seen = found.seen[:, CELLS.index(SHARES)]
    fits = [_fits(one) for one in found.maps]
    return found.maps[np.lexsort((-found.strength, np.logical_not(fits), ~seen))[0]]


def _scenes_found(counted: list[dict[str, Any]], control: list[dict[str, Any]]) -> str:
    (found,) = (row for row in counted if row["cells"] == SHARES)
    said = (
        "The point's scene shows a twin of the label in its background. The figure shows the pair "
        "whose scene gives the twin's pictures most attention; pairs where this stands out, and "
        f"pairs of at most {MOST_CELLS} descriptors a side, come first. Of {found['pairs']:,} "
        "pairs of such a scene and such a label, the largest share is the scene's of a picture of "
        f"the twin in {found[LARGEST]:.0f}% (by chance {found[CHANCE]:.0f}%), and one of the "
        f"label's title in {found[TITLE]:.0f}%"
    )
    for row in control:
        if row["cells"] == SHARES:
            said += (
                "; with labels that are relevant to the same points for another reason, in "
                f"{row[LARGEST]:.0f}% and {row[TITLE]:.0f}%"
            )
    return said + (
        ". The table also counts the numbers themselves: among pairs of pictures, among all that "
        "the label's pictures receive, and with its title, which receives most."
    )


def adapted(asked: Asked) -> Panel:
    """Make figure 5, right: x1, x2 and w of test points with a right and a hard wrong label."""
    kinds = ("x1", "x2+", "x2-", "w+", "w-")
    rows = asked.rows[: max(1, min(asked.vectors, MOST) // len(kinds))]
    ranking = asked.scored.ranking[rows]
    wrong = (ranking >= 0) & ~metrics.listed_in(ranking, asked.scored.relevance[rows])
    right = (ranking >= 0) & ~wrong
    kept = np.asarray(right.any(1) & wrong.any(1))
    if not kept.any():
        raise Missing("no test point has a right and a wrong label among its best-ranked")
    left_out = int(np.count_nonzero(~kept))
    rows, ranking = rows[kept], ranking[kept]
    first = [kind[kept].argmax(1)[:, None] for kind in (right, wrong)]
    named = np.take_along_axis(ranking, np.concatenate(first, 1), 1)
    met = list(meet(asked.predictor, rows, named))
    x1 = np.concatenate([part.x1 for part in met])
    x2 = np.concatenate([part.x2 for part in met])
    w = np.concatenate([part.w for part in met])
    cosines = [
        {"label": name, "test points": len(rows), "x1 with w": _cosine(x1, w[:, i]),
         "x2 with w": _cosine(x2[:, i], w[:, i])}
        for i, name in enumerate(("best-ranked, relevant", "best-ranked, not relevant"))
    ]  # fmt: skip
    n = min(len(rows), POINTS)
    vectors = [x1[:n], x2[:n, 0], x2[:n, 1], w[:n, 0], w[:n, 1]]
    places = spread(np.concatenate(vectors), asked.seed)
    kind, one = np.repeat(np.arange(len(kinds)), n), np.arange(n)
    links = np.concatenate([[one, one + n], [one, one + 2 * n], [one + n, one + 3 * n],
                            [one + 2 * n, one + 4 * n]], axis=1).T  # fmt: skip
    table = [
        {"point": asked.dataset.test.ids[int(rows[i % n])], "vector": kinds[k],
         "x": float(x), "y": float(y)}
        for i, (k, (x, y)) in enumerate(zip(kind, places, strict=True))
    ]  # fmt: skip
    caption = (
        f"t-SNE (seed {asked.seed}) of {n} test points, each with its best-ranked relevant label "
        "(+) and its best-ranked other label (-). x1 is the point alone, x2 the point adapted to "
        "the label, w the label's classifier; lines connect x1, x2 and w. The table has mean "
        "cosines of more points: the effect of cross-attention. Points that lack one of the two "
        f"among their {ranking.shape[1]} best-ranked labels are left out: {left_out} of "
        f"{kept.size:,}."
    )
    tables = {"figure5_map": table, "figure5_cosines": cosines}
    return Panel(
        "figure5_map", "Figure 5: embeddings that adapt to a label", caption, tables,
        lambda: figures.scatter(places, kind, kinds, links), "figure5_cosines",
    )  # fmt: skip


def classifiers(dataset: Dataset, workdir: Path, vectors: int, seed: int) -> Panel:
    """Make figure 6: a map of the labels' classifiers, with the most frequent categories."""
    if dataset.labels.categories is None:
        raise Missing("the data name no categories of their labels (categories.txt)")
    codes, names = dataset.labels.categories
    w = mapped(workdir / "finetune" / "predictor" / "labels" / "w.npy")
    rows = sample(len(w), min(vectors, MOST), seed)
    places = spread(np.asarray(w[rows]), seed)
    most = np.argsort(-np.bincount(codes[rows][codes[rows] >= 0], minlength=len(names)),
                      kind="stable")[: len(SERIES)]  # fmt: skip
    kinds = np.full(len(rows), -1)
    for kind, code in enumerate(most):
        kinds[codes[rows] == code] = kind
    known = [names[int(code)] for code in most]
    table = [
        {"label": dataset.labels.ids[int(row)], "category": names[int(code)] if code >= 0 else "",
         "x": float(x), "y": float(y)}
        for row, code, (x, y) in zip(rows, codes[rows], places, strict=True)
    ]  # fmt: skip
    caption = (
        f"t-SNE (seed {seed}) of the classifiers w of {len(rows):,} of {len(w):,} labels. The "
        f"{len(known)} categories with most labels have a colour and a marker; ties go to those "
        "that the data name first."
    )
    return Panel(
        "figure6", "Figure 6: classifiers", caption, {"figure6": table},
        lambda: figures.scatter(places, kinds, known),
    )  # fmt: skip


def _maps(asked: Asked) -> list[HeatMap]:
    """Return the heat maps of the sample's first points with their best-ranked relevant labels."""
    rows = asked.rows[:512]
    ranking = asked.scored.ranking[rows]
    right = metrics.listed_in(ranking, asked.scored.relevance[rows])
    rows, ranking, right = (part[right.any(1)] for part in (rows, ranking, right))
    labels = ranking[np.arange(len(rows)), right.argmax(1)][:, None] if len(rows) else ranking
    maps: list[HeatMap] = []
    for met in meet(asked.predictor, rows, labels):
        if met.weights is None:
            raise Missing("the model has no cross-attention")
        for weights in met.weights[:, 0]:
            number = len(maps)
            point, label = int(rows[number]), int(labels[number, 0])
            maps.append(heat_map(asked.predictor, point, label, weights))
    maps = [one for one in maps if min(one.weights.shape) > 1]
    if not maps:
        raise Missing(
            "no pair of a point and a relevant label has several descriptors on each side"
        )
    return maps


def _contrast(one: HeatMap) -> float:
    """Return how large a cell is both in its row and in its column; large maps come last."""
    return float((one.weights * one.shares).max()) - (0 if _fits(one) else 1)


def _fits(one: HeatMap) -> bool:
    return max(one.weights.shape) <= MOST_CELLS


def _descriptor(dataset: Dataset, texts: int, number: int, title: str) -> Item:
    """Return a descriptor as an item to show: a picture, or a text (of several, that one).

    Args:
        dataset: the prepared folder.
        texts: the number of descriptors that are texts; they come first.
        number: the descriptor's.
        title: of its item.
    """
    if number < texts:
        labels = dataset.labels
        if labels.text.ndim > 1 or (dataset.test.text.ndim > 1 and dataset.questions is None):
            tokens = dataset.texts[number][: dataset.text_lengths[number]]
            title = dataset.tokenizer.backend.decode(tokens.tolist()).replace(" ##", "")
        elif dataset.test.text.ndim > 1:  # of an outfit, each text is that of a label
            title = labels.titles[int((labels.text == number).argmax())]
        return Item("", printable(title), ())
    row = np.array([number - texts])
    pixels = dataset.images[row] if len(dataset.images) else ()
    return Item("", "" if len(pixels) else "a picture as a vector", tuple(pixels))


def _cosine(one: Float[np.ndarray, "b d"], other: Float[np.ndarray, "b d"]) -> float:
    return float(np.einsum("bd,bd->b", one, other).mean())
