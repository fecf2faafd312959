"""The curve of missing pictures: how well test points are ranked when some of them show no picture.

The points are chosen by a hash of their ids: those without pictures at a share are also without
them at each larger one. A point without a title keeps its pictures, as nothing else is known of it.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.preparation.validation import below
from mufin_jax.evaluation.rankings import spare_places
from mufin_jax.evaluation.test_set import measure
from mufin_jax.evaluation.warm_cold import SHOWN
from mufin_jax.prediction.mix import Mix
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped


class Hidden(NamedTuple):
    """The rankings of the test points while some of them show no picture.

    Attributes:
        share: of the points that were asked to show none.
        points: how many have lost their pictures.
        rankings: of all test points, by the name of a row.
    """

    share: float
    points: int
    rankings: dict[str, Int32[np.ndarray, "b k"]]


def check_shares(shares: Sequence[float]) -> None:
    """Reject what is no share of the test points."""
    if wrong := [share for share in shares if not 0 <= share <= 1]:
        raise InputError(f"evaluate.missing_pictures={wrong[0]}: expected shares from 0 to 1")


def hide_pictures(side: Side, share: float) -> tuple[Side, int]:
    """Return a side some of whose items have no pictures, and how many have lost them."""
    counts = np.diff(side.image_offsets)
    titled = side.text >= 0 if side.text.ndim == 1 else (side.text >= 0).any(1)
    hidden = below(share, "missing pictures", side.ids) & titled & (counts > 0)
    offsets = np.cumsum(np.append(0, np.where(hidden, 0, counts)))
    rows = side.image_rows[np.repeat(~hidden, counts)]
    return dataclasses.replace(side, image_offsets=offsets, image_rows=rows), int(hidden.sum())


def rank_without_pictures(
    predictor: Predictor, dataset: Dataset, shares: Sequence[float], mixes: Mapping[str, Mix]
) -> list[Hidden]:
    """Rank the test points once for each share; all processes must call this together.

    Args:
        predictor: a trained model with its label side; what it serves is the row MUFIN.
        dataset: a prepared folder with the same labels.
        shares: of the test points that show no pictures.
        mixes: others of the predictor's parts, by the names of their rows.
    """
    predictors = {"MUFIN": predictor}
    for name, mix in mixes.items():
        if predictor.ranking is not None:
            predictors[name] = copy.copy(predictor)
            predictors[name].ranking = dataclasses.replace(predictor.ranking, mix=mix)
    found = []
    for share in shares:
        side, points = hide_pictures(dataset.test, share)
        rankings = {name: _rank(one, side) for name, one in predictors.items()}
        found.append(Hidden(share, points, rankings))
    return found


def curve(found: Sequence[Hidden], dataset: Dataset) -> list[dict[str, Any]]:
    """Return what metrics.json holds: for each share, some metrics of each row."""
    whole = []
    for hidden in found:
        rows = {name: measure(ranking, dataset) for name, ranking in hidden.rankings.items()}
        shown = {name: {metric: row[metric] for metric in SHOWN} for name, row in rows.items()}
        whole.append({"share": hidden.share, "points": hidden.points, "rows": shown})
    return whole


def _rank(predictor: Predictor, side: Side) -> Int32[np.ndarray, "b k"]:
    """Return the labels of a side's items, best first, as many as for the test set."""
    blocks, extra = [], spare_places(side.filter)
    read = predictor.read(side, loader=predictor.loader.with_test(side))
    for rows, pool, bags in until_stopped(read, "evaluate"):
        known = predictor.ranking and predictor.ranking.known_of(side, rows)
        blocks.append(predictor.rank(pool, bags, len(rows), extra, known=known)[0])
    return np.concatenate(blocks)
