"""The measures against ir-measures, plain loops and values computed by hand."""

import math
import subprocess
import sys

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import P, Qrel, R, ScoredDoc, nDCG
from scipy.sparse import csr_array, csr_matrix

from mufin_jax.evaluation import metrics
from mufin_jax.runtime.errors import InputError


def sparse(rows, labels):
    """Relevance from lists of label ids."""
    dense = np.zeros((len(rows), labels), np.float32)
    for row, ids in enumerate(rows):
        dense[row, list(ids)] = 1
    return csr_matrix(dense)


@st.composite
def cases(draw):
    """A padded ranking, relevance with empty rows and stored zeros, and training relevance."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    points, labels, width = draw(
        st.tuples(st.integers(1, 7), st.integers(2, 23), st.integers(1, 9))
    )
    width = min(width, labels)
    ranking = np.full((points, width), -1, np.int32)
    for row in ranking:
        kept = rng.integers(0, width + 1)
        row[:kept] = rng.permutation(labels)[:kept]
    relevance = csr_matrix(rng.random((points, labels)) < draw(st.sampled_from([0.05, 0.3, 0.8])))
    relevance = relevance.astype(np.float32)
    relevance.data[rng.random(relevance.nnz) < 0.2] = 0
    train = csr_matrix((rng.random((11, labels)) < 0.3).astype(np.float32))
    return ranking, relevance, train


def relevant_sets(relevance):
    return [set(np.flatnonzero(row)) for row in relevance.toarray()]


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 6))
def test_precision_recall_and_ndcg_agree_with_ir_measures(case, k):
    ranking, relevance, _ = case
    qrels = [
        Qrel(str(row), str(label), 1)
        for row, labels in enumerate(relevant_sets(relevance))
        for label in labels
    ]
    run = [
        ScoredDoc(str(row), str(label), -float(place))
        for row, labels in enumerate(ranking)
        for place, label in enumerate(labels)
        if label >= 0
    ]
    sums = {P @ k: 0.0, R @ k: 0.0, nDCG @ k: 0.0}
    if qrels and run:
        for result in ir_measures.iter_calc(list(sums), qrels, run):
            sums[result.measure] += result.value
    wanted = [100 * value / len(ranking) for value in sums.values()]
    assert metrics.precision(ranking, relevance, k) == pytest.approx(wanted[0])
    assert metrics.recall(ranking, relevance, k) == pytest.approx(wanted[1])
    assert metrics.ndcg(ranking, relevance, k) == pytest.approx(wanted[2])


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 6))
def test_psp_agrees_with_a_loop(case, k):
    ranking, relevance, train = case
    points, counts = train.shape[0], train.toarray().sum(0)
    C = (math.log(points) - 1) * 3.6**0.6
    q = [1 + C * (count + 2.6) ** -0.6 for count in counts]
    gained = ideal = 0.0
    for listed, wanted in zip(ranking, relevant_sets(relevance), strict=True):
        gained += sum(q[label] for label in listed[:k] if label in wanted)
        ideal += sum(sorted((q[label] for label in wanted), reverse=True)[:k])
    value = metrics.psp(ranking, relevance, metrics.inverse_propensity(train), k)
    assert value == pytest.approx(100 * gained / ideal if ideal else 0)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 9))
def test_auc_agrees_with_a_loop(case, k):
    ranking, relevance, _ = case
    shares = []
    for listed, wanted in zip(ranking, relevant_sets(relevance), strict=True):
        kinds = [label in wanted for label in listed[:k] if label >= 0]
        pairs = [
            i < j
            for i, first in enumerate(kinds)
            for j, second in enumerate(kinds)
            if first and not second
        ]
        shares.append(sum(pairs) / len(pairs) if pairs else 0)
    assert metrics.auc(ranking, relevance, k) == pytest.approx(np.mean(shares))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([1, 40, 1 << 22]))
def test_rank_sorts_by_score_then_label_for_any_block_size(seed, k, cells):
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 17)) < rng.choice([0, 0.1, 0.5, 1], (6, 1))
    values = rng.choice([-np.inf, -2.5, -1, -1e-30, -0.0, 0, 1e-30, 0.5, 3], (6, 17))
    rows, columns = np.nonzero(mask)
    shuffled = rng.permutation(len(rows))  # unsorted indices, as sparse products have them
    scores = csr_matrix((6, 17), dtype=np.float32)
    by_row = shuffled[np.argsort(rows[shuffled], kind="stable")]
    scores.indptr = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    scores.indices = columns[by_row].astype(np.int32)
    scores.data = values[rows[by_row], columns[by_row]].astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK_CELLS", cells)
        labels, ranked = metrics.best(scores, k)
    for row in range(6):
        wanted = sorted(np.flatnonzero(mask[row]), key=lambda label: (-values[row, label], label))
        wanted = wanted[:k]
        assert labels[row].tolist() == wanted + [-1] * (k - len(wanted))
        assert ranked[row, : len(wanted)].tolist() == [np.float32(values[row, w]) for w in wanted]
        assert np.isneginf(ranked[row, len(wanted) :]).all()


def test_a_nan_score_is_rejected():
    with pytest.raises(InputError, match="NaN"):
        metrics.rank(csr_matrix([[0.5, np.nan]]), 1)


def test_a_datapoint_without_positives_counts_as_zero():
    ranking = np.array([[2, 0, 1], [2, 0, 1]])
    relevance = sparse([{2}, {}], 5)
    assert metrics.precision(ranking, relevance, 1) == 50
    assert metrics.ndcg(ranking, relevance, 3) == 50
    assert metrics.recall(ranking, relevance, 3) == 50
    assert metrics.auc(ranking, relevance) == 0.5


def test_free_places_do_not_count_as_the_last_label():
    ranking, relevance = np.array([[0, -1, -1]]), sparse([{4}], 5)
    assert not metrics.listed_in(ranking, relevance).any()
    assert metrics.precision(ranking, relevance, 3) == 0


def test_missing_places_of_a_ranking_shorter_than_k_are_misses():
    ranking, relevance = np.array([[3, 1]]), sparse([{1, 3}], 5)
    assert metrics.precision(ranking, relevance, 5) == 40
    assert metrics.ndcg(ranking, relevance, 5) == 100
    assert metrics.recall(ranking, relevance, 5) == 100


def test_ndcg_by_hand():
    value = metrics.ndcg(np.array([[0, 1, 2]]), sparse([{1, 2, 3, 4}], 5), 3)
    gain, ideal = 1 / math.log2(3) + 0.5, 1 + 1 / math.log2(3) + 0.5
    assert value == pytest.approx(100 * gain / ideal)


def test_metrics_do_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(4)
    ranking = np.stack([rng.permutation(19)[:7] for _ in range(11)])
    relevance = csr_matrix((rng.random((11, 19)) < 0.4).astype(np.float32))
    whole = [metrics.recall(ranking, relevance, 7), metrics.auc(ranking, relevance)]
    closed = metrics.remove(ranking, relevance)
    monkeypatch.setattr(metrics, "BLOCK_CELLS", 15)  # two rows a block, the last of one
    blocked = [metrics.recall(ranking, relevance, 7), metrics.auc(ranking, relevance)]
    assert blocked == pytest.approx(whole)
    assert np.array_equal(metrics.remove(ranking, relevance), closed)


def test_psp_is_a_ratio_of_sums_not_a_mean_of_ratios():
    ranking, relevance = np.array([[0], [1]]), sparse([{0}, {2}], 3)
    assert metrics.psp(ranking, relevance, np.array([1.0, 2.0, 4.0]), 1) == pytest.approx(20)


def test_auc_by_hand():
    assert metrics.auc(np.array([[1, 0, 3, 2]]), sparse([{1, 3}], 5)) == pytest.approx(3 / 4)


def test_auc_gives_free_places_no_pairs():
    assert metrics.auc(np.array([[1, -1, -1]]), sparse([{1}], 5)) == 0
    assert metrics.auc(np.array([[0, 1, -1]]), sparse([{1}], 5)) == 0
    assert metrics.auc(np.array([[1, 0, -1]]), sparse([{1}], 5)) == 1


def test_inverse_propensity_by_hand():
    train = sparse([{0}, {0, 2}, {0}, {}], 3)
    C = (math.log(4) - 1) * 3.6**0.6
    wanted = [1 + C * 5.6**-0.6, 1 + C * 2.6**-0.6, 1 + C * 3.6**-0.6]
    assert metrics.inverse_propensity(train) == pytest.approx(wanted)


def test_with_two_training_points_every_label_has_weight_one():
    assert metrics.inverse_propensity(sparse([{0}, {1}], 3)) == pytest.approx([1, 1, 1])


def test_repeated_pairs_count_once():
    twice = csr_matrix((np.ones(3), [1, 1, 0], [0, 3]), shape=(1, 4))
    assert metrics.recall(np.array([[1]]), twice, 1) == 50
    assert metrics.frequencies(twice).tolist() == [1, 1, 0, 0]


def test_the_matrices_of_the_caller_are_not_changed():
    relevance = csr_matrix((np.array([0.0, 1.0, 1.0]), [2, 1, 1], [0, 3]), shape=(1, 4))
    metrics.ndcg(np.array([[1, 2]]), relevance, 2)
    assert relevance.indices.tolist() == [2, 1, 1]
    assert relevance.data.tolist() == [0, 1, 1]


@pytest.mark.parametrize("kind", [csr_matrix, csr_array])
def test_sparse_arrays_and_matrices_of_any_dtype_are_accepted(kind):
    for dtype in (bool, np.int8, np.float64):
        relevance = kind(sparse([{0, 2}, {1}], 3).astype(dtype))
        assert metrics.precision(np.array([[0], [0]]), relevance, 1) == 50


def test_cost_does_not_grow_with_the_number_of_labels():
    labels = 2_000_000_000
    relevance = csr_matrix((np.ones(1), [labels - 1], [0, 1]), shape=(1, labels))
    assert metrics.precision(np.array([[labels - 1]]), relevance, 1) == 100


def test_a_ranking_of_other_data_is_rejected():
    relevance = sparse([{0}, {1}], 3)
    with pytest.raises(InputError, match="label 3, expected ids below 3"):
        metrics.precision(np.array([[0], [3]]), relevance, 1)
    with pytest.raises(InputError, match="1 rows and the matrix 2"):
        metrics.precision(np.array([[0]]), relevance, 1)


def test_no_datapoints_score_zero():
    ranking, relevance = np.zeros((0, 3), np.int32), csr_matrix((0, 5))
    assert metrics.precision(ranking, relevance, 1) == 0
    assert metrics.psp(ranking, relevance, np.ones(5), 1) == 0
    assert metrics.auc(ranking, relevance) == 0


@pytest.mark.parametrize(
    "name", ["evaluation.metrics", "evaluation.rankings", "baselines.untrained"]
)
def test_metrics_and_floors_do_not_import_jax(name):
    code = f"import sys, mufin_jax.{name}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
