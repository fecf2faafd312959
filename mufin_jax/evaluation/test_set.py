"""A predictor on a test set: all metrics, and the time that an answer takes."""

import itertools
import time

import numpy as np
from jaxtyping import Float32, Int32

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.agreement import check_agreement, same_data
from mufin_jax.evaluation.rankings import evaluate_ranking, spare_places
from mufin_jax.model.saved import new_loader
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped

TIMED_BLOCKS = 8
"""Blocks of test points whose ranking is timed, at most."""


def evaluate(
    predictor: Predictor, dataset: Dataset, lists: Shortlist | None = None
) -> dict[str, float]:
    """Return the metrics of the predictor on the dataset's test points, under its overlap filter.

    Args:
        predictor: a trained model with its label side.
        dataset: a prepared folder with the same labels and the same tokenizer.
        lists: shortlists to score instead of the predictor's own.

    Returns:
        "P@1" ... "R@100" in percent and "AUC" as a share, as `evaluation.evaluate_ranking` has
        them.

    Raises:
        InputError: if there are no test points, or the data are of another catalogue.
    """
    ranking, _ = rank_test(predictor, dataset, lists)
    return measure(ranking, dataset)


def measure(ranking: Int32[np.ndarray, "b k"], dataset: Dataset) -> dict[str, float]:
    """Return the metrics of a ranking of the dataset's test points."""
    test = dataset.test
    return evaluate_ranking(ranking, test.pairs, test.filter, dataset.train.pairs)


def rank_test(
    predictor: Predictor, dataset: Dataset, lists: Shortlist | None = None
) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
    """Return labels and scores for all test points, best first.

    The lists are longer than those that count, by as many labels as the overlap filter can remove
    from one datapoint.

    Args:
        predictor: a trained model with its label side.
        dataset: a prepared folder with the same labels and the same tokenizer.
        lists: shortlists to score instead of the predictor's own.

    Raises:
        InputError: if there are no test points, or the data are of another catalogue.
    """
    check_agreement(predictor, dataset, lists)
    if not len(dataset.test):
        raise InputError(f"{dataset.path}: found no test points; expected at least one to rank")
    loader = None
    if not same_data(predictor, dataset):  # its items are other rows of other files
        loader = new_loader(predictor.model.config, dataset, padded=False)
    ranked = predictor.rank_side(dataset.test, spare_places(dataset.test.filter), lists, loader)
    blocks = list(until_stopped(ranked, "evaluate"))
    labels, scores = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return labels, scores


def time_blocks(predictor: Predictor, dataset: Dataset) -> float:
    """Return the milliseconds that a test point takes when points are ranked in blocks.

    The time is of reading, encoding, retrieving and scoring. Call `rank_test` before: it compiles.
    A predictor with parts ranks the blocks twice, the first time to compile.
    """
    extra, timed, start = spare_places(dataset.test.filter), 0, 0.0
    for _ in range(1 if predictor.ranking is None else 2):
        timed, start = 0, time.perf_counter()
        for block, _ in itertools.islice(predictor.rank_side(dataset.test, extra), TIMED_BLOCKS):
            timed += len(block)
    return 1e3 * (time.perf_counter() - start) / timed


def time_single(predictor: Predictor, dataset: Dataset, points: int) -> float:
    """Return the median milliseconds of one answer to one test point, everything compiled."""
    times = []
    for point in np.arange(min(points, len(dataset.test))).repeat(2):  # the first may compile
        start, rows = time.perf_counter(), np.array([point])
        known = predictor.ranking and predictor.ranking.known_of(dataset.test, rows)
        predictor.rank(*predictor.batch(dataset.test, rows), 1, known=known)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1::2]) * 1e3)
