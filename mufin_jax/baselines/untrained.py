"""The floors: four rankings without a model, which any result must exceed.

- `popularity`: the labels with the most training datapoints, the same for every datapoint.
- `nearest_title`: the labels whose titles are most similar to the datapoint's.
- `title_neighbours`: the labels of the 20 training datapoints with the most similar titles,
  each vote weighted by its similarity. This is TF-IDF kNN.
- `walk`: the labels that a co-purchase walk over the training pairs reaches from the datapoint,
  where the datapoint is a label itself (`retrieval/walk.py`).

`frozen.py` has a fifth: kNN on the vectors of the untrained model.

Similarity is the cosine of TF-IDF vectors of whole words (scikit-learn's defaults: lower case,
words of two letters and more), with document frequencies from the training and label titles.
Free places of a ranking go to popular labels; without a title, these are all places.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.own_labels import own_labels
from mufin_jax.data.sparse import without
from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.metrics import DEPTH, Csr, remove, spare_places
from mufin_jax.evaluation.rankings import evaluate_ranking
from mufin_jax.retrieval.walk import Walk, one_hot
from mufin_jax.retrieval.words import TitleWords
from mufin_jax.runtime.signals import until_stopped

NEIGHBOURS = 20


PRODUCTS = 1 << 24
"""Bound on the multiplications of a block of similarities, and so on its memory (~0.5 GB)."""


def floors(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Return all of `evaluation.METRICS` for each floor, after overlap filtering."""
    test, train = dataset.test, dataset.train
    return {
        name: evaluate_ranking(ranking, test.pairs, test.filter, train.pairs)
        for name, ranking in floor_rankings(dataset).items()
    }


def floor_rankings(dataset: Dataset, depth: int = DEPTH) -> dict[str, Int[np.ndarray, "b k"]]:
    """Return the first `depth` labels of each test point for each floor, after filtering.

    If no test point has a title, the floors of titles are left out; if none is a label itself, the
    walk is.
    """
    train, test, labels = dataset.train, dataset.test, dataset.labels
    found = title_rankings(
        train.titles, test.titles, labels.titles, train.pairs, test.filter, depth
    )
    start = own_labels(test.ids, labels.ids)
    if (start >= 0).any():
        pairs = train.pairs if train.filter is None else without(train.pairs, train.filter)
        walk = Walk.build(pairs, own_labels(train.ids, labels.ids))
        found["walk"] = walk_ranking(walk, start, train.pairs, test.filter, depth)
    return found


def title_rankings(
    train_titles: Iterable[str],
    test_titles: Iterable[str],
    label_titles: Iterable[str],
    train_relevance: Csr,
    filter: Csr | None = None,
    depth: int = DEPTH,
) -> dict[str, Int[np.ndarray, "b k"]]:
    """Return such rankings of popularity, and of titles unless all of the tests' are empty.

    `filter`, of test datapoints x labels, may be None.
    """
    tests = list(test_titles)
    train, test, labels = tfidf(list(train_titles), tests, list(label_titles))
    votes = metrics.relevant_pairs(train_relevance)
    popular = most_popular(train_relevance)
    wanted = min(depth, len(popular))
    titled = any(tests)
    names = ("popularity", "nearest_title", "title_neighbours") if titled else ("popularity",)
    rankings = {name: np.full((len(tests), wanted), -1, np.int32) for name in names}
    by_word = {"labels": csr_matrix(labels.T), "train": csr_matrix(train.T)}
    for rows in until_stopped(_blocks(test, *by_word.values()), "the floors"):
        dropped = filter[rows] if filter is not None else None
        reach = min(wanted + spare_places(dropped), len(popular))
        drafts = [np.full((rows.stop - rows.start, reach), -1, np.int32)]
        if titled:
            neighbours = _only_best(csr_matrix(test[rows] @ by_word["train"]), NEIGHBOURS)
            drafts.append(metrics.rank(csr_matrix(test[rows] @ by_word["labels"]), reach))
            drafts.append(metrics.rank(csr_matrix(neighbours @ votes), reach))
        for name, draft in zip(names, drafts, strict=True):
            rankings[name][rows] = completed(draft, popular, dropped, wanted)
    return rankings


