"""Claims about a predictor on a test set."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from mufin_jax.data.strings import Strings
from mufin_jax.evaluation import test_set
from mufin_jax.evaluation.test_set import evaluate, rank_test, time_blocks, time_single
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError


class Ranks(Predictor):
    """A predictor without a model, which records how it ranks a side."""

    def __init__(self, dataset):
        self.extras, self.dataset = [], dataset
        self.ranking = None

    def rank_side(self, side, extra=0, lists=None, loader=None):
        self.extras.append(extra)
        labels = np.tile(np.arange(5, dtype=np.int32), (len(side), 1))
        if len(side):
            yield labels, -labels.astype(np.float32)


def test_evaluating_ranks_every_test_point_once(dataset):
    predictor = Ranks(dataset)
    assert "P@1" in evaluate(predictor, dataset)
    assert len(predictor.extras) == 1


def test_lists_are_longer_by_the_labels_that_the_filter_can_remove(dataset):
    shape = (len(dataset.test), dataset.num_labels)
    three = sparse.csr_matrix(np.arange(shape[1]) < 3, dtype=np.float32, shape=(1, shape[1]))
    test = dataclasses.replace(dataset.test, filter=sparse.vstack([three] * shape[0], "csr"))
    predictor = Ranks(dataset)
    rank_test(predictor, dataclasses.replace(dataset, test=test))
    time_blocks(predictor, dataclasses.replace(dataset, test=test))
    assert predictor.extras == [3, 3]


def test_blocks_are_timed_when_all_is_compiled(dataset):
    """The pass that gives all rows of parts ranks more candidates, which compiles other shapes."""
    predictor = Ranks(dataset)
    predictor.ranking = SimpleNamespace()
    time_blocks(predictor, dataset)
    assert predictor.extras == [0, 0]


def test_single_points_are_timed_with_what_parts_know_of_them(dataset):
    """A warm point costs a walk, a title its words: without them, the time would be too short."""
    predictor, asked = Ranks(dataset), []
    predictor.ranking = SimpleNamespace(known_of=lambda side, rows: (side.name, *rows))
    predictor.batch = lambda side, rows: (None, None)
    predictor.rank = lambda pool, bags, count, known=None: asked.append(known)
    assert time_single(predictor, dataset, 2) >= 0
    assert asked == [("test", 0), ("test", 0), ("test", 1), ("test", 1)]


def test_times_are_milliseconds_a_point(dataset, monkeypatch):
    """The clock moves by a quarter of a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(test_set, "time", SimpleNamespace(perf_counter=lambda: next(clock) / 4))
    predictor = Ranks(dataset)
    assert time_blocks(predictor, dataset) == pytest.approx(250 / len(dataset.test))
    predictor.batch = lambda side, rows: (None, None)
    predictor.rank = lambda *_, **__: None
    assert time_single(predictor, dataset, 3) == pytest.approx(250)


def test_a_data_set_without_test_points_is_rejected(dataset):
    test, none = dataset.test, Strings.pack([])
    pairs = sparse.csr_matrix((0, dataset.num_labels), dtype=np.float32)
    empty = dataclasses.replace(
        test, ids=none, titles=none, text=test.text[:0], image_offsets=test.image_offsets[:1],
        image_rows=test.image_rows[:0], relevance=pairs, filter=pairs,
    )  # fmt: skip
    with pytest.raises(InputError, match="found no test points; expected at least one"):
        evaluate(Ranks(dataset), dataclasses.replace(dataset, test=empty))
