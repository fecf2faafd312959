"""Labels that an item must not get: itself, and what the caller excludes. Lists stay as long."""

import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from small import SIZES, new_model
from test_predictor import K, build

from mufin_jax.data.own_labels import LabelFinder
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.items import read_ids, read_query
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_files import (
    PartConfig,
    TrainingPairs,
    build_parts,
    load_ranking,
    save_ranking,
)
from mufin_jax.prediction.parts import PARTS, Rows
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval import barred as barred_module
from mufin_jax.retrieval.barred import (
    FEWEST_SPARE,
    Barred,
    Within,
    allowed_points,
    first_spare,
)
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.searcher import ExactSearcher
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError

L = SIZES["label"]
ITEM = {"title": "red lamp"}


def unit(count, width):
    vectors = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("excluding")


@pytest.fixture(scope="module")
def predictor(folder, dataset, one_device):
    return build(folder, new_model(dataset, one_device), None, dataset)


@pytest.fixture(scope="module")
def with_parts(folder, predictor, dataset):
    """The same with all parts but the walk of warm points, which lists few labels."""
    model, pairs = predictor.model, TrainingPairs.read(dataset)
    x, z, w = (unit(count, 6) for count in (SIZES["train"], L, L))
    build_parts(
        folder / "select", PARTS, dataset, pairs, model.heads(), x, z, w,
        IndexConfig(backend="exact"),
    )  # fmt: skip
    weights = Weights({"z": 1.0, "mu": 0.4, "c": 0.5, "v": 0.3, "g": 0.2, "sg": 0.2, "t": 0.2})
    save_ranking(folder / "select", PARTS, PartConfig(), {"all": Mix(weights, weights)})
    ranking = load_ranking(folder / "select", dataset, model.heads(), predictor.cache)
    one = predictor
    return Predictor(one.model, one.index, one.cache, dataset, one.config, ranking)


@pytest.fixture(params=["mix", "parts"])
def either(request, predictor, with_parts):
    return predictor if request.param == "mix" else with_parts


def labels(answers):
    return [[one.label for one in answer] for answer in answers]


def test_an_item_with_the_id_of_a_label_does_not_get_that_label(either):
    (plain,) = labels(either.predict([ITEM], K))
    for label in plain[:3]:
        (found,) = labels(either.predict([ITEM | {"id": f"label{label}"}], K))
        assert label not in found and len(found) == K


def test_an_item_with_another_id_gets_what_it_gets_without_one(either):
    assert either.predict([ITEM | {"id": "test3"}], K) == either.predict([ITEM], K)


@pytest.mark.parametrize("most", [1, 5, K])
def test_lists_are_as_long_as_there_are_labels_left(either, most):
    rng = np.random.default_rng(0)
    for count in range(L + 1):
        excluded = rng.permutation(L)[:count].tolist()
        ids = [f"label{label}" for label in excluded]
        (found,) = labels(either.predict([ITEM], most, exclude=ids))
        assert len(found) == min(most, L - count) and not set(found) & set(excluded)


def test_labels_that_remain_have_the_scores_and_the_order_of_a_longer_list(predictor):
    whole = Predictor(
        predictor.model, predictor.index, predictor.cache, predictor.dataset,
        PredictConfig(shortlist=L),
    )  # fmt: skip
    (everything,) = whole.predict([ITEM], L)
    excluded = [one.id for one in everything[:3]]
    (found,) = predictor.predict([ITEM], K, exclude=excluded)
    scores = {one.label: one.score for one in everything}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert one.score == pytest.approx(scores[one.label], abs=1e-5)


def test_an_answer_does_not_depend_on_what_is_barred_for_the_other_items(either):
    items = [ITEM, ITEM | {"id": "label1"}, ITEM | {"id": "label2"}, {"title": "blue chair"}]
    together = either.predict(items, K, exclude=["label4"])
    for item, answer in zip(items, together, strict=True):
        (alone,) = either.predict([item], K, exclude=["label4"])
        assert [one.label for one in alone] == [one.label for one in answer]


def test_items_of_one_query_may_exclude_labels_of_their_own(either):
    given = [ITEM, ITEM, ITEM | {"id": "label1"}, {"title": "blue chair"}]
    top = [one.id for one in either.predict([ITEM], K)[0]]
    excluded = [[], top[:2], [*top[2:5], "no"], top]
    items = [
        dataclasses.replace(item, exclude=ids)
        for item, ids in zip(read_query(given), excluded, strict=True)
    ]
    together = either.predict(items, K)
    for item, ids, answer in zip(given, excluded, together, strict=True):
        (alone,) = either.predict([item], K, exclude=ids)
        assert [one.label for one in alone] == [one.label for one in answer]
        assert not {one.id for one in answer} & {*ids, item.get("id")}
    assert len({len(answer) for answer in together[:3]}) == 1