def walk_ranking(
    walk: Walk,
    start: Int[np.ndarray, " b"],
    train_relevance: Csr,
    filter: Csr | None = None,
    depth: int = DEPTH,
) -> Int[np.ndarray, "b k"]:
    """Return the first `depth` labels that the walk reaches, after filtering.

    Args:
        walk: over the training pairs.
        start: the label that each test datapoint is itself, or -1.
        train_relevance: of the training datapoints, for the popularity of labels.
        filter: test datapoints x labels, or None.
        depth: places of a ranking.
    """
    popular = most_popular(train_relevance)
    wanted = min(depth, len(popular))
    ranking = np.full((len(start), wanted), -1, np.int32)
    for rows, scores in until_stopped(walk.blocks(one_hot(start, len(popular))), "the floors"):
        dropped = filter[rows] if filter is not None else None
        draft = metrics.rank(scores, min(wanted + spare_places(dropped), len(popular)))
        ranking[rows] = completed(draft, popular, dropped, wanted)
    return ranking


def most_popular(train_relevance: Csr) -> Int[np.ndarray, " labels"]:
    """Return all labels, those with the most training datapoints first, ties by label."""
    return np.argsort(-metrics.frequencies(train_relevance), kind="stable").astype(np.int32)


def completed(
    draft: Int[np.ndarray, "b k"],
    popular: Int[np.ndarray, " labels"],
    dropped: Csr | None,
    depth: int,
) -> Int[np.ndarray, "b d"]:
    """Return `depth` labels of each row: its own, then popular ones, without the dropped pairs.

    Args:
        draft: label ids, best first, -1 in free places; wider than `depth` by `spare_places`.
        popular: all labels, the most popular first.
        dropped: rows x labels, the overlap filter; or None.
        depth: places of a ranking.
    """
    return remove(_filled(draft, popular), dropped)[:, :depth]


def _filled(
    ranking: Int[np.ndarray, "b k"], popular: Int[np.ndarray, " labels"]
) -> Int[np.ndarray, "b k"]:
    """Fill the free places of a ranking with the most popular labels that it does not list."""
    reach = ranking.shape[1]
    short = np.flatnonzero((ranking < 0).any(axis=1))
    offered = np.tile(popular[:reach], (len(short), 1))
    point, place = np.nonzero(ranking[short] >= 0)
    labels = ranking[short][point, place]
    listed = csr_matrix(
        (np.ones(len(labels), bool), (point, labels)), shape=(len(short), len(popular))
    )
    offered[metrics.listed_in(offered, listed)] = -1
    filled = ranking.copy()
    filled[short] = remove(np.hstack([ranking[short], offered]), None)[:, :reach]
    return filled


def _only_best(similarities: csr_matrix, k: int) -> csr_matrix:
    """Return the k largest values of each row."""
    labels, values = metrics.best(similarities, k)
    rows, places = np.nonzero(labels >= 0)
    kept = (values[rows, places], (rows, labels[rows, places]))
    return csr_matrix(kept, shape=metrics.shape(similarities))


def tfidf(
    train_titles: list[str], test_titles: list[str], label_titles: list[str]
) -> tuple[csr_matrix, csr_matrix, csr_matrix]:
    """Return unit rows of word weights for the three sides; words only in tests are left out."""
    work = "the floors"
    words = TitleWords.build(train_titles, label_titles, work)
    return words.rows(train_titles, work), words.rows(test_titles, work), words.labels


def _blocks(test: csr_matrix, *by_word: csr_matrix) -> Iterator[slice]:
    """Yield runs of test rows whose similarities to all rows of the others cost `PRODUCTS`."""
    per_word = sum(np.diff(other.indptr) for other in by_word)
    # A row without words still costs its places in the ranking.
    cost = np.cumsum(metrics.relevant_pairs(test) @ per_word + DEPTH)
    start = 0
    while start < len(cost):
        spent = cost[start - 1] if start else 0
        stop = max(int(np.searchsorted(cost, spent + PRODUCTS, "right")), start + 1)
        yield slice(start, stop)
        start = stop
