"""The stage that measures a run: metrics.json holds metrics after overlap filtering."""

import dataclasses

import numpy as np
import pytest
from contexts import context
from scipy import sparse
from small import SIZES

from mufin_jax.baselines.untrained import floors
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.strings import Strings
from mufin_jax.evaluation.summary import CONTENT, PAPER_MIX
from mufin_jax.prediction.mix import Mix, Weights, save_mixes
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import Stopped
from mufin_jax.runtime.storage.files import load_json
from mufin_jax.stages import evaluate as stage
from mufin_jax.stages.evaluate import EvaluateConfig, evaluate

L = SIZES["label"]
CONFIG = EvaluateConfig(timed_points=7, own_shortlists=False, frozen_neighbours=False)


@pytest.fixture
def measured(dataset, one_device, tmp_path, monkeypatch):
    """Measure a data set with the ranking 0, 1, ... for every test point; return metrics.json."""
    ranking = np.tile(np.arange(L, dtype=np.int32), (SIZES["test"], 1))
    scores = np.zeros(ranking.shape, np.float32)

    def measure(changed: Dataset):
        monkeypatch.setattr(Dataset, "load", lambda path, **_: changed)
        made = object.__new__(Predictor)
        made.ranking = None
        monkeypatch.setattr(stage.Predictor, "load", lambda *_: made)
        monkeypatch.setattr(stage, "rank_test", lambda *_: (ranking, scores))
        monkeypatch.setattr(stage, "time_blocks", lambda *_: 0.5)
        monkeypatch.setattr(stage, "time_single", lambda predictor, data, points: 2.0 * points)
        out = tmp_path / "evaluate"
        out.mkdir(exist_ok=True)
        Shortlist(ranking, scores).save(tmp_path / "retrieve" / "test")
        folders = {"prepare": dataset.path, "retrieve": tmp_path / "retrieve"}
        evaluate(CONFIG, context(out, one_device, folders))
        return load_json(out / "metrics.json")

    return measure


def test_floors_are_measured_after_the_overlap_filter(dataset, measured):
    test, train = dataset.test, dataset.train
    # The labels that most training points have are filtered for every second test point.
    popular = np.argsort(-train.pairs.getnnz(0), kind="stable")[:3]
    taken = np.zeros((len(test), L), np.float32)
    taken[::2, popular] = 1
    changed = dataclasses.replace(
        dataset, test=dataclasses.replace(test, filter=sparse.csr_matrix(taken))
    )
    found = measured(changed)
    expected, unfiltered = (
        floors(dataclasses.replace(dataset, test=dataclasses.replace(test, filter=filter)))
        for filter in (changed.test.filter, None)
    )
    for name, values in expected.items():
        assert found["rows"][name] == values
        assert found["floors"][name] == values["P@1"]
    assert expected["popularity"] != unfiltered["popularity"]  # the filter bites


def test_rows_of_warm_and_of_cold_points_stand_next_to_those_of_all(dataset, measured):
    cold = measured(dataset)
    assert (cold["ms_per_point"], cold["ms_per_point_single"]) == (0.5, 2.0 * CONFIG.timed_points)
    assert "warm" not in cold and cold["cold"]["points"] == cold["points"]
    assert cold["cold"]["rows"] == cold["rows"]  # all test points are cold
    (label,) = dataset.train.pairs[0].indices[:1]
    ids = [dataset.labels.ids[int(label)], *list(dataset.test.ids)[1:]]
    changed = dataclasses.replace(
        dataset, test=dataclasses.replace(dataset.test, ids=Strings.pack(ids))
    )
    found = measured(changed)
    assert found["warm"]["points"] == 1 and found["cold"]["points"] == len(ids) - 1
    assert found["warm"]["rows"].keys() == found["rows"].keys() == {*cold["rows"], "walk"}
    assert {name: found["rows"][name] for name in cold["rows"]} == cold["rows"]


def test_data_without_test_points_leave_nothing_to_measure(dataset, measured):
    none = dataclasses.replace(dataset.test, text=dataset.test.text[:0])
    found = measured(dataclasses.replace(dataset, test=none))
    assert found["points"] == 0 and found["rows"] == found["floors"] == {}


def test_rows_of_a_run_with_parts_are_ranked_by_what_their_names_claim(
    dataset, one_device, tmp_path, monkeypatch
):
    """The row without g and sg has the weights that were fitted without them."""
    mixes = {
        name: Mix(*[Weights({part: 1.0})] * 2) for name, part in (("all", "g"), ("content", "z"))
    }
    (tmp_path / "select").mkdir()
    save_mixes(tmp_path / "select" / "mixes.json", mixes)
    lists = Shortlist(
        np.zeros((SIZES["test"], 2), np.int32), np.zeros((SIZES["test"], 2), np.float32)
    )
    lists.save(tmp_path / "retrieve" / "test")
    made, asked = object.__new__(Predictor), []
    made.ranking = PartRanking({}, mixes["all"], np.zeros(L, bool), dataset.labels.ids)
    monkeypatch.setattr(stage.Predictor, "load", lambda *_: made)

    def rank(predictor, dataset, name, mixes, lists):
        asked.append((name, mixes, lists))
        raise Stopped

    monkeypatch.setattr(stage, "rank_rows", rank)
    folders = {"prepare": dataset.path}
    folders |= {name: tmp_path / name for name in ("retrieve", "select")}
    with pytest.raises(Stopped):
        evaluate(EvaluateConfig(), context(tmp_path / "out", one_device, folders))
    ((name, found, given),) = asked
    assert (name, found) == ("MUFIN", {CONTENT: mixes["content"]})
    assert given.pop(PAPER_MIX) is None
    ((name, module_1),) = given.items()
    assert "Module I" in name and (module_1.labels == lists.labels).all()
