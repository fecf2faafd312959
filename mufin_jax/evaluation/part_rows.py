"""How a score of parts ranks the test points, how each part does by itself, and the paper's mix.

All rows come from one pass over the test points. Every part scores the union of the lists of all
parts. The served mix ranks the lists of its own parts, as the predictor does; each other row ranks
all candidates by its own scores.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int32

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.rankings import spare_places
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_ranking import listed_candidates, union
from mufin_jax.prediction.parts import Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.index import shortlist_points
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.signals import until_stopped

ROW = "part {}"
"""The name of the row of one part."""


def rank_rows(
    predictor: Predictor,
    dataset: Dataset,
    served: str,
    mixes: Mapping[str, Mix],
    lists: Mapping[str, Shortlist | None],
) -> tuple[dict[str, Int32[np.ndarray, "b k"]], Float32[np.ndarray, "b k"]]:
    """Return the rankings of the test points by name, and the scores of the served mix.

    The lists are as long as those of `test_set.rank_test`.

    Args:
        predictor: a trained model with its label side, and all parts of its score.
        dataset: a prepared folder with the same labels.
        served: the name of the row of what the predictor serves.
        mixes: other mixes, by the names of their rows.
        lists: shortlists that the paper's mix scores, by the names of their rows; None: the
            predictor's own.
    """
    ranking = predictor.ranking
    if ranking is None:
        raise ValueError("the predictor has no parts")
    alone = {ROW.format(name): Weights({name: 1.0}) for name in ranking.parts}
    all_mixes = {name: Mix(weights, weights) for name, weights in alone.items()} | dict(mixes)
    k = predictor.config.shortlist + spare_places(dataset.test.filter)
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    served_scores = []
    for places, pool, bags in until_stopped(predictor.read(dataset.test), "evaluate"):
        points = predictor.embed(pool, bags)
        x = fetch(points.vector)[: len(places)]
        query = Query(points, x, ranking.known_of(dataset.test, places))
        block, by_part = listed_candidates(ranking.parts, query, k, ranking.trained)
        own = block.among(union([by_part[name] for name in ranking.mix.names]))
        labels, scores = own.ranked(own.mixed(ranking.mix), k)
        found[served].append(labels)
        served_scores.append(scores)
        for name, given in lists.items():
            if given is None:
                some = shortlist_points(predictor.index, x, k)
            else:
                some = Shortlist(given.labels[places], given.similarities[places])
            found[name].append(predictor.score(points, some)[0][: len(places)])
        for name, mix in all_mixes.items():
            found[name].append(block.ranked(block.mixed(mix), k)[0])
    rows = {name: np.concatenate(blocks) for name, blocks in found.items()}
    return rows, np.concatenate(served_scores)
