"""The claim of figure 5, counted: attention finds an object's twin in the background of a scene.

The miniature's maker knows its scenes: a datapoint's last picture may show a label in the
background, its companion, and labels that look like it are wanted for that one picture alone. In
the heat map of such a datapoint and such a label, the cell to be largest is that of the scene and
a picture of the label: among all cells of two pictures, or among all cells, where titles compete.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.npy import load_arrays
from mufin_jax.prediction import Predictor
from mufin_jax.report.counts import titles
from mufin_jax.report.meetings import HeatMap, heat_map, meet
from mufin_jax.report.panel import Missing

PAIRS = 2000
"""Scene pairs that are looked at, at most."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Relevant pairs of a test point with a scene and a label that looks like its companion.

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
    """What the heat maps of scene pairs say.

    Attributes:
        maps: the heat maps.
        seen: (p, 2): whether the largest cell is that of the scene and a picture of the label;
            among the cells of two pictures, and among all cells.
        chance: (p, 2): the share of those cells that are such.
        strength: the weight of the scene on the pictures, times the label's descriptors: 1 where
            attention is spread evenly.
    """

    maps: list[HeatMap]
    seen: Bool[np.ndarray, "p 2"]
    chance: Float[np.ndarray, "p 2"]
    strength: Float[np.ndarray, " p"]

    @property
    def rows(self) -> list[dict[str, float | int | str]]:
        """Their CSV: a row for the pictures alone, and one for the whole maps."""
        seen, chance = 100 * self.seen.mean(0), 100 * self.chance.mean(0)
        return [
            {"cells": cells, "scene pairs": len(self.seen), "largest at the twin, %": float(found),
             "by chance, %": float(luck)}
            for cells, found, luck in zip(("pictures alone", "all"), seen, chance, strict=True)
        ]  # fmt: skip


def scene_pairs(dataset: Dataset, truth: Path | None, most: int = PAIRS) -> Scenes:
    """Return the scene pairs of a miniature catalogue, the first `most` of them.

    Every scene stands beside another picture of its point. A pair counts whose label has several
    descriptors, a picture among them: a map of a single column has no choice.

    Args:
        dataset: the prepared catalogue.
        truth: its `truth.npz`.
        most: pairs, at most.

    Raises:
        Missing: if the data are not the miniature catalogue with drawn scenes, or have no pair.
    """
    if truth is None or not truth.exists():
        raise Missing("only the built-in miniature catalogue knows what its pictures show")
    known, test, labels = load_arrays(truth), dataset.test, dataset.labels
    own, other = known["test_companion"], known["label_companion"]
    if len(own) != len(test) or len(other) != len(labels):
        raise Missing("preparation dropped items that truth.npz counts")
    # Where preparation kept fewer pictures than there are, it is the scene that is missing.
    whole = np.diff(test.image_offsets) == known["test_pictures"] + (own >= 0)
    images = np.diff(labels.image_offsets)
    pictured = (images > 0) & (images + titles(labels) > 1)
    pairs = test.pairs.tocoo()
    seen = own[pairs.row]
    alike = (seen >= 0) & whole[pairs.row] & pictured[pairs.col]
    for name in ("label_theme", "label_kind", "label_hue"):
        alike &= known[name][pairs.col] == known[name][seen]
    chosen = np.flatnonzero(alike)[:most]
    if not len(chosen):
        raise Missing("no test point has a scene that shows a twin of a label it wants")
    points = pairs.row[chosen]
    scene = titles(test)[points] + known["test_pictures"][points]
    return Scenes(points, pairs.col[chosen], scene)


def look(predictor: Predictor, pairs: Scenes) -> Found:
    """Return what cross-attention does in scene pairs; all processes of a run must ask together.

    Raises:
        Missing: if the model sees one modality alone, or has no cross-attention.
    """
    points, labels = predictor.dataset.test, predictor.dataset.labels
    if predictor.model.config.modalities != "both" or not predictor.model.config.label_images:
        raise Missing("the model does not see all titles and pictures")
    maps: list[HeatMap] = []
    seen, chance, strength = [], [], []
    for met in meet(predictor, pairs.points, pairs.labels[:, None]):
        if met.weights is None:
            raise Missing("the model has no cross-attention")
        for weights in met.weights[:, 0]:
            number = len(maps)
            point, label = int(pairs.points[number]), int(pairs.labels[number])
            scene = int(pairs.scene[number])
            maps.append(heat_map(predictor, point, label, weights))
            grid, column = maps[-1].weights, int(labels.text[label] >= 0)
            row = int(points.text[point] >= 0)
            cells = (grid[row:, column:], row, column), (grid, 0, 0)
            seen.append([_largest(part, scene - i, column - j) for part, i, j in cells])
            chance.append([(grid.shape[1] - column) / part.size for part, _, _ in cells])
            strength.append(grid[scene, column:].max() * grid.shape[1])
    return Found(maps, np.array(seen), np.array(chance), np.array(strength))


def _largest(grid: Float[np.ndarray, "n m"], row: int, column: int) -> bool:
    """Whether the largest cell lies in a row, in this column or a later one."""
    where = np.unravel_index(grid.argmax(), grid.shape)
    return bool(where[0] == row and where[1] >= column)
