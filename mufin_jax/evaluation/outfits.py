"""Fill-in-the-blank and outfit compatibility (paper, section 4, table 3) with a predictor.

A question is a datapoint, the incomplete outfit, and its shortlist is given: its answers. Their
scores are as in prediction, s = 0.7 c + 0.3 a, where a_l is the largest cosine of x1 with an entry
of label l. Labels never trained on have no centroid, so their entries are their bags. The answer
with the best score is picked. Compatibility, which the paper leaves out, is the mean over the
outfit's items of the score of that item for the others. Each of them is a question with one answer.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.questions import Questions
from mufin_jax.data.strings import Strings
from mufin_jax.evaluation import metrics
from mufin_jax.model.saved import load_model
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.signals import until_stopped

OUTFIT_METRICS = ("FITB", "FITB unseen", "AUC")

POLYVORE_QUESTIONS = 15_145
"""Test questions of Polyvore-Disjoint: with this number, the paper's rows are printed too."""
PAPER_FITB = {"MUFIN (alpha = 1)": 64.17, "MUFIN (ResNet-18, alpha = 1)": 61.63}
"""As published: Mittal et al., Multi-modal Extreme Classification, CVPR 2022, table 3."""

Scorer = Callable[[Side, Int[np.ndarray, "b c"]], Float[np.ndarray, "b c"]]
"""Scores of given labels for the items of a side of points, row by row; -inf for label -1."""


def measure(scorer: Scorer, dataset: Dataset, scores: Float[np.ndarray, "q c"]) -> dict[str, float]:
    """Return the values of `OUTFIT_METRICS` that the dataset allows.

    "FITB" is of all questions, "FITB unseen" of those without any item from a training outfit,
    both in percent. "AUC" is of the outfits to judge, as a share.

    Args:
        scorer: scores the outfits to judge.
        dataset: the questions and outfits.
        scores: the scorer's scores of the questions' answers.
    """
    questions = _questions(dataset)
    found = {"FITB": metrics.fill_in_blank(scores, questions.right)}
    unseen = questions.unseen
    if unseen.any():
        found["FITB unseen"] = metrics.fill_in_blank(scores[unseen], questions.right[unseen])
    if len(set(questions.compatible.tolist())) == 2:
        suits = scorer(rests(dataset), questions.items[:, None])[:, 0]
        means = np.add.reduceat(suits, questions.offsets[:-1]) / np.diff(questions.offsets)
        found["AUC"] = metrics.separation(means, questions.compatible)
    return found


def rank_answers(
    answers: Int[np.ndarray, "q c"], scores: Float[np.ndarray, "q c"]
) -> tuple[Int[np.ndarray, "q c"], Float[np.ndarray, "q c"]]:
    """Return the answers and their scores, best first; equal scores keep the given order.

    A score of -inf means that the model does not see the answer: it becomes -1 and comes last.
    """
    answers = np.where(scores > -np.inf, answers, -1)
    order = np.lexsort((-scores, answers < 0))
    return np.take_along_axis(answers, order, 1), np.take_along_axis(scores, order, 1)


def rests(dataset: Dataset) -> Side:
    """Return a datapoint for each item of each outfit to judge: the outfit without it."""
    labels, questions = dataset.labels, _questions(dataset)
    whole = questions.outfits()
    bags = [np.delete(outfit, place) for outfit in whole for place in range(len(outfit))]
    text = np.full((len(bags), max(map(len, bags), default=1)), -1, np.int32)
    for row, bag in enumerate(bags):
        text[row, : len(bag)] = labels.text[bag]
    images = [[labels.images_of(label) for label in bag.tolist()] for bag in bags]
    rows = [np.concatenate([*some, np.zeros(0, np.int64)]) for some in images]
    offsets = np.cumsum([0, *map(len, rows)])
    titles = Strings.pack(" | ".join(labels.titles.at(bag)) for bag in bags)
    images = np.concatenate([*rows, np.zeros(0, np.int64)])
    return Side("test", Strings.pack([""] * len(bags)), titles, text, offsets, images)


def by_model(predictor: Predictor) -> Scorer:
    """Return the scorer of a predictor; with `mix` 0 its scores are a alone."""

    def score(side: Side, labels: Int[np.ndarray, "b c"]) -> Float[np.ndarray, "b c"]:
        loader = predictor.loader.with_test(side)  # reads all pictures of the largest outfit
        blocks = until_stopped(predictor.read(side, loader=loader), "evaluate")
        found = [score_answers(predictor, pool, bags, labels[rows]) for rows, pool, bags in blocks]
        return np.concatenate(found)

    return score


def score_answers(
    predictor: Predictor, pool: Pool, bags: Bags, labels: Int[np.ndarray, "b c"]
) -> Float[np.ndarray, "b c"]:
    """Return the scores of the labels given for each of the first bags; -inf for label -1.

    A label without descriptors, which the model does not see, also has the score -inf.
    """
    known = np.diff(predictor.index.entries.offsets) > 0
    labels = np.where(known[labels], labels, -1)
    points = predictor.embed(pool, bags)
    x = fetch(points.vector)[: len(labels)]
    a = predictor.index.entries.exact_similarity(x, labels)
    if predictor.config.mix == 0:
        return a
    best, scores = (part[: len(labels)] for part in predictor.score(points, Shortlist(labels, a)))
    # From the order of scores back to that of the answers; all others keep -inf.
    found = np.full(labels.shape, -np.inf, np.float32)
    row, place = np.nonzero(best >= 0)
    at = (best[row, place, None] == labels[row]).argmax(axis=1)
    found[row, at] = scores[row, place]
    return found


def module_1(pretrained: Path, retrieved: Path, predictor: Predictor, mesh: Mesh) -> Scorer:
    """Return the scorer by a alone with Module I's encoders (the ablation P-I-bag)."""
    model = load_model(pretrained / "model", mesh)
    index, alone = LabelIndex.load(retrieved / "index", mesh), PredictConfig(mix=0.0)
    return by_model(Predictor(model, index, predictor.cache, predictor.dataset, alone))


def _questions(dataset: Dataset) -> Questions:
    """Return the questions of a dataset of outfits; ValueError for any other dataset."""
    if dataset.questions is None:
        raise ValueError("the dataset has no questions: expected outfits")
    return dataset.questions


def chance(questions: Questions) -> dict[str, float]:
    """Return the scores of random picks."""
    offered = (questions.answers >= 0).sum(axis=1).clip(1)
    return {"FITB": float(100 * np.mean(1 / offered)), "AUC": 0.5}
