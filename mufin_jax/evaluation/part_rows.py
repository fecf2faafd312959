"""How each part of the score ranks the test points by itself, and how the mixes do.

All rows come from one pass: every part scores the union of the lists of all parts, and each row
ranks these candidates by its own scores.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.rankings import spare_places
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_ranking import PartRanking, candidates
from mufin_jax.prediction.parts import Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.signals import until_stopped

ROW = "part {}"
"""The name of the row of one part."""


def rank_parts(
    predictor: Predictor, ranking: PartRanking, dataset: Dataset, mixes: Mapping[str, Mix]
) -> dict[str, Int32[np.ndarray, "b k"]]:
    """Return a ranking of the test points for each mix, and for each part alone.

    The lists are as long as those of `test_set.rank_test`.

    Args:
        predictor: a trained model with its label side.
        ranking: its parts, all of them.
        dataset: a prepared folder with the same labels.
        mixes: by the names of their rows.
    """
    alone = {ROW.format(name): Weights({name: 1.0}) for name in ranking.parts}
    rows = {name: Mix(weights, weights) for name, weights in alone.items()} | dict(mixes)
    k = predictor.config.shortlist + spare_places(dataset.test.filter)
    found: dict[str, list[np.ndarray]] = {name: [] for name in rows}
    for places, pool, bags in until_stopped(predictor.read(dataset.test), "evaluate"):
        points = predictor.embed(pool, bags)
        x = fetch(points.vector)[: len(places)]
        query = Query(points, x, ranking.known_of(dataset.test, places))
        block = candidates(ranking.parts, query, k, ranking.trained)
        for name, mix in rows.items():
            found[name].append(block.ranked(block.mixed(mix), k)[0])
    return {name: np.concatenate(blocks) for name, blocks in found.items()}
