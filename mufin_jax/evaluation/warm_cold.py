"""The metrics of warm and of cold test points, each kind on its own.

A test point is warm if it is a label that has a training pair: the model knows which points have
it. Others are cold: there is only their content. A mean over both hides how bad the rarer kind is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.own_labels import own_labels, warm_points
from mufin_jax.data.sparse import without
from mufin_jax.evaluation.rankings import drop, evaluate_ranking

KINDS = ("warm", "cold")

SHOWN = ("P@1", "R@10")
"""The metrics that tables show of all, warm and cold points; `metrics.json` has all metrics."""


def by_kind(
    rankings: Mapping[str, Int[np.ndarray, "b _"]], dataset: Dataset
) -> dict[str, dict[str, Any]]:
    """Return the metrics of rankings of the test points, for warm and for cold points.

    All pairs of training count, those of the validation part too: for propensities, and for which
    point is warm. A kind that no test point is of is left out.

    Args:
        rankings: label ids, best first, by the name of a row.
        dataset: the prepared folder.

    Returns:
        Kind -> {"points": their number, "points_without_positive": the number of those without a
        relevant label after overlap filtering, "rows": name -> metrics}.
    """
    train, test = dataset.train, dataset.test
    pairs = train.pairs if train.filter is None else without(train.pairs, train.filter)
    warm = warm_points(own_labels(test.ids, dataset.labels.ids), pairs)
    found = {}
    for kind, chosen in zip(KINDS, (warm, ~warm), strict=True):
        if not chosen.any():
            continue
        relevance = test.pairs[chosen]
        filter = test.filter[chosen] if test.filter is not None else None
        rows = {
            name: evaluate_ranking(ranking[chosen], relevance, filter, train.pairs)
            for name, ranking in rankings.items()
        }
        unscored = drop(np.zeros((len(relevance.indptr) - 1, 0), np.int32), relevance, filter)
        found[kind] = {
            "points": int(chosen.sum()),
            "points_without_positive": unscored.without_positive,
            "rows": rows,
        }
    return found


def columns_by_kind(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the rows of a table with `SHOWN` of all, of warm and of cold test points.

    Args:
        result: what `metrics.json` holds.

    Returns:
        Name of a row -> column -> value; none unless there are test points of both kinds.
    """
    if any(kind not in result for kind in KINDS):
        return {}
    parts = {"all": result["rows"]} | {kind: result[kind]["rows"] for kind in KINDS}
    cells = [(metric, kind) for metric in SHOWN for kind in parts]
    return {
        name: {f"{metric} {kind}": parts[kind][name][metric] for metric, kind in cells}
        for name in result["rows"]
    }


def explanation(result: Mapping[str, Any]) -> str:
    """Return a sentence on how many test points are warm, and how many are cold.

    Args:
        result: what `metrics.json` holds; the sentence is empty if an older version wrote it.
    """
    counts = [result[kind]["points"] if kind in result else 0 for kind in KINDS]
    if all(counts):
        return (
            f"warm: {counts[0]:,} test points, each of them a label with a training pair; "
            f"cold: the other {counts[1]:,}"
        )
    if counts[0]:
        return f"all {counts[0]:,} test points are warm: each is a label with a training pair"
    if counts[1]:
        return f"all {counts[1]:,} test points are cold: none is a label with a training pair"
    return ""
