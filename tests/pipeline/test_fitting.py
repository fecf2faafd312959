"""`fit`: what it runs, where, and what it returns."""

import dataclasses
import gc
import json
import shutil

import numpy as np
import pytest
from minute import MINUTE

import mufin_jax as mufin
from mufin_jax.pipeline import fitting
from mufin_jax.pipeline.named_settings import with_settings
from mufin_jax.pipeline.presets import presets
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json

ITEMS = [
    {"id": f"B{i}", "title": f"lamp {i % 7}", "related": [f"B{(i + 1) % 60}", f"B{i * 7 % 20}"]}
    for i in range(60)
]


@pytest.fixture(scope="module")
def dataset():
    return mufin.Dataset.from_items(ITEMS, test=0.2, preset=MINUTE)


@pytest.fixture
def ran(monkeypatch):
    """The experiments that `fit` runs, none of which is trained."""
    experiments = []

    def run(experiment, **_):
        experiments.append(experiment)
        return {"P@1": 12.3456, "points": 1200}

    monkeypatch.setattr(fitting, "run", run)
    return experiments


def test_the_prepared_data_of_a_dataset_are_those_of_the_run(dataset, ran, tmp_path):
    run = mufin.fit(dataset, MINUTE, workdir=tmp_path / "run", seed=3)
    (experiment,) = ran
    assert experiment.data == dataset.path.parent / "items"
    assert (experiment.prepare.test_share, experiment.seed) == (0.2, 3)
    assert (run.folder / "prepare" / "done.json").is_file()
    np.testing.assert_array_equal(run.dataset.texts, dataset.texts)
    assert repr(run) == f"FittedRun('{tmp_path}/run': P@1 12.3 of 1,200 test points)"


def test_other_settings_of_preparation_prepare_the_items_again(dataset, ran, tmp_path):
    mufin.fit(dataset, MINUTE, workdir=tmp_path, prepare={"max_tokens": 5})
    assert ran[0].prepare == dataclasses.replace(MINUTE.prepare, max_tokens=5, test_share=0.2)
    assert not (tmp_path / "prepare").exists()


def test_raw_data_are_taken_as_the_command_takes_them(ran, tmp_path):
    mufin.fit(str(tmp_path / "products.csv"), "miniature")
    assert ran[0].data == tmp_path / "products.csv"
    assert ran[0].pretrain == presets()["miniature"].pretrain


def test_a_run_without_a_folder_stays_as_long_as_what_was_loaded_from_it(dataset, ran):
    run = mufin.fit(dataset, MINUTE)
    folder, loaded = run.folder, run.dataset
    del run
    gc.collect()
    assert folder.is_dir()
    del loaded
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["best"], {}, "^preset='best': expected one of miniature, catalogue"),
        ([MINUTE], {"pretrain": {"epoch": 3}}, "'pretrain.epoch'; did you mean pretrain.epochs"),
        ([MINUTE], {"lr": 0.1}, "'lr'; did you mean pretrain.optimizer.rate or finetune.opt"),
        ([MINUTE], {"seeds": 3}, "^unknown setting 'seeds'; did you mean seed?"),
        ([MINUTE], {"pretrain.epochs.x": 3}, "^unknown setting 'pretrain.epochs.x'"),
        ([MINUTE], {"pretrain.epochs": "5"}, "^pretrain.epochs='5': expected a whole number"),
        ([MINUTE], {"finetune.loss": "hinge"}, "'hinge': expected one of cosine, softmax"),
        ([MINUTE], {"pretrain": 7}, "^pretrain: found int; expected a mapping of settings"),
        ([MINUTE], {"pretrain.cluster_size": 7}, "cluster-size=7 does nothing here: it needs"),
    ],
)
def test_wrong_use_is_one_line(dataset, ran, arguments, settings, message):
    with pytest.raises(InputError, match=message):
        mufin.fit(dataset, *arguments, **settings)
    assert not ran


def test_callbacks_that_cannot_be_called_are_rejected_at_once():
    for given in (print, [print, 7]):
        with pytest.raises(InputError, match=r"^callbacks: found .*; expected a list of functions"):
            fitting._check_callbacks(given)


def test_no_run_begins_inside_the_prepared_data(dataset, ran):
    before = sorted(dataset.path.iterdir())
    with pytest.raises(InputError, match="is the folder of a stage: expected the run's"):
        mufin.fit(dataset, MINUTE, workdir=dataset.path)
    assert sorted(dataset.path.iterdir()) == before and not ran


def test_a_dataset_of_other_origin_is_rejected_with_what_to_give(dataset, tmp_path):
    shutil.copytree(dataset.path, tmp_path / "prepare")
    with pytest.raises(InputError, match=r"was not made by Dataset[.]from_items: expected such a"):
        mufin.fit(mufin.Dataset.load(tmp_path / "prepare"))


def test_settings_are_named_in_words_joined_by_dots_or_in_mappings():
    settings = {
        "pretrain.epochs": 3, "pretrain": {"optimizer.rate": 0.1, "batch-size": 8},
        "select.parts": ["z", "v"],
    }  # fmt: skip
    found = with_settings(MINUTE, settings)
    assert (found.pretrain.epochs, found.pretrain.optimizer.rate) == (3, 0.1)
    assert (found.pretrain.batch_size, found.select.parts) == (8, ("z", "v"))
    assert found.finetune == MINUTE.finetune


def test_items_are_prepared_by_default_as_the_default_preset_does():
    small = mufin.Dataset.from_items(ITEMS)
    recorded = load_json(small.path / "settings.json")
    wanted = dataclasses.replace(presets()["catalogue"].prepare, test_share=0.0)
    assert {name: recorded[name] for name in ("max_tokens", "image_size", "validation_share")} == {
        name: getattr(wanted, name) for name in ("max_tokens", "image_size", "validation_share")
    }


@pytest.mark.slow
def test_a_fitted_run_answers_and_has_told_its_stages(dataset):
    seen = []
    run = mufin.fit(dataset, MINUTE, callbacks=[lambda *told: seen.append(told)])
    finished = [stage for stage, step, _ in seen if step is None]
    assert finished == ["pretrain", "retrieve", "initialize", "finetune", "evaluate", "report"]
    (metrics,) = [found for stage, step, found in seen if stage == "evaluate"]
    assert metrics == run.metrics == json.loads((run.folder / "metrics.json").read_text())
    lines = (run.folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    logged = [(step, found["loss"]) for stage, step, found in seen if stage == "pretrain" and step]
    assert logged == [(line["step"], line["loss"]) for line in map(json.loads, lines)]
    (answer,) = run.predictor.predict(["B3"], k=5)
    assert len(answer) == 5 and "B3" not in {label.id for label in answer}
