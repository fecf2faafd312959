"""Scoring rankings with the measures of the paper, after overlap filtering.

`metrics.py` has the measures, `test_set.py` scores a predictor, `outfits.py` answers questions.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.evaluation.rankings import METRICS, Scored, evaluate_ranking
    from mufin_jax.evaluation.tables import table
    from mufin_jax.evaluation.test_set import evaluate, rank_test

__all__ = ["METRICS", "Scored", "evaluate", "evaluate_ranking", "rank_test", "table"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "rankings": ["METRICS", "Scored", "evaluate_ranking"],
        "tables": ["table"],
        "test_set": ["evaluate", "rank_test"],
    },
)
