"""Claims about a predictor on a test set."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from mufin_jax.data.strings import Strings
from mufin_jax.evaluation.test_set import evaluate
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError


class Ranks(Predictor):
    """A predictor without a model, which counts how often it ranks a side."""

    def __init__(self):
        self.asked = 0

    def rank_side(self, side, extra=0, lists=None):
        self.asked += 1
        labels = np.tile(np.arange(5, dtype=np.int32), (len(side), 1))
        if len(side):
            yield labels, -labels.astype(np.float32)


def test_evaluating_ranks_every_test_point_once(dataset):
    predictor = Ranks()
    assert "P@1" in evaluate(predictor, dataset)
    assert predictor.asked == 1


def test_a_data_set_without_test_points_is_rejected(dataset):
    test, none = dataset.test, Strings.pack([])
    pairs = sparse.csr_matrix((0, dataset.num_labels), dtype=np.float32)
    empty = dataclasses.replace(
        test, ids=none, titles=none, text=test.text[:0], image_offsets=test.image_offsets[:1],
        image_rows=test.image_rows[:0], relevance=pairs, filter=pairs,
    )  # fmt: skip
    with pytest.raises(InputError, match="found no test points; expected at least one"):
        evaluate(Ranks(), dataclasses.replace(dataset, test=empty))
