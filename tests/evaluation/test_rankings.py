"""Rankings after overlap filtering, and the tables of their scores."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.evaluation import metrics, tables
from mufin_jax.evaluation import rankings as rankings_module
from mufin_jax.evaluation.summary import summary
from mufin_jax.runtime.errors import InputError


def sparse(rows, labels):
    """A matrix of ones from lists of label ids."""
    dense = np.zeros((len(rows), labels), np.float32)
    for row, ids in enumerate(rows):
        dense[row, list(ids)] = 1
    return csr_matrix(dense)


def random_case(seed, points=9, labels=31, width=12):
    rng = np.random.default_rng(seed)
    ranking = np.stack([rng.permutation(labels)[:width] for _ in range(points)]).astype(np.int32)
    ranking[2, 5:] = -1
    relevance = csr_matrix((rng.random((points, labels)) < 0.3).astype(np.float32))
    relevance.data[rng.random(relevance.nnz) < 0.1] = 0
    overlap = csr_matrix((rng.random((points, labels)) < 0.2).astype(np.float32))
    train = csr_matrix((rng.random((13, labels)) < 0.2).astype(np.float32))
    return ranking, relevance, overlap, train


def test_filtered_labels_are_removed_and_the_rest_moves_up():
    ranking = np.array([[3, 1, 0, 2], [4, 0, -1, -1], [2, 3, 4, 0]])
    relevance = sparse([{1, 2}, {4}, {0}], 5)
    scored = rankings_module.drop(ranking, relevance, sparse([{1, 3}, {4}, {1}], 5))
    assert scored.ranking.tolist() == [[0, 2, -1, -1], [0, -1, -1, -1], [2, 3, 4, 0]]
    assert scored.relevance.toarray().tolist() == sparse([{2}, {}, {0}], 5).toarray().tolist()
    assert scored.without_positive == 1


@pytest.mark.parametrize("seed", range(5))
def test_drop_agrees_with_a_loop(seed):
    ranking, relevance, overlap, _ = random_case(seed)
    scored = rankings_module.drop(ranking, relevance, overlap)
    hidden = overlap.toarray() != 0
    for row, listed in enumerate(ranking):
        kept = [label for label in listed if label >= 0 and not hidden[row, label]]
        assert scored.ranking[row].tolist() == kept + [-1] * (len(listed) - len(kept))
    assert np.array_equal(scored.relevance.toarray() != 0, (relevance.toarray() != 0) & ~hidden)


@pytest.mark.parametrize("overlap", [None, csr_matrix((2, 4)), sparse([{3}, {3}], 4)])
def test_a_filter_without_listed_pairs_changes_nothing(overlap):
    ranking, relevance = np.array([[0, 1], [2, -1]]), sparse([{1}, {0}], 4)
    scored = rankings_module.drop(ranking, relevance, overlap)
    assert np.array_equal(scored.ranking, ranking)
    assert np.array_equal(scored.relevance.toarray(), relevance.toarray())
    assert scored.without_positive == 0


def test_stored_zeros_leave_a_row_without_a_positive():
    relevance = csr_matrix((np.array([0.0, 1.0]), [1, 2], [0, 1, 2]), shape=(2, 3))
    scored = rankings_module.drop(np.array([[1], [1]]), relevance, None)
    assert scored.without_positive == 1
    assert scored.relevance.nnz == 1
    assert relevance.nnz == 2


def test_no_relevant_pair_at_all_scores_zero_under_a_filter():
    ranking, nothing, overlap = (
        np.array([[0, 1], [-1, -1]]),
        csr_matrix((2, 4)),
        sparse([{0}, {}], 4),
    )
    assert rankings_module.drop(ranking, nothing, overlap).without_positive == 2
    result = rankings_module.evaluate_ranking(ranking, nothing, overlap, overlap)
    assert set(result.values()) == {0.0}


def test_every_metric_is_computed_after_filtering():
    ranking, relevance, overlap, train = random_case(7)
    result = rankings_module.evaluate_ranking(ranking, relevance, overlap, train)
    left, truth, _ = rankings_module.drop(ranking, relevance, overlap)
    weights = metrics.inverse_propensity(train)
    assert tuple(result) == rankings_module.METRICS
    assert result["P@3"] == metrics.precision(left, truth, 3)
    assert result["nDCG@5"] == metrics.ndcg(left, truth, 5)
    assert result["PSP@1"] == metrics.psp(left, truth, weights, 1)
    assert result["R@10"] == metrics.recall(left, truth, 10)
    assert result["AUC"] == metrics.auc(left, truth, 100)
    assert result != rankings_module.evaluate_ranking(ranking, relevance, None, train)


def test_spare_places_keep_a_hundred_labels_after_filtering():
    overlap = sparse([{0, 1}], 110)
    width = metrics.DEPTH + metrics.spare_places(overlap)
    ranking, relevance = np.arange(width)[None], sparse([{101, 102}], 110)
    train = sparse([{0}], 110)
    assert rankings_module.evaluate_ranking(ranking, relevance, overlap, train)["R@100"] == 50
    # Without a filter, places beyond the hundredth do not count.
    assert rankings_module.evaluate_ranking(ranking, relevance, None, train)["R@100"] == 0


def test_a_label_listed_twice_is_rejected():
    ranking, relevance = np.array([[1, 2, -1, -1], [2, 1, 2, -1]]), sparse([{1}, {2}], 4)
    with pytest.raises(InputError, match="row 1 of the ranking names label 2 twice"):
        rankings_module.evaluate_ranking(ranking, relevance, None, relevance)


def test_matrices_of_different_data_are_rejected():
    ranking, relevance = np.array([[1]]), sparse([{1}], 4)
    with pytest.raises(InputError, match="filter is 2 x 4 and the relevance 1 x 4"):
        rankings_module.evaluate_ranking(ranking, relevance, csr_matrix((2, 4)), relevance)
    with pytest.raises(InputError, match="train has 5 labels and test 4"):
        rankings_module.evaluate_ranking(ranking, relevance, None, csr_matrix((3, 5)))
    with pytest.raises(InputError, match="2 rows"):
        rankings_module.evaluate_ranking(np.array([[1], [2]]), relevance, relevance, relevance)


def test_the_category_of_a_datapoint_is_that_of_most_of_its_relevant_labels():
    codes, names = np.array([1, 1, 0, 0, -1, 2]), ["lamps", "chairs", "rugs", "empty"]
    relevance = sparse([{0, 1, 2}, {1, 2}, {4}, {}, {2, 4, 5, 3}], 6)
    ranking = np.array([[0, 1], [2, 5], [4, 0], [0, 1], [5, 0]])
    result = rankings_module.by_category(ranking, relevance, codes, names, k=2)
    assert result == {
        "lamps": {"P@2": 50.0, "points": 2},  # point 4, and point 1: of a tie the smaller code
        "chairs": {"P@2": 100.0, "points": 1},
    }


def test_popularity_bins_share_the_volume_and_add_up_to_recall():
    ranking, relevance, _, train = random_case(3)
    rows = rankings_module.by_popularity(ranking, relevance, train)
    assert sum(row["R@10"] for row in rows) == pytest.approx(metrics.recall(ranking, relevance, 10))
    assert sum(row["labels"] for row in rows) == 31
    assert sum(row["volume"] for row in rows) == train.nnz
    assert max(row["volume"] for row in rows) - min(row["volume"] for row in rows) <= 8
    assert rows[0]["labels"] < rows[-1]["labels"]


def test_popularity_bins_by_hand():
    # Label 2 has half of the volume; label 1 was never trained on.
    train = sparse([{2, 0}, {2, 3}, {2, 4}], 5)
    rows = rankings_module.by_popularity(
        np.array([[2, 1], [3, 0]]), sparse([{1, 2}, {0, 2}], 5), train, bins=2
    )
    assert rows == [
        {"R@10": 25.0, "labels": 1, "volume": 3},
        {"R@10": 50.0, "labels": 4, "volume": 3},
    ]


def test_the_table_is_aligned_and_has_dashes_for_missing_values():
    ours = {"P@1": 7.0, "P@3": 100.0, "AUC": 0.25}
    rows = {"ours": ours, "MUFIN, published": tables.PAPER_MUFIN}
    assert tables.table(rows, ("P@1", "P@3", "AUC")).splitlines() == [
        "                    P@1     P@3    AUC",
        "--------------------------------------",
        "ours               7.00  100.00  0.250",
        "MUFIN, published  52.30       \N{EN DASH}  0.600",
    ]


def test_on_the_paper_s_data_the_report_prints_the_published_rows():
    result = {"rows": {}, "ceiling": None, "labels": 303_296, "points": 1,
              "points_without_positive": 0, "ms_per_point": 1.0,
              "ms_per_point_single": 1.0}  # fmt: skip
    lines = summary(result).splitlines()
    found = {line.split("  ")[0]: line.split() for line in lines if "as published" in line}
    for name, first in (("MUFIN", "52.30"), ("SiameseXML", "48.64"),
                        ("CLIP + MUFIN, fine-tuned", "40.49"),
                        ("VisualBERT + MUFIN, fine-tuned", "49.11")):  # fmt: skip
        assert first in found[f"{name}, as published"]
    assert "as published" not in summary(result | {"labels": 303_295})


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (0, "all of them have a relevant label after overlap filtering"),
        (3, "3 of them have no relevant label after overlap filtering"),
    ],
)
def test_the_summary_counts_points_without_a_relevant_label(without, words):
    result = {"rows": {}, "ceiling": None, "labels": 9, "points": 12,
              "points_without_positive": without, "ms_per_point": 1.0,
              "ms_per_point_single": 2.0}  # fmt: skip
    line = f"12 test points, {words}; 1.00 ms a point in batches, 2.00 ms alone"
    assert summary(result).splitlines()[-1] == line


@pytest.mark.parametrize(("whole", "advised"), [(31.0, True), (33.0, False), (35.0, False)])
def test_the_report_says_what_to_try_if_module_4_lowers_p_at_1(whole, advised):
    rows = {"MUFIN": {"P@1": whole}, "Module I alone (P-I-bag)": {"P@1": 33.0}}
    result = {"rows": rows, "ceiling": None, "labels": 9, "points": 1,
              "points_without_positive": 0, "ms_per_point": 1.0,
              "ms_per_point_single": 1.0}  # fmt: skip
    assert ("Module IV lowers P@1: give it more steps" in summary(result)) == advised