@pytest.mark.parametrize(
    "given",
    ["label5", ["label5"], (" label5 ", None, np.nan), iter(["label5"]), ["no", "label5"]],
)
def test_excluded_ids_may_come_in_any_iterable_and_one_counts_as_one(predictor, given):
    wanted = predictor.predict([ITEM], K, exclude=["label5"])
    assert 5 not in labels(wanted)[0]
    assert predictor.predict([ITEM], K, exclude=given) == wanted


@pytest.mark.parametrize("most", [1, 5, K])
def test_lists_hold_only_labels_that_are_allowed_and_all_of_these(either, most):
    rng = np.random.default_rng(0)
    for count in range(L + 1):
        allowed, excluded = set(rng.permutation(L)[:count].tolist()), {0, 1}
        ids = [f"label{label}" for label in (*allowed, L + 7)]
        (found,) = labels(
            either.predict([ITEM], most, within=ids, exclude=[f"label{one}" for one in excluded])
        )
        assert len(found) == min(most, len(allowed - excluded))
        assert set(found) <= allowed - excluded


def test_allowing_all_labels_changes_nothing(either):
    everything = [f"label{label}" for label in range(L)]
    items = [ITEM, ITEM | {"id": "label1"}]
    wanted, found = either.predict(items, K), either.predict(items, K, within=everything)
    assert labels(found) == labels(wanted)
    assert found[0][0].score == pytest.approx(wanted[0][0].score, abs=1e-6)


@pytest.mark.parametrize("given", [{"id": "label5"}, [["label5"]], [5.5], b"label5"])
def test_what_is_no_id_is_rejected(predictor, given):
    with pytest.raises(InputError, match=r"^exclude: found .*; expected an id: a text or a whole"):
        read_ids(given, "exclude")


def test_all_labels_with_an_id_are_found():
    finder = LabelFinder(Strings.pack(["a", "b", "a", "c", "a"]), np.arange(5))
    assert [*finder.all_of("a")] == [4, 2, 0] and [*finder.all_of("no")] == []


def test_what_is_barred_is_cut_out_and_labels_after_it_move_up():
    barred = Barred(np.array([[3, -1], [-1, -1], [1, 2]], np.int32), np.array([7], np.int32))
    lists = Shortlist(
        np.tile(np.array([7, 3, 1, 2, -1], np.int32), (3, 1)),
        np.tile(np.array([0.9, 0.8, 0.7, 0.6, -np.inf], np.float32), (3, 1)),
    )
    found = barred.cut(lists, 3)
    np.testing.assert_array_equal(found.labels, [[1, 2, -1], [3, 1, 2], [3, -1, -1]])
    none = -np.inf
    wanted = np.float32([[0.7, 0.6, none], [0.8, 0.7, 0.6], [0.8, none, none]])
    np.testing.assert_array_equal(found.similarities, wanted)
    np.testing.assert_array_equal(barred.rows, [True, True, True])
    np.testing.assert_array_equal(Barred(barred.own, barred.everywhere[:0]).rows, [1, 0, 1])


def test_long_lists_keep_their_order():
    rng = np.random.default_rng(0)
    order = np.array([rng.permutation(200) for _ in range(5)], np.int32)
    banned = np.sort(rng.permutation(200)[:60]).astype(np.int32)
    barred = Barred(np.full((5, 1), -1, np.int32), banned)
    near = np.tile(np.linspace(1, 0, 200, dtype=np.float32), (5, 1))
    found = barred.cut(Shortlist(order, near), 100)
    for row, labels in zip(found.labels, order, strict=True):
        assert row.tolist() == [label for label in labels if label not in banned][:100]
    assert (np.diff(found.similarities) < 0).all()


def test_lists_of_few_labels_are_as_long_where_another_item_of_the_block_bars_nothing():
    scores = csr_matrix(np.float32([[5, 4, 3, 2], [5, 4, 3, 2]]))
    barred = Barred(np.array([[0], [-1]], np.int32), np.zeros(0, np.int32))
    assert Rows(scores, barred).shortlist(2).labels.tolist() == [[1, 2], [0, 1]]


