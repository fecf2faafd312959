"""The trained model and a sample of test points for it."""

import dataclasses
from functools import cached_property

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.rankings import Scored
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report.tables import sample


@dataclasses.dataclass(frozen=True)
class Asked:
    """A run whose model ranks a sample of its test points again.

    Attributes:
        dataset: the prepared folder.
        predictor: the trained model.
        scored: MUFIN's ranking of all test points and their relevance, after filtering.
        points: the most test points in the sample.
        vectors: the most vectors in a t-SNE.
        seed: the seed of the draws.
    """

    dataset: Dataset
    predictor: Predictor
    scored: Scored
    points: int
    vectors: int
    seed: int

    @cached_property
    def rows(self) -> Int[np.ndarray, " s"]:
        """The sample: test points that have a relevant label."""
        wanted = np.flatnonzero(np.diff(self.scored.relevance.indptr))
        return wanted[sample(len(wanted), self.points, self.seed)]

    @cached_property
    def relevance(self) -> csr_matrix:
        """The relevance of the sample."""
        return self.scored.relevance[self.rows]
