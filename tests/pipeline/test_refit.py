"""A refit: all training points train, for the chosen steps, with the weights fitted before."""

import dataclasses
import json
import shutil

import minute
import numpy as np
import pytest

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.synthetic.outfits import OutfitsConfig
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.old_runs import made_with
from mufin_jax.pipeline.refit import check_refit, chosen_step, chosen_weights
from mufin_jax.pipeline.run import _check_refit, run
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.prediction.mix import load_mixes, save_mixes
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.files import load_json, save_json
from mufin_jax.stages import finetune, pretrain
from mufin_jax.stages.context import Refit, StageContext
from mufin_jax.stages.select import SelectConfig
from mufin_jax.training.early_stopping import ValidateConfig
from mufin_jax.training.setup import Setup

EVERY = ValidateConfig(every=1)
PLAIN = dataclasses.replace(
    minute.MINUTE,
    prepare=dataclasses.replace(minute.MINUTE.prepare, validation_share=0.3),
    pretrain=dataclasses.replace(minute.MINUTE.pretrain, validate=EVERY),
    finetune=dataclasses.replace(minute.MINUTE.finetune, validate=EVERY),
    select=SelectConfig(parts=("z", "v", "sg"), candidates=20),
)


def refit(folder, **changes) -> Experiment:
    """The refit of the run next to it."""
    of = folder / "run"
    return dataclasses.replace(PLAIN, workdir=folder / "refit", refit_of=of, **changes)


def record(folder, objectives):
    """Leave what a run found at its validations."""
    writer = MetricsWriter(folder)
    for step, value in objectives.items():
        writer.validation(step, value)
    writer.close()


def test_the_chosen_step_is_the_best_one_unless_it_is_the_last(tmp_path):
    for name, objectives, chosen in (
        ("none", {}, None),
        ("best", {0: 1.0, 5: 3.0, 10: 3.0, 12: 2.0}, 5),
        ("first", {0: 1.0, 5: 0.5}, 0),
        ("last", {0: 1.0, 5: 3.0}, None),
    ):
        record(tmp_path / name, objectives)
        assert chosen_step(tmp_path / name) == chosen, name


def test_a_refit_records_which_weights_it_takes(tmp_path):
    """So a run whose weights were fitted again is another one."""
    refit = dataclasses.replace(minute.MINUTE, refit_of=tmp_path)
    assert chosen_weights(minute.MINUTE) == {}
    assert chosen_weights(refit) == {"refit": {"weights": None}}
    (tmp_path / "select").mkdir()
    save_mixes(tmp_path / "select" / "mixes.json", {})
    digest = load_json(tmp_path / "select" / "mixes.json")["sha256"]
    assert chosen_weights(refit) == {"refit": {"weights": digest}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"--refit-of=.*run: its stage prepare is not finished"),
        ({"prepare": minute.MINUTE.prepare}, "hold none out"),
        ({"refit_of": "itself"}, "the refit's own folder"),
        ({"seed": 1}, "its pretrain was made with seed = 0, expected 1; give the settings"),
    ],
)
def test_a_folder_that_is_no_such_run_is_rejected_before_any_work(tmp_path, changes, said):
    if "seed" in changes:
        finished(tmp_path / "run", "prepare", "pretrain")
    if "refit_of" in changes:
        changes = {"refit_of": tmp_path / "refit"}
    experiment = dataclasses.replace(refit(tmp_path), **changes)
    if "prepare" in changes:
        experiment = dataclasses.replace(
            experiment, pretrain=minute.MINUTE.pretrain, finetune=minute.MINUTE.finetune,
            select=SelectConfig(),
        )  # fmt: skip
    with pytest.raises(InputError, match=said):
        run(experiment, "all")
    assert not (tmp_path / "refit").exists()


def finished(run, *stages, experiment=PLAIN):
    """Leave the settings of finished stages in a run's folder."""
    for stage in stages:
        (run / stage).mkdir(parents=True)
        save_json(run / stage / "done.json", {})
        save_json(run / stage / "settings.json", STAGES[stage].settings(experiment.resolved()))


@pytest.mark.parametrize(("has", "lacks"), [("run", "refit"), ("refit", "run")])
def test_a_setting_that_one_of_the_two_runs_lacks_is_a_difference(tmp_path, has, lacks):
    """A version made the run whose settings the other one does not know."""
    run, settings = tmp_path / "run", STAGES["pretrain"].settings(refit(tmp_path).resolved())
    settings = {"run": dict(settings), "refit": dict(settings)}
    settings[has]["sharpness"] = 3
    (run / "pretrain").mkdir(parents=True)
    save_json(run / "pretrain" / "done.json", {})
    save_json(run / "pretrain" / "settings.json", settings["run"])
    said = "sharpness = 3, expected absent" if has == "run" else "sharpness = absent, expected 3"
    with pytest.raises(InputError, match=f"its pretrain was made with {said}"):
        check_refit(refit(tmp_path).resolved(), {"pretrain": settings["refit"]}, made_with)


