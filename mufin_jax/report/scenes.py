"""The claim of figure 5 in numbers: attention finds an object's twin in the background of a scene.

The generator of the miniature catalogue knows its scenes: a datapoint's last picture may show a
label in the background, its companion. Labels that look like it are relevant only because of that
picture. In the heat map of such a datapoint and such a label, the largest cell should be that of
the scene and a picture of the label: among the cells of two pictures, among the columns of the
label's pictures, or among all cells. Only the last includes the label's title. Most of the point's
descriptors attend to the title strongly, and the label's pictures, which all show the same object,
share what a row gives them. So all cells are also compared as shares of their columns.

The control are the same datapoints with labels that are relevant for another reason.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from mufin_jax.data.dataset import Dataset
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report.cross_attention import HeatMap, heat_map, meet
from mufin_jax.report.panel import Missing
from mufin_jax.report.tables import titles
from mufin_jax.runtime.storage.npy import load_arrays

PAIRS = 2000
"""The most scene pairs, and the most pairs of the control."""

PICTURES, COLUMNS, SHARES, WHOLE = CELLS = (
    "of two pictures", "of the label's pictures", "all, as shares of their columns", "all",
)  # fmt: skip
"""The cells of a heat map that are compared for the largest."""

LARGEST, CHANCE = "largest from the scene to a picture, %", "by chance, %"
TITLE = "largest to the label's title, %"
"""Columns of the CSV: the share of pairs with such a cell, the share of such cells, and, if titles
are among the cells, the share of pairs whose largest cell is in the column of the label's title
(also of labels without one)."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Relevant pairs of a test point with a scene and a label, of the background or not.

    Attributes:
        points: the test points.
        labels: the labels.
        scene: the scene's place among its point's descriptors.
    """

    points: Int[np.ndarray, " p"]
    labels: Int[np.ndarray, " p"]
    scene: Int[np.ndarray, " p"]


@dataclasses.dataclass(frozen=True)
class Found:
    """The counts of the heat maps of scene pairs.

    Attributes:
        maps: the heat maps.
        seen: (p, 4): whether the largest of `CELLS` is of the scene and a picture of the label.
        chance: (p, 4): the share of cells that are of the scene and a picture of the label.
        titled: (p, 4): whether the largest is in the column of the label's title.
        strength: the scene's total attention to the label's pictures.
    """

    maps: list[HeatMap]
    seen: Bool[np.ndarray, "p 4"]
    chance: Float[np.ndarray, "p 4"]
    titled: Bool[np.ndarray, "p 4"]
    strength: Float[np.ndarray, " p"]

    def rows(self, labels: str) -> list[dict[str, float | int | str | None]]:
        """Return their CSV, a row for each of `CELLS`; `labels` names their labels."""
        shares = (100 * part.mean(0) for part in (self.seen, self.chance, self.titled))
        return [
            {"cells": cells, "labels": labels, "pairs": len(self.seen), LARGEST: float(found),
             CHANCE: float(luck), TITLE: float(title) if cells in (SHARES, WHOLE) else None}
            for cells, found, luck, title in zip(CELLS, *shares, strict=True)
        ]  # fmt: skip


def scene_pairs(dataset: Dataset, truth: Path | None, most: int = PAIRS) -> tuple[Scenes, Scenes]:
    """Return the scene pairs of a miniature catalogue, and those of the control, the first `most`.

    Every scene has another picture of its point next to it. A pair counts only if its label has
    several descriptors, one of them a picture: a map of a single column has no choice.

    Args:
        dataset: the prepared catalogue.
        truth: its `truth.npz`.
        most: the most pairs of each kind.

    Raises:
        Missing: if the data are not the miniature catalogue with drawn scenes, or have no pair.
    """
    if truth is None or not truth.exists():
        raise Missing("only the built-in miniature catalogue knows what its pictures show")
    known, test, labels = load_arrays(truth), dataset.test, dataset.labels
    own, other = known["test_companion"], known["label_companion"]
    if len(own) != len(test) or len(other) != len(labels):
        raise Missing("preparation dropped items that truth.npz counts")
    # If preparation kept fewer pictures than there are, the scene is missing.
    whole = np.diff(test.image_offsets) == known["test_pictures"] + (own >= 0)
    images = np.diff(labels.image_offsets)
    pictured = (images > 0) & (images + titles(labels) > 1)
    pairs = test.pairs.tocoo()
    seen = own[pairs.row]
    counts = (seen >= 0) & whole[pairs.row] & pictured[pairs.col]
    alike = counts.copy()
    for name in ("label_theme", "label_kind", "label_hue"):
        alike &= known[name][pairs.col] == known[name][seen]
    if not alike.any():
        raise Missing("no test point has a scene that shows a twin of a relevant label")
    others = counts & ~alike & np.isin(pairs.row, pairs.row[alike])
    scene = titles(test) + known["test_pictures"]

    def first(chosen: Bool[np.ndarray, " pairs"]) -> Scenes:
        where = np.flatnonzero(chosen)[:most]
        return Scenes(pairs.row[where], pairs.col[where], scene[pairs.row[where]])

    return first(alike), first(others)


def look(predictor: Predictor, pairs: Scenes) -> Found:
    """Return the heat maps of scene pairs; all processes of a run must call this together.

    Raises:
        Missing: if the model sees only one modality, or has no cross-attention.
    """
    points, labels = predictor.dataset.test, predictor.dataset.labels
    if predictor.model.config.modalities != "both" or not predictor.model.config.label_images:
        raise Missing("the model does not see all titles and pictures")
    maps: list[HeatMap] = []
    sought, strength = [], []
    for met in meet(predictor, pairs.points, pairs.labels[:, None]):
        if met.weights is None:
            raise Missing("the model has no cross-attention")
        for weights in met.weights[:, 0]:
            number = len(maps)
            point, label = int(pairs.points[number]), int(pairs.labels[number])
            scene = int(pairs.scene[number])
            one = heat_map(predictor, point, label, weights)
            texts = points.text[point], labels.text[label]  # of an item, one or several
            row, column = (int(np.count_nonzero(own >= 0)) for own in texts)
            maps.append(one)
            sought.append(_sought(one, scene, row, column))
            strength.append(one.weights[scene, column:].sum())
    seen, chance, titled = (np.array(part) for part in zip(*sought, strict=True))
    return Found(maps, seen, chance, titled, np.array(strength))


def _sought(
    one: HeatMap, scene: int, row: int, column: int
) -> tuple[list[bool], list[float], list[bool]]:
    """Return the values of `Found` for a heat map: `seen`, `chance` and `titled`.

    Args:
        one: the heat map.
        scene: the scene's row.
        row: the first row of a picture.
        column: the first column of a picture.
    """
    weights, shares = one.weights, one.shares
    seen, chance, titled = [], [], []
    for cells, i, j in (
        (weights, row, column), (weights, 0, column), (shares, 0, 0), (weights, 0, 0),
    ):  # fmt: skip
        part = cells[i:, j:]
        best, at = np.unravel_index(part.argmax(), part.shape)
        title = at + j < column
        seen.append(bool(best + i == scene and not title))
        chance.append((cells.shape[1] - column) / part.size)
        titled.append(bool(title))
    return seen, chance, titled
