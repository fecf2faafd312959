"""The floors: rankings of labels, and scores of outfit questions, without training."""

import dataclasses

import numpy as np
from raw_folders import tiny_outfits
from scipy.sparse import csr_matrix

from mufin_jax.baselines import untrained
from mufin_jax.baselines.outfits import outfit_floors
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.strings import Strings
from mufin_jax.evaluation import rankings as rankings_module
from mufin_jax.retrieval.walk import Walk


def sparse(rows, labels):
    """Return a matrix of ones from lists of label ids."""
    dense = np.zeros((len(rows), labels), np.float32)
    for row, ids in enumerate(rows):
        dense[row, list(ids)] = 1
    return csr_matrix(dense)


TRAIN_TITLES = ["red lamp", "red lamp shade", "blue chair", "oak table"]
TRAIN = sparse([{4}, {4, 0}, {1, 3}, {3}], 5)
LABEL_TITLES = ["lamp shade", "green chair", "red sofa", "table", ""]


def rankings(test_titles, **options):
    return untrained.title_rankings(TRAIN_TITLES, test_titles, LABEL_TITLES, TRAIN, **options)


def test_the_popularity_floor_is_the_same_for_all_datapoints():
    assert rankings(["red lamp", ""])["popularity"].tolist() == [[3, 4, 0, 1, 2]] * 2


def test_the_nearest_title_floor_ranks_labels_by_shared_rare_words():
    found = rankings(["blue chair", "shade of a lamp"])["nearest_title"]
    assert found[:, 0].tolist() == [1, 0]


def test_neighbours_vote_with_their_similarity():
    train = ["red velvet lamp", "lamp in brass", "lamp in steel"]
    relevance = sparse([{2}, {0}, {0}], 3)
    found = untrained.title_rankings(train, ["red velvet lamp", "a lamp"], [""] * 3, relevance)
    # One equal title outweighs two that share a common word; for another title, the two win.
    assert found["title_neighbours"][:, 0].tolist() == [2, 0]


def test_only_the_twenty_nearest_neighbours_vote():
    # 20 equal titles have label 0, and 40 less similar ones label 1: all 40 together would win.
    train = ["red lamp"] * 20 + ["red lamp shade cord switch"] * 40
    relevance = sparse([{0}] * 20 + [{1}] * 40, 2)
    found = untrained.title_rankings(train, ["red lamp"], ["", ""], relevance)
    assert found["title_neighbours"].tolist() == [[0, 1]]


def test_a_word_that_only_tests_have_changes_no_weight():
    known = untrained.tfidf(TRAIN_TITLES, ["red lamp"], LABEL_TITLES)
    more = untrained.tfidf(TRAIN_TITLES, ["red lamp", "red zebra", "lamp"], LABEL_TITLES)
    for one, other in zip(known, more, strict=True):
        np.testing.assert_array_equal(one.toarray(), other.toarray()[: one.shape[0]])


def test_free_places_go_to_popular_labels():
    found = rankings(["", "oak", "unheard of"])
    for name in ("nearest_title", "title_neighbours"):
        assert found[name][[0, 2]].tolist() == [[3, 4, 0, 1, 2]] * 2
    assert found["title_neighbours"][1].tolist() == [3, 4, 0, 1, 2]
    assert rankings(["red"])["nearest_title"][0].tolist() == [2, 3, 4, 0, 1]


def test_floors_keep_their_depth_after_filtering():
    found = rankings(["red lamp", "oak", ""], filter=sparse([{4, 3}, {}, {3}], 5), depth=3)
    assert found["popularity"].tolist() == [[0, 1, 2], [3, 4, 0], [4, 0, 1]]
    assert found["title_neighbours"][0].tolist() == [0, 1, 2]
    assert all((ranking >= 0).all() for ranking in found.values())


def test_floors_do_not_depend_on_the_blocks(monkeypatch):
    titles = ["red lamp", "", "blue table", "chair"]
    overlap = sparse([{4}, {}, {1, 3}, {}], 5)
    whole = rankings(titles, filter=overlap)
    monkeypatch.setattr(untrained, "PRODUCTS", 1)
    for name, ranking in rankings(titles, filter=overlap).items():
        assert np.array_equal(ranking, whole[name])