def test_a_run_on_questions_has_no_stage_select_and_can_be_refitted(tmp_path):
    finished(tmp_path / "run", "prepare", "pretrain", "retrieve", "initialize", "finetune")
    with pytest.raises(InputError, match=r"its stage select is not finished"):
        _check_refit(refit(tmp_path).resolved())
    (tmp_path / "run" / "prepare" / "questions.npz").touch()
    _check_refit(refit(tmp_path).resolved())


def test_a_refit_holds_no_points_out_and_ends_after_the_chosen_steps(
    dataset, tmp_path, monkeypatch
):
    opened = []
    monkeypatch.setattr(Dataset, "load", lambda _, hold_out: opened.append(hold_out) or dataset)
    chosen = Refit({"pretrain": 3, "finetune": None}, tmp_path)
    for of, stage, steps in (
        (None, "pretrain", 7),
        (chosen, "pretrain", 3),
        (chosen, "finetune", 7),
    ):
        context = StageContext(tmp_path, {"prepare": tmp_path}, tmp_path, make_mesh(), refit=of)
        assert context.steps(stage, 7) == steps and context.steps(stage, 2) == 2
        context.dataset()
    assert opened == [True, False, False]


def test_a_refit_validates_nothing(dataset, one_device, tmp_path):
    for stage, config in ((pretrain, PLAIN.pretrain), (finetune, PLAIN.finetune)):
        context = StageContext(
            tmp_path, {}, tmp_path, one_device, refit=Refit({}, tmp_path), model=minute.MINUTE.model
        )
        setup, lists = object.__new__(Setup), object.__new__(Shortlist)  # neither is read
        arguments = (dataset, setup) if stage is pretrain else (dataset, setup, {}, lists)
        assert stage._validate(config, context, *arguments) is None


OUTFITS = dataclasses.replace(
    PLAIN,
    miniature=OutfitsConfig(outfits=12, test_outfits=8, themes=2, copies=1, picture=16),
    prepare=dataclasses.replace(PLAIN.prepare, records=False),
    finetune=dataclasses.replace(PLAIN.finetune, batch_size=99, classifiers="labels"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_refit_of_a_run_on_questions_leaves_the_parts_out(tmp_path, one_device):
    run(dataclasses.replace(OUTFITS, workdir=tmp_path / "run"), "all", one_device)
    again = dataclasses.replace(OUTFITS, workdir=tmp_path / "refit", refit_of=tmp_path / "run")
    result = run(again, "all", one_device)
    assert result is not None and result["refit"]["steps"].keys() == {"pretrain", "finetune"}
    assert not (tmp_path / "refit" / "select").exists()
    assert "FITB" in str(result)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_refit_trains_on_all_points_and_serves_what_was_measured(tmp_path):
    run(dataclasses.replace(PLAIN, workdir=tmp_path / "run"), "all")
    path = tmp_path / "run" / "pretrain" / "validation.jsonl"
    path.unlink()
    record(path.parent, {0: 1.0, 1: 9.0, 2: 5.0})  # it was best after one step
    result = run(refit(tmp_path), "all")
    assert result is not None and result["refit"]["steps"]["pretrain"] == 1
    made = tmp_path / "refit"
    assert (made / "prepare").is_symlink() and not (made / "pretrain").is_symlink()
    lines = (made / "pretrain" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 1
    assert not (made / "pretrain" / "validation.jsonl").exists()
    mixes = [load_mixes(at / "select" / "mixes.json") for at in (tmp_path / "run", made)]
    assert mixes[0] == mixes[1]
    entries = np.load(made / "select" / "points" / "entries.npy")
    whole = Dataset.load(made / "prepare", hold_out=False)
    assert len(entries) == np.count_nonzero(np.diff(whole.train.pairs.indptr))
    # The index of Module II knows the centroids of labels that only validation points have.
    offsets = [
        np.load(at / "retrieve" / "index" / "offsets.npy")[-1] for at in (tmp_path / "run", made)
    ]
    assert offsets[1] > offsets[0]
    predictor = Predictor.load(made)
    measured = np.load(made / "evaluate" / "test.npz")
    ((labels, scores),) = predictor.rank_side(predictor.dataset.test)
    np.testing.assert_array_equal(labels, measured["labels"][:, : labels.shape[1]])
    np.testing.assert_allclose(scores, measured["scores"][:, : labels.shape[1]], atol=1e-6)
    # It resumes: with its last stages gone, the same call makes the same again.
    for stage in ("select", "evaluate", "report"):
        shutil.rmtree(made / stage)
    again = run(refit(tmp_path), "all")
    assert again is not None and again["rows"] == result["rows"]
    with pytest.raises(InputError, match=r"its pretrain was made with refit\.steps = 1"):
        run(dataclasses.replace(refit(tmp_path), refit_of=made, workdir=tmp_path / "third"), "all")
