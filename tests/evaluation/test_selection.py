"""The search of weights: its objective by hand, the best part as a floor, no luck."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.evaluation import selection
from mufin_jax.evaluation.rankings import evaluate_ranking
from mufin_jax.evaluation.selection import GRID, Judged, fit_weights
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_ranking import Candidates
from mufin_jax.runtime.distributed.processes import THIS_RUN
from mufin_jax.runtime.errors import Stopped

POINTS, LABELS, WIDTH = 40, 30, 25


@pytest.fixture
def made():
    """Candidates whose parts each know something of the truth, and a filter."""
    rng = np.random.default_rng(3)
    truth = rng.random((POINTS, LABELS)) < 0.2
    truth[:3] = False  # points without a relevant label
    dropped = rng.random((POINTS, LABELS)) < 0.1
    labels = np.sort(np.array([rng.permutation(LABELS)[:WIDTH] for _ in range(POINTS)]), axis=1)
    labels[0, -4:] = -1
    hit = truth[np.arange(POINTS)[:, None], labels]
    values = {
        name: (share * hit + rng.normal(size=hit.shape)).astype(np.float32)
        for name, share in (("z", 1.0), ("v", 1.5), ("t", 0.0))
    }
    found = Candidates(labels.astype(np.int32), values, labels % 3 > 0, np.ones(POINTS, bool))
    return found, csr_matrix(truth, dtype=np.float32), csr_matrix(dropped, dtype=np.float32)


def test_the_objective_is_that_of_the_test_set_under_its_filter(made):
    found, truth, dropped = made
    judged, weights = Judged.judge(found, truth, dropped), Weights({"z": 1.0, "v": 0.5})
    ranking, _ = found.ranked(found.mixed(Mix(weights, weights)), WIDTH)
    scored = np.flatnonzero(judged.positives)
    assert len(scored) < POINTS - 2
    wanted = evaluate_ranking(ranking[scored], truth[scored], dropped[scored], truth)
    mean = np.mean([wanted[name] for name in ("P@1", "nDCG@5", "R@10")])
    assert judged.objective(weights) == pytest.approx(mean)


def test_the_mix_is_not_below_its_best_part_and_gains_from_two_that_know_something(made):
    judged = Judged.judge(*made)
    fit = fit_weights(judged, ["z", "v", "t"])
    assert fit.objective > max(fit.alone.values()) + 1
    assert fit.objective == judged.objective(fit.weights)
    assert {"z", "v"} <= set(fit.weights.parts)
    assert fit == fit_weights(judged, ["z", "v", "t"])


def test_a_gain_within_its_own_error_adds_no_part(made):
    """Of the part t, which knows nothing, some weight helps some points by luck."""
    found, truth, dropped = made
    judged = Judged.judge(found, truth, dropped)
    alone = judged.by_point(Weights({"v": 1.0}))
    by_luck = max(
        (judged.by_point(Weights({"v": 1.0, "t": weight})) - alone for weight in GRID),
        key=np.mean,
    )
    assert 0 < by_luck.mean() < by_luck.std() / len(by_luck) ** 0.5
    assert fit_weights(judged, ["v", "t"]).weights.parts == {"v": 1.0}


@pytest.mark.parametrize(("helped", "taken"), [(3, False), (6, True)])
def test_a_change_must_gain_two_standard_errors(helped, taken):
    """Part t corrects some of 50 points and harms none: 3 are 1.8 standard errors, 6 are 2.6."""
    labels = np.tile(np.arange(2, dtype=np.int32), (50, 1))
    v, t = np.zeros((2, 50, 2), np.float32)
    v[:, 0], t[:, 1] = 10, 0.01
    v[:helped], t[:helped] = (0, 0.1), (1, 0)
    truth = csr_matrix(labels == 0, dtype=np.float32)
    found = Candidates(labels, {"v": v, "t": t}, labels >= 0, np.ones(50, bool))
    judged = Judged.judge(found, truth, csr_matrix(truth.shape))
    assert ("t" in selection._searched(judged, ["v", "t"], False).parts) == taken


def two_halves():
    """Two parts that each find the label of one half of the points, and say little else."""
    labels = np.tile(np.arange(3, dtype=np.int32), (40, 1))
    hit = labels == 0
    one, other = (
        np.where(hit & half[:, None], 1.0, 0.0) for half in np.arange(40) % 2 == [[0], [1]]
    )
    noise = np.random.default_rng(0).random((2, 40, 3)) / 3
    values = {"v": (one + noise[0]).astype(np.float32), "t": (other + noise[1]).astype(np.float32)}
    found = Candidates(labels, values, labels >= 0, np.ones(40, bool))
    truth = csr_matrix(hit, dtype=np.float32)
    return Judged.judge(found, truth, csr_matrix(truth.shape))


def test_weights_are_the_average_of_searches_on_samples_of_the_points(monkeypatch):
    searched, seen = selection._searched, []

    def search(judged, names, shifts):
        seen.append(searched(judged, names, shifts))
        return seen[-1]

    monkeypatch.setattr(selection, "_searched", search)
    fit = fit_weights(two_halves(), ["v", "t"], seed=3)
    assert len(seen) == selection.RESAMPLES and len({str(one) for one in seen}) > 1
    for name, weight in fit.weights.parts.items():
        shares = [one.parts.get(name, 0) / max(one.parts.values()) for one in seen]
        assert weight == pytest.approx(np.mean(shares), abs=1e-4)
    assert fit.weights.parts.keys() == {"v", "t"}
    again, other = (fit_weights(two_halves(), ["v", "t"], seed=seed) for seed in (3, 4))
    assert again == fit and other.weights != fit.weights


def test_an_average_below_the_best_part_is_not_taken(monkeypatch):
    monkeypatch.setattr(selection, "_average", lambda found: Weights({"v": 1.0, "t": -5.0}))
    judged = two_halves()
    fit = fit_weights(judged, ["v", "t"])
    assert list(fit.weights.parts.values()) == [1.0]
    assert fit.objective == max(fit.alone.values())


def test_a_part_that_few_samples_take_is_left_out():
    found = [Weights({"v": 2.0})] * 19 + [Weights({"v": 1.0, "t": 1.0}, 1.5, 0.4)]
    assert selection._average(found) == Weights({"v": 1.0}, 1.025, 0.02)
    twice = selection._average([*found[1:], found[-1]])
    assert twice.parts == {"v": 1.0, "t": 0.1}


def test_an_average_scales_offsets_as_it_scales_weights():
    found = [Weights({"z": 2.0}, 1.5, 1.0), Weights({"z": 0.5}, 0.5, 0.1)]
    assert selection._average(found) == Weights({"z": 1.0}, 1.0, 0.35)


def test_a_single_part_is_its_own_mix(made):
    fit = fit_weights(Judged.judge(*made), ["t"])
    assert set(fit.weights.parts) == {"t"} and fit.objective >= fit.alone["t"]


def test_labels_without_a_training_pair_are_shifted_where_it_helps():
    """The part scores untrained labels too low, by a constant."""
    labels = np.tile(np.arange(6, dtype=np.int32), (8, 1))
    trained = labels < 3
    value = np.where(trained, 0.5, 0.1).astype(np.float32) + labels * 1e-3
    found = Candidates(labels, {"z": value.astype(np.float32)}, trained, np.zeros(8, bool))
    truth = csr_matrix(~trained, dtype=np.float32)
    fit = fit_weights(Judged.judge(found, truth, csr_matrix(truth.shape)), ["z"])
    assert fit.objective == 100 > fit.alone["z"]
    assert (fit.weights.untrained_offset, fit.weights.untrained_scale) != (0, 1)


def test_points_without_a_relevant_label_decide_nothing(made):
    found, truth, dropped = made
    empty = csr_matrix(truth.shape, dtype=np.float32)
    fit = fit_weights(Judged.judge(found, empty, dropped), ["z", "v"])
    assert fit.objective == 0 and fit.points == 0 and fit.weights.parts == {"z": 1.0}


def test_candidates_that_tie_come_in_the_order_of_their_labels():
    """A part that knows one label of many candidates: the measure must not depend on luck."""
    width = 300
    labels = np.tile(np.arange(width, dtype=np.int32), (5, 1))
    value = (labels == 250).astype(np.float32)
    found = Candidates(labels, {"t": value}, labels >= 0, np.zeros(5, bool))
    truth = csr_matrix((labels > 0) & (labels < 10), dtype=np.float32)
    judged = Judged.judge(found, truth, csr_matrix(truth.shape))
    ranking, _ = found.ranked(value, 10)
    wanted = evaluate_ranking(ranking, truth, None, truth)
    mean = np.mean([wanted[name] for name in ("P@1", "nDCG@5", "R@10")])
    assert judged.objective(Weights({"t": 1.0})) == pytest.approx(mean)
    assert wanted["R@10"] > 80


def test_a_signal_stops_the_search(made, monkeypatch):
    monkeypatch.setattr(THIS_RUN.stop, "is_set", lambda: True)
    with pytest.raises(Stopped, match="select: stopped by a signal"):
        fit_weights(Judged.judge(*made), ["z", "v"])


def test_a_part_that_knows_all_labels_fills_lists_up_and_lowers_nothing():
    """The vote names one label a query, the right one."""
    labels = np.tile(np.arange(6, dtype=np.int32), (8, 1))
    truth = np.zeros((8, 6), np.float32)
    truth[np.arange(8), np.arange(8) % 6] = 1
    z = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    found = Candidates(labels, {"v": truth, "z": z}, labels >= 0, np.ones(8, bool))
    judged = Judged.judge(found, csr_matrix(truth), csr_matrix(truth.shape))
    fit = fit_weights(judged, ["z", "v"])
    assert fit.weights.parts == {"v": 1.0, "z": 1e-3} and fit.objective == fit.alone["v"] == 100
    assert fit_weights(judged, ["v"]).weights.parts == {"v": 1.0}


@pytest.mark.parametrize("gap, filled", [(5e-4, {"z": 1e-4}), (5e-8, {}), (0.1, {"z": 1e-3})])
def test_a_part_that_fills_lists_up_gets_the_largest_weight_that_lowers_nothing(gap, filled):
    """The votes differ by the gap; z has them in the wrong order."""
    values = {"v": np.float32([[gap, 0]]), "z": np.float32([[0, 1]])}
    labels = np.array([[0, 1]], np.int32)
    found = Candidates(labels, values, labels >= 0, np.ones(1, bool))
    judged = Judged.judge(found, csr_matrix([[1.0, 0.0]]), csr_matrix((1, 2)))
    weights = selection._filled(judged, Weights({"v": 1.0}), {"v": 100.0, "z": 50.0})
    assert weights.parts == {"v": 1.0} | filled