def test_without_any_title_popularity_is_the_only_floor():
    found = untrained.title_rankings([""] * 4, ["", ""], [""] * 5, TRAIN)
    assert list(found) == ["popularity"]
    assert found["popularity"].shape == (2, 5)


def test_titles_without_a_known_word_are_ranked_by_popularity():
    found = untrained.title_rankings([""] * 4, ["qqq", ""], [""] * 5, TRAIN)
    for name in ("nearest_title", "title_neighbours"):
        np.testing.assert_array_equal(found[name], found["popularity"])


def test_each_floor_of_a_dataset_gives_all_metrics(dataset):
    found = untrained.floors(dataset)
    assert list(found) == ["popularity", "nearest_title", "title_neighbours"]  # no point is a label
    assert all(tuple(values) == rankings_module.METRICS for values in found.values())
    titles = [list(side.titles) for side in (dataset.train, dataset.test, dataset.labels)]
    ranked = untrained.title_rankings(*titles, dataset.train.pairs, dataset.test.filter)
    for name, ranking in ranked.items():
        np.testing.assert_array_equal(untrained.floor_rankings(dataset)[name], ranking)


def test_the_walk_is_a_floor_where_test_points_are_labels(dataset):
    ids = list(dataset.labels.ids)
    test = dataclasses.replace(
        dataset.test, ids=Strings.pack([ids[3], *["?"] * (len(dataset.test) - 1)])
    )
    train = dataclasses.replace(
        dataset.train, ids=Strings.pack([*ids[5:7], *["!"] * (len(dataset.train) - 2)])
    )
    found = untrained.floor_rankings(dataclasses.replace(dataset, test=test, train=train))["walk"]
    # Points 3 and 6 have labels 1 and 3; points 7, 8, 13, 18 and 23 have label 3 and one more each.
    assert found[0, :7].tolist() == [3, 1, 2, 4, 6, 9, 11]
    assert (found[1:] == found[1]).all() and found[1].tolist() != found[0].tolist()
    assert len(untrained.floors(dataclasses.replace(dataset, test=test, train=train))) == 4
    overlap = csr_matrix(([1.0, 1.0], ([3, 6], [1, 1])), dataset.train.pairs.shape)
    train = dataclasses.replace(train, filter=overlap)
    found = untrained.floor_rankings(dataclasses.replace(dataset, test=test, train=train))["walk"]
    assert found[0, :2].tolist() == [3, 2]  # the walk takes no pair of the overlap filter


def test_the_walk_ranks_what_the_query_was_bought_with_and_then_popular_labels():
    walk = Walk.build(TRAIN, np.array([2, -1, -1, -1]))  # point 0 is label 2
    start = np.array([4, 1, -1])
    found = untrained.walk_ranking(walk, start, TRAIN)
    # From 4: 1 + 1/4 for 4 itself, 1 for point 0, 1/4 for label 0; then the popular 3 and 1.
    assert found.tolist() == [[4, 2, 0, 3, 1], [1, 3, 4, 0, 2], [3, 4, 0, 1, 2]]
    overlap = sparse([{4}, {1}, {}], 5)
    shorter = untrained.walk_ranking(walk, start, TRAIN, filter=overlap, depth=3)
    assert shorter.tolist() == [[2, 0, 3], [3, 4, 0], [3, 4, 0]]


def test_outfit_floors_use_label_frequencies_and_shared_words(tmp_path):
    config = PrepareConfig(image_size=8, records=False, vocab_size=128, max_tokens=8)
    prepare(config, tiny_outfits(tmp_path / "raw"), tmp_path / "prepared")
    dataset = Dataset.load(tmp_path / "prepared")
    floors, labels = outfit_floors(dataset), np.array([[0, 1, -1], [9, 10, 11]])
    popular = floors["popularity"](dataset.test, labels)
    assert popular.tolist() == [[2, 1, -np.inf], [0, 0, 0]]  # item 1 is in two outfits
    near = floors["nearest_title"](dataset.test, labels)
    # Question 0 is about garments 10 and 11; the numbers are words of their titles.
    own = floors["nearest_title"](dataset.test, np.array([[9, 11], [9, 11]]))
    assert own[0, 0] > own[0, 1] and near[0, 2] == -np.inf
