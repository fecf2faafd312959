"""The claim of figure 5, counted: attention finds an object's twin in the background of a scene.

The miniature's maker knows its scenes: a datapoint's last picture may show a label in the
background, its companion, and labels that look like it are wanted for that one picture alone. In
the heat map of such a datapoint and such a label, the cell to be largest is that of the scene and
a picture of the label: among the cells of two pictures, among the columns of the label's pictures,
or among all cells. The label's title is in the last alone. It has one column, and the label's
pictures, which all show the same object, share what a row gives them.

The control is the same datapoints with labels that they want for another reason.
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
"""Scene pairs that are looked at, at most; and as many pairs of the control."""

CELLS = ("of two pictures", "of the label's pictures", "all")
"""Of a heat map, the cells among which the largest one is sought."""

LARGEST, CHANCE = "largest from the scene to a picture, %", "by chance, %"
"""Columns of the CSV: the share of pairs with such a cell, and the share of cells that are such."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Relevant pairs of a test point with a scene and a label that its background shows, or not.

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
        seen: (p, 3): whether the largest of `CELLS` is of the scene and a picture of the label.
        chance: (p, 3): the share of those cells that are such.
        strength: the weight of the scene on the pictures, times the label's descriptors: 1 where
            attention is spread evenly.
    """

    maps: list[HeatMap]
    seen: Bool[np.ndarray, "p 3"]
    chance: Float[np.ndarray, "p 3"]
    strength: Float[np.ndarray, " p"]

    def rows(self, label: str) -> list[dict[str, float | int | str]]:
        """Their CSV, a row for each of `CELLS`; `label` says which labels they are of."""
        seen, chance = 100 * self.seen.mean(0), 100 * self.chance.mean(0)
        return [
            {"label": label, "cells": cells, "scene pairs": len(self.seen),
             LARGEST: float(found), CHANCE: float(luck)}
            for cells, found, luck in zip(CELLS, seen, chance, strict=True)
        ]  # fmt: skip


def scene_pairs(dataset: Dataset, truth: Path | None, most: int = PAIRS) -> tuple[Scenes, Scenes]:
    """Return the scene pairs of a miniature catalogue, and those of the control, the first `most`.

    Every scene stands beside another picture of its point. A pair counts whose label has several
    descriptors, a picture among them: a map of a single column has no choice.

    Args:
        dataset: the prepared catalogue.
        truth: its `truth.npz`.
        most: pairs of each, at most.

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
    counts = (seen >= 0) & whole[pairs.row] & pictured[pairs.col]
    alike = counts.copy()
    for name in ("label_theme", "label_kind", "label_hue"):
        alike &= known[name][pairs.col] == known[name][seen]
    if not alike.any():
        raise Missing("no test point has a scene that shows a twin of a label it wants")
    others = counts & ~alike & np.isin(pairs.row, pairs.row[alike])
    scene = titles(test) + known["test_pictures"]

    def first(chosen: Bool[np.ndarray, " pairs"]) -> Scenes:
        where = np.flatnonzero(chosen)[:most]
        return Scenes(pairs.row[where], pairs.col[where], scene[pairs.row[where]])

    return first(alike), first(others)


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
            found, luck = _sought(grid, scene, row, column)
            seen.append(found)
            chance.append(luck)
            strength.append(grid[scene, column:].max() * grid.shape[1])
    return Found(maps, np.array(seen), np.array(chance), np.array(strength))


def _sought(
    grid: Float[np.ndarray, "n m"], scene: int, row: int, column: int
) -> tuple[list[bool], list[float]]:
    """Whether the largest of each of `CELLS` is of the scene and a picture, and its chance.

    Args:
        grid: a heat map without padding.
        scene: the scene's row.
        row: the first row of a picture.
        column: the first column of a picture.
    """
    corners = (row, column), (0, column), (0, 0)
    parts = [(grid[i:, j:], scene - i, column - j) for i, j in corners]
    return (
        [_largest(*part) for part in parts],
        [(grid.shape[1] - column) / part.size for part, _, _ in parts],
    )


def _largest(grid: Float[np.ndarray, "n m"], row: int, column: int) -> bool:
    """Whether the largest cell lies in a row, in this column or a later one."""
    where = np.unravel_index(grid.argmax(), grid.shape)
    return bool(where[0] == row and where[1] >= column)
