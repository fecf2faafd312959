"""Warm and cold test points are measured apart."""

import dataclasses

import numpy as np
import pytest

from mufin_jax.data.strings import Strings
from mufin_jax.evaluation.rankings import drop, evaluate_ranking
from mufin_jax.evaluation.summary import summary
from mufin_jax.evaluation.warm_cold import by_kind
from mufin_jax.report.data_panels import warm_and_cold
from mufin_jax.report.panel import Missing


def with_ids(dataset, known):
    """The data set whose test points at these places are labels, by their numbers."""
    ids = [f"test{i}" for i in range(len(dataset.test))]
    for place, label in known.items():
        ids[place] = dataset.labels.ids[label]
    return dataclasses.replace(
        dataset, test=dataclasses.replace(dataset.test, ids=Strings.pack(ids))
    )


@pytest.fixture
def ranking(dataset):
    rng = np.random.default_rng(0)
    size = dataset.num_labels
    return np.stack([rng.permutation(size).astype(np.int32) for _ in range(len(dataset.test))])


def test_warm_points_are_labels_with_a_training_pair_and_both_kinds_are_measured(dataset, ranking):
    trained = np.asarray(dataset.train.pairs.sum(axis=0)).ravel()
    assert trained[3] > 0
    # The overlap filter has a relevant label of points 1 and 2, and all of point 4.
    taken = dataset.test.pairs.tolil()
    taken[[0, 3, *range(5, len(dataset.test))]] = 0
    taken[1, dataset.test.pairs[1].indices[0]] = taken[2, dataset.test.pairs[2].indices[0]] = 0
    test = dataclasses.replace(dataset.test, filter=taken.tocsr())
    changed = with_ids(dataclasses.replace(dataset, test=test), {1: 3, 4: 0, 5: 3})
    found = by_kind({"row": ranking}, changed)
    assert list(found) == ["warm", "cold"]
    assert found["warm"]["points"] == 3 and found["cold"]["points"] == len(dataset.test) - 3
    assert found["warm"]["points_without_positive"] == 1
    for kind, rows in (("warm", [1, 4, 5]), ("cold", [0, 2, 3, *range(6, len(test))])):
        filter = test.filter[rows]
        expected = evaluate_ranking(ranking[rows], test.pairs[rows], filter, dataset.train.pairs)
        assert found[kind]["rows"] == {"row": expected}
        assert expected != evaluate_ranking(
            ranking[rows], test.pairs[rows], None, dataset.train.pairs
        )
        scored = drop(ranking[rows], test.pairs[rows], filter)
        assert found[kind]["points_without_positive"] == scored.without_positive


def test_the_means_of_both_kinds_add_up_to_the_mean_of_all(dataset, ranking):
    found = by_kind({"row": ranking}, with_ids(dataset, {0: 1, 2: 5}))
    test = dataset.test
    whole = evaluate_ranking(ranking, test.pairs, test.filter, dataset.train.pairs)
    for metric in ("P@1", "nDCG@5", "R@10", "AUC"):
        parts = sum(one["points"] * one["rows"]["row"][metric] for one in found.values())
        assert parts / len(test) == pytest.approx(whole[metric])


def test_a_kind_without_points_is_left_out(dataset, ranking):
    assert list(by_kind({"row": ranking}, dataset)) == ["cold"]
    warm = with_ids(dataset, dict.fromkeys(range(len(dataset.test)), 3))
    assert list(by_kind({"row": ranking}, warm)) == ["warm"]


def test_a_label_whose_only_pairs_are_in_the_overlap_filter_is_cold(dataset, ranking):
    pairs = dataset.train.pairs
    overlap = pairs.multiply(np.arange(dataset.num_labels) == 3).tocsr()
    changed = dataclasses.replace(
        with_ids(dataset, {0: 3}), train=dataclasses.replace(dataset.train, filter=overlap)
    )
    assert list(by_kind({"row": ranking}, changed)) == ["cold"]


ROW = {"P@1": 50.0, "P@5": 20.0, "R@10": 60.0}
RESULT = {
    "rows": {"MUFIN": ROW, "title_neighbours": ROW},
    "ceiling": None, "labels": 9, "points": 12, "points_without_positive": 0, "ms_per_point": 1.0,
    "ms_per_point_single": 2.0,
}  # fmt: skip
WARM = {"points": 8, "rows": {name: ROW | {"P@1": 70.0} for name in RESULT["rows"]}}
COLD = {"points": 4, "rows": {name: ROW | {"P@1": 10.0} for name in RESULT["rows"]}}


def test_a_narrow_table_and_a_panel_show_both_kinds_next_to_all_points():
    result = RESULT | {"warm": WARM, "cold": COLD}
    lines = summary(result).splitlines()
    head = next(i for i, line in enumerate(lines) if "P@1 warm" in line)
    columns = "P@1 all  P@1 warm  P@1 cold  R@10 all  R@10 warm  R@10 cold"
    assert lines[head].strip() == columns
    assert lines[head + 3].split() == "title neighbours 50.00 70.00 10.00 60.00 60.00 60.00".split()
    told = "warm: 8 test points, each of them a label with a training pair; cold: the other 4"
    assert lines[-1] == told
    panel = warm_and_cold(result)
    assert told in panel.caption and [*panel.tables["warm_cold"][1].values()] == [
        "title neighbours", 50.0, 70.0, 10.0, 60.0, 60.0, 60.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"warm": WARM}, "all 8 test points are warm: each is a label with a training pair"),
        ({"cold": COLD}, "all 4 test points are cold: none is a label with a training pair"),
    ],
)
def test_test_points_of_one_kind_need_no_second_table(kind, said):
    lines = summary(RESULT | kind).splitlines()
    assert lines[-1] == said and "P@1 warm" not in "".join(lines)
    with pytest.raises(Missing, match=said):
        warm_and_cold(RESULT | kind)


def test_metrics_of_an_older_version_are_shown_without_the_kinds():
    assert "warm" not in summary(RESULT)
    with pytest.raises(Missing, match="an older version evaluated this run"):
        warm_and_cold(RESULT)