def test_warm_up_prepares_the_longer_searches_of_items_with_an_id(predictor, monkeypatch):
    asked = []
    monkeypatch.setattr(LabelIndex, "warm_up", lambda self, x, k: asked.append(k))
    predictor.warm_up(points=1, images=0, titles=1)
    longer = min(K + FEWEST_SPARE, len(predictor.index.entries.filled))
    assert set(asked) == {K, longer} and longer > K


def test_approximate_and_sharded_searches_fill_lists_up_too(mesh):
    rng = np.random.default_rng(0)
    vectors = unit(3000, 8)
    owners, x = np.repeat(np.arange(300), 10), vectors[:4]
    banned = np.unique(rng.integers(300, size=150)).astype(np.int32)
    barred = Barred(np.array([[0], [1], [-1], [-1]], np.int32), banned)
    exact = LabelIndex.build(vectors, owners, IndexConfig(backend="exact"))
    wanted = allowed_points(exact, x, 20, barred)
    assert (wanted.labels >= 0).all() and not np.isin(wanted.labels, banned).any()
    for backend in ("sharded", "auto"):
        index = LabelIndex.build(vectors, owners, IndexConfig(backend=backend), mesh=mesh)
        found = allowed_points(index, x, 20, barred)
        assert (found.labels >= 0).all() and not np.isin(found.labels, banned).any()
        if backend == "sharded":
            np.testing.assert_array_equal(found.labels, wanted.labels)


@pytest.mark.parametrize("exact", [100_000, 0])
def test_few_and_many_allowed_labels_are_searched_alike(monkeypatch, exact):
    """With few, their entries are compared exactly; with many, longer lists of all are cut."""
    monkeypatch.setattr(barred_module, "_EXACT", exact)
    vectors, rng = unit(900, 8), np.random.default_rng(1)
    index = LabelIndex.build(vectors, np.repeat(np.arange(300), 3), IndexConfig(backend="exact"))
    x = np.concatenate([vectors[:4], np.zeros((1, 8), np.float32)])
    some = np.unique(rng.integers(300, size=60)).astype(np.int32)
    own = np.stack([np.repeat(some[0], 5), np.full(5, -1)], 1).astype(np.int32)
    barred = Barred(own, some[5:9], Within(some))
    found = allowed_points(index, x, 20, barred)
    left = np.setdiff1d(some, [some[0], *some[5:9]])
    cosines = (x[:4] @ vectors.T).reshape(4, 300, 3).max(2)[:, left]
    wanted = left[np.argsort(-cosines, axis=1, kind="stable")[:, :20]]
    np.testing.assert_array_equal(found.labels[:4], wanted)
    np.testing.assert_allclose(found.similarities[:4], -np.sort(-cosines)[:, :20], atol=1e-6)
    assert (found.labels[4] == -1).all()


def test_a_first_search_is_longer_where_more_is_barred_for_all():
    assert [first_spare(100, gone, 1000) for gone in (0, 90, 200, 500, 990, 1000)] == [
        16, 16, 64, 256, 1024, 1024,
    ]  # fmt: skip


def test_a_search_is_repeated_only_where_a_list_came_short():
    vectors, asked = unit(400, 8), []
    index = LabelIndex.build(vectors, np.arange(400), IndexConfig(backend="exact"))

    class Counting(ExactSearcher):
        def shortlist(self, queries, k):
            asked.append((len(queries), k))
            return super().shortlist(queries, k)

    counting = dataclasses.replace(index, searcher=Counting(index.entries))
    nearest = np.argsort(-(vectors[:1] @ vectors.T)[0])[:40]
    barred = Barred(np.full((3, 1), -1, np.int32), np.sort(nearest).astype(np.int32))
    found = allowed_points(counting, np.concatenate([vectors[:1], -vectors[:2]]), 10, barred)
    assert (found.labels >= 0).all()
    assert asked == [(3, 26), (1, 74)]


def test_the_parts_of_a_score_sum_up_to_it_by_their_weights(either):
    items = [ITEM | {"id": "label1"}, {"title": "blue chair"}]
    answers = either.predict(items, K, explain=True)
    assert [[dataclasses.replace(one, why=None) for one in answer] for answer in answers] == (
        either.predict(items, K)
    )
    for one in (one for answer in answers for one in answer):
        total = sum(part.value * part.weight for part in one.why.parts.values())
        assert total == pytest.approx(one.score, abs=1e-5)
        own = either.loader.slots(either.dataset.labels, np.array([one.label]))[1].sum()
        grid = np.array(one.why.attention)
        assert grid.shape == (1, own) and (grid >= 0).all()
        np.testing.assert_allclose(grid.sum(1), 1 if own else 0, atol=1e-6)
