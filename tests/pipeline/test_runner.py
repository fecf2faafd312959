"""Runs go on after upgrades, moves and deletions; stages are made again where a user asks."""

import dataclasses
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import jax
import minute
import pytest
from raw_folders import write_json_lines

from mufin_jax.pipeline import more_epochs
from mufin_jax.pipeline import run as running
from mufin_jax.pipeline import runner as deciding
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.redo import remove_stages
from mufin_jax.pipeline.run import run
from mufin_jax.pipeline.sources import as_named_now, keep_sources
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import DiskError, InputError
from mufin_jax.runtime.run_folder import Run
from mufin_jax.runtime.storage.files import load_json, save_json
from mufin_jax.runtime.storage.fingerprint import load_sources
from mufin_jax.training.early_stopping import ValidateConfig

NAMES = minute.STAGES


@pytest.fixture
def made(monkeypatch):
    """Replace every stage by one that writes a number; return the names of those that ran."""
    names: list[str] = []

    def fake(name):
        def make(config, context):
            names.append(name)
            save_json(context.out / "made.json", len(names))
            if name == "evaluate":
                save_json(context.workdir / "metrics.json", {"made": len(names)})

        return make

    for name in NAMES:
        stage = STAGES[name]
        if name == "prepare":
            monkeypatch.setitem(STAGES, name, dataclasses.replace(stage, make=_prepare(names)))
        else:
            monkeypatch.setitem(STAGES, name, dataclasses.replace(stage, make=fake(name)))
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    monkeypatch.setattr(running, "environment", dict)
    monkeypatch.setattr(deciding.Runner, "_foresee", lambda self, ahead: None)
    return names


def _prepare(names):
    prepare = STAGES["prepare"].make

    def make(config, context):
        names.append("prepare")
        if isinstance(context.source, Path):
            prepare(config, context)

    return make


@pytest.fixture
def go(made, tmp_path):
    """Return what runs an experiment on a folder, and returns the stages that ran."""
    mesh = make_mesh(jax.devices()[:1])

    def run_it(experiment: Experiment | None = None, stage="all", **options) -> list[str]:
        before = len(made)
        run(experiment or at(tmp_path / "run"), stage, mesh, **options)
        return made[before:]

    return run_it


def at(workdir: Path, **parts) -> Experiment:
    plain = dataclasses.replace(minute.MINUTE.prepare, records=False)
    return dataclasses.replace(minute.MINUTE, **{"workdir": workdir, "prepare": plain, **parts})


def shop(folder: Path, word: str = "lamp") -> Path:
    products = [
        {"ASIN": f"B{i:03}", "title": f"{word} {i}",
         "also_buy": [f"B{(i + k) % 30:03}" for k in (1, 2)]}
        for i in range(30)
    ]  # fmt: skip
    return write_json_lines(folder, products=products)


def test_redo_removes_a_stage_and_those_after_it_and_makes_them_again(go, tmp_path, caplog):
    assert go() == NAMES
    with caplog.at_level("INFO"):
        assert go(redo="initialize") == NAMES[3:]
    assert (
        f"--redo=initialize: initialize, finetune, evaluate, report removed from {tmp_path}/run"
        in caplog.text
    )
    assert sorted(path.name for path in (tmp_path / "run").glob("*removed*")) == []
    assert go() == []
    assert go(redo="all") == NAMES


def test_an_interrupted_redo_resumes_by_the_same_call(go, tmp_path, monkeypatch):
    go()
    stage = STAGES["finetune"]

    def fail(config, context):
        raise InputError("the power is off")

    monkeypatch.setitem(STAGES, "finetune", dataclasses.replace(stage, make=fail))
    with pytest.raises(InputError, match="power"):
        go(redo="retrieve")
    monkeypatch.setitem(STAGES, "finetune", stage)
    assert go(redo="retrieve") == ["finetune", "evaluate", "report"]
    assert go(redo="retrieve") == NAMES[2:]


def test_redo_takes_other_settings_and_keeps_what_stands_before(go, tmp_path):
    go()
    other = at(tmp_path / "run", finetune=dataclasses.replace(minute.MINUTE.finetune, margin=0.4))
    said = r"finetune was made with other settings \(margin: 0.5 -> 0.4\): .*--redo=finetune"
    with pytest.raises(InputError, match=said):
        go(other)
    assert go(other, redo="finetune") == ["finetune", "evaluate", "report"]


def test_redo_of_a_linked_stage_leaves_the_other_run_alone(go, tmp_path):
    go()
    go(at(tmp_path / "second"), others=[tmp_path / "run"])
    assert (tmp_path / "second" / "pretrain").is_symlink()
    assert go(at(tmp_path / "second"), redo="pretrain") == NAMES[1:]
    assert not (tmp_path / "second" / "pretrain").is_symlink()
    assert load_json(tmp_path / "run" / "pretrain" / "made.json") == 2
    assert go() == []


def test_redo_removes_nothing_that_no_stage_wrote(go, tmp_path):
    go()
    for name in ("settings.json", "done.json"):
        (tmp_path / "run" / "report" / name).unlink()
    with pytest.raises(InputError, match=r"report has no settings.json.*remove it yourself"):
        go(redo="evaluate")
    assert (tmp_path / "run" / "evaluate" / "made.json").exists()


def test_redo_of_a_stage_that_would_not_run_is_rejected(go):
    go()
    with pytest.raises(InputError, match="--redo=finetune with --stage=evaluate: finetune and"):
        go(stage="evaluate", redo="finetune")


def test_the_report_is_made_again_when_only_its_settings_differ(go, tmp_path):
    go()
    other = at(tmp_path / "run", report=dataclasses.replace(minute.MINUTE.report, shown=20))
    assert go(other) == ["report"]
    assert go(other, "report") == []
    shutil.rmtree(tmp_path / "run" / "evaluate")
    assert go(other) == ["evaluate", "report"]  # it was made from another evaluation


def test_a_preparation_that_failed_begins_again_with_other_settings(go, tmp_path):
    data = write_json_lines(tmp_path / "shop", products=[{"ASIN": "1", "title": "lamp"}])
    with pytest.raises(InputError, match="also_buy"):
        go(at(tmp_path / "run", data=data), "prepare")
    shop(tmp_path / "other")
    other = dataclasses.replace(minute.MINUTE.prepare, max_tokens=9, records=False)
    assert go(at(tmp_path / "run", data=tmp_path / "other", prepare=other), "prepare")


def test_a_finished_stage_needs_only_the_stages_that_it_reads(go, tmp_path, caplog):
    go()
    for name in ("pretrain", "initialize", "report"):
        shutil.rmtree(tmp_path / "run" / name)
    with caplog.at_level("INFO"):
        assert go() == ["report"]
    assert "pretrain: gone, and nothing that is left to do reads it" in caplog.text
    with pytest.raises(InputError, match="was made from another pretrain: put that one back"):
        go(stage="pretrain")  # asked for, it is not passed over
    shutil.rmtree(tmp_path / "run" / "evaluate")
    assert go(stage="evaluate") == ["evaluate"]


def test_a_stage_that_lacks_what_it_reads_names_it(go, tmp_path):
    go()
    for name in ("retrieve", "evaluate"):
        shutil.rmtree(tmp_path / "run" / name)
    with pytest.raises(InputError, match="stage evaluate needs retrieve, which is not finished"):
        go(stage="evaluate")


def test_a_moved_run_is_still_finished(go, tmp_path):
    go()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert go(at(tmp_path / "elsewhere")) == []


def test_a_link_to_a_moved_run_is_named_and_not_lost(go, tmp_path):
    go()
    more = dataclasses.replace(minute.MINUTE.evaluate, timed_points=4)
    second = at(tmp_path / "second", evaluate=more)
    assert go(second, others=[tmp_path / "run"]) == ["evaluate", "report"]
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert go(second, "report") == []
    with pytest.raises(InputError, match=r"prepare is a link to ../run/prepare, which is gone"):
        go(second)
    shutil.move(tmp_path / "elsewhere", tmp_path / "run")
    assert go(second) == []


def test_moved_raw_data_are_known_again_and_others_are_rejected(go, tmp_path):
    data = shop(tmp_path / "shop")
    go(at(tmp_path / "run", data=data))
    moved = Path(shutil.move(data, tmp_path / "moved"))
    (moved / "notes.txt").write_text("not read by preparation")
    assert go(at(tmp_path / "run", data=moved)) == []
    other = shop(tmp_path / "other", "vase")
    with pytest.raises(InputError, match=r"data: .*shop with another products.jsonl -> .*other"):
        go(at(tmp_path / "run", data=other))


def test_a_finished_preparation_stands_without_its_raw_data(go, tmp_path, caplog):
    data = shop(tmp_path / "shop")
    go(at(tmp_path / "run", data=data))
    shutil.rmtree(data)
    for stage in ("evaluate", "report"):
        shutil.rmtree(tmp_path / "run" / stage)
    with caplog.at_level("INFO"):
        assert go(at(tmp_path / "run", data=data)) == ["evaluate", "report"]
        assert go(at(tmp_path / "run")) == []
    assert "shop is gone; the prepared data stand without it" in caplog.text
    assert "shop stand without --data" in caplog.text
    with pytest.raises(InputError, match=r"no such folder.*stands without: leave --data out"):
        go(at(tmp_path / "run", data=tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no such folder"):
        go(at(tmp_path / "run", data=data), redo="prepare")


def test_raw_data_that_changed_in_their_place_are_rejected(go, tmp_path):
    data = shop(tmp_path / "shop")
    go(at(tmp_path / "run", data=data))
    shop(tmp_path / "shop", "vase")
    with pytest.raises(InputError, match=r"shop with another products.jsonl.*--redo=prepare"):
        go(at(tmp_path / "run", data=data))
    assert go(at(tmp_path / "run", data=data), redo="prepare") == NAMES


def test_a_run_without_fingerprints_stands_without_data_that_moved(go, tmp_path):
    """As older versions left it."""
    data = shop(tmp_path / "shop")
    go(at(tmp_path / "run", data=data))
    (tmp_path / "run" / "prepare" / "sources.json").unlink()
    moved = Path(shutil.move(data, tmp_path / "moved"))
    with pytest.raises(InputError, match=r"data: .*shop -> .*moved.*leave --data out"):
        go(at(tmp_path / "run", data=moved))
    assert go(at(tmp_path / "run")) == []


def test_moved_checkpoints_and_vectors_are_known_again(go, tmp_path):
    for name in ("text", "vectors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "vectors" / "a.npy").write_bytes(b"1")

    def using(text: Path, vectors: Path) -> Experiment:
        model = dataclasses.replace(minute.MINUTE.model, text_checkpoint=str(text))
        prepare = dataclasses.replace(
            minute.MINUTE.prepare, image_vectors=str(vectors), tokenizer=str(text)
        )
        return at(tmp_path / "run", model=model, prepare=prepare)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "check_checkpoints", lambda *_: None)
        go(using(tmp_path / "text", tmp_path / "vectors"))
    for name in ("text", "vectors"):
        shutil.move(tmp_path / name, tmp_path / f"{name}-moved")
    assert go(using(tmp_path / "text", tmp_path / "vectors")) == []  # the command that made it
    assert go(using(tmp_path / "text-moved", tmp_path / "vectors-moved")) == []
    (tmp_path / "vectors-moved" / "a.npy").write_bytes(b"2")
    with pytest.raises(InputError, match=r"image_vectors: .*with another a.npy -> "):
        go(using(tmp_path / "text-moved", tmp_path / "vectors-moved"))


def test_files_that_are_absent_at_another_place_are_not_those_that_were_read(tmp_path):
    given, folder = tmp_path / "given", tmp_path / "prepare"
    given.mkdir()
    folder.mkdir()
    (given / "vocab.txt").write_text("lamp")
    keep_sources(folder, "prepare", {"tokenizer": str(given)})
    for place in (given, shutil.copytree(given, tmp_path / "copied")):
        assert as_named_now(folder, "tokenizer", "old", str(place)) == str(place)
    assert as_named_now(folder, "tokenizer", "old", str(tmp_path / "nowhere")) == "old"


@pytest.mark.parametrize("stage, again", [("prepare", True), ("pretrain", False)])
def test_only_a_preparation_that_begins_again_reads_its_files_anew(tmp_path, stage, again):
    """Training that resumes has read them before: they must not have changed since."""
    name = {"prepare": "tokenizer", "pretrain": "model.text_checkpoint"}[stage]
    given, found = tmp_path / "given", []
    given.mkdir()
    (tmp_path / stage).mkdir()
    for words in ("lamp", "lamps"):
        (given / "vocab.txt").write_text(words)
        keep_sources(tmp_path / stage, stage, {name: str(given)})
        found.append(load_sources(tmp_path / stage)[name])
    assert (found[0] != found[1]) == again
    keep_sources(tmp_path / stage, stage, {})
    assert (load_sources(tmp_path / stage) == {}) == again


def test_answers_to_questions_are_ranked_by_module_one_too(go, tmp_path):
    go()
    (tmp_path / "run" / "prepare" / "questions.npz").write_bytes(b"")
    for name in ("pretrain", "evaluate"):
        shutil.rmtree(tmp_path / "run" / name)
    with pytest.raises(InputError, match="stage evaluate needs pretrain, which is not finished"):
        go(stage="evaluate")


def test_the_figures_of_a_run_go_with_its_evaluation_alone(go, tmp_path):
    go()
    remove_stages(tmp_path / "run", ["report"], "again")
    assert (tmp_path / "run" / "metrics.json").exists()
    remove_stages(tmp_path / "run", ["evaluate"], "again")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_time_plan_of_what_is_ahead_is_logged(tmp_path, monkeypatch):
    told = []
    for name in ("Dataset", "abstract_model", "context", "foresee", "sizes_of"):
        monkeypatch.setattr(deciding, name, MagicMock())
    monkeypatch.setattr(deciding, "log_time_plan", lambda *plans: told.append(plans[:2]))
    experiment = at(tmp_path)
    runner = deciding.Runner(experiment, Run(tmp_path), make_mesh(jax.devices()[:1]))
    runner._foresee(["pretrain", "initialize"])
    assert told == [(experiment.pretrain, None)]


def test_what_a_killed_removal_left_is_in_nobodys_way(tmp_path):
    for name in ("evaluate", "evaluate.removed"):
        (tmp_path / name).mkdir()
        save_json(tmp_path / name / "settings.json", {})
    remove_stages(tmp_path, ["evaluate"], "again")
    assert [*tmp_path.iterdir()] == []


def test_a_finished_run_in_a_read_only_folder_gives_its_metrics(go, tmp_path, monkeypatch):
    go()
    monkeypatch.setattr(running, "read_only", lambda folder: True)
    monkeypatch.setattr(running.Run, "__enter__", lambda self: pytest.fail("it is written to"))
    assert run(at(tmp_path / "run")) == {"made": 6}
    shutil.rmtree(tmp_path / "run" / "report")
    with pytest.raises(DiskError, match="read-only, and report is not finished"):
        go()


def longer(workdir: Path, stage: str, *more: int, **options) -> Experiment:
    """The experiment with epochs that are added to a training."""
    config = dataclasses.replace(getattr(minute.MINUTE, stage), more_epochs=more, **options)
    return at(workdir, **{stage: config})


def test_more_epochs_train_on_from_a_finished_stage_and_make_later_ones_again(go, tmp_path):
    workdir = tmp_path / "run"
    go()
    for part in ("model", "predictor", "checkpoints"):
        (workdir / "finetune" / part).mkdir()
    assert go(longer(workdir, "finetune", 5)) == NAMES[4:]
    left = {path.name for path in (workdir / "finetune").iterdir()}
    assert "checkpoints" in left and not left & {"model", "predictor"}
    assert go(longer(workdir, "finetune", 5)) == []
    assert load_json(workdir / "run.json")["more"] is None
    assert go(longer(workdir, "finetune", 5, 2)) == NAMES[4:]
    with pytest.raises(InputError, match=r"other settings \(more_epochs: \[5, 2\] -> \[5\]\)"):
        go(longer(workdir, "finetune", 5))
    assert go(longer(workdir, "finetune", 5, 2)) == []


def test_more_epochs_of_module_i_make_everything_after_it_again(go, tmp_path):
    go()
    assert go(longer(tmp_path / "run", "pretrain", 1)) == NAMES[1:]


@pytest.mark.parametrize("dies_at", ["record", "remove", "settings"])
def test_an_interrupted_addition_of_epochs_resumes_by_the_same_call(
    go, tmp_path, monkeypatch, dies_at
):
    workdir = tmp_path / "run"
    go()
    target = {
        "record": (more_epochs, "remove_stages"),
        "remove": (more_epochs.shutil, "rmtree"),
        "settings": (more_epochs, "save_json"),
    }[dies_at]

    def die(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*target, die)
        with pytest.raises(KeyboardInterrupt):
            go(longer(workdir, "finetune", 5))
    assert more_epochs.with_sums(["--finetune.epochs=+5"], workdir) == [
        "--finetune.epochs=2", "--finetune.more-epochs", "5",
    ]  # fmt: skip
    with pytest.raises(InputError, match="an addition of 5 epochs is not complete"):
        more_epochs.with_sums(["--finetune.epochs=+3"], workdir)
    assert go(longer(workdir, "finetune", 5)) == NAMES[4:]
    assert load_json(workdir / "finetune" / "settings.json")["more_epochs"] == [5]


def test_epochs_are_added_to_what_a_finished_training_had(go, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match=r"=\+5: epochs are added to a finished training, and"):
        more_epochs.with_sums(["--finetune.epochs=+5"], workdir)
    first = longer(workdir, "finetune", epochs=7)
    go(first)
    named = ["--seed=1", "--finetune.epochs=7", "--finetune.more-epochs", "5", "--threads=2"]
    for given in (["--finetune.epochs=+5"], ["--finetune.epochs", "+5"]):
        assert more_epochs.with_sums(["--seed=1", *given, "--threads=2"], workdir) == named
    for plain in (["--finetune.epochs=5"], ["--finetune.epochs", "5", "+5"], ["--a=+5"]):
        assert more_epochs.with_sums(plain, workdir) == plain
    with pytest.raises(InputError, match=r"=\+0: expected a number of epochs to add"):
        more_epochs.with_sums(["--finetune.epochs=+0"], workdir)
    go(longer(workdir, "finetune", 5, epochs=7))
    assert more_epochs.with_sums(["--finetune.epochs=+2"], workdir)[1:] == [
        "--finetune.more-epochs", "5", "2",
    ]  # fmt: skip


def test_epochs_cannot_be_added_to_a_linked_stage_or_one_that_ends_by_patience(go, tmp_path):
    workdir, other = tmp_path / "run", tmp_path / "other"
    go()
    go(at(other), others=[workdir])
    with pytest.raises(InputError, match=r"finetune is a link to the stage of another run"):
        go(longer(other, "finetune", 1))
    assert (workdir / "finetune" / "done.json").exists() and go() == []
    share = dataclasses.replace(minute.MINUTE.prepare, records=False, validation_share=0.2)
    validate = ValidateConfig(every=1, patience=2)
    patient = dataclasses.replace(
        longer(tmp_path / "third", "finetune", validate=validate), prepare=share
    )
    go(patient)
    more = dataclasses.replace(patient.finetune, more_epochs=(1,))
    with pytest.raises(InputError, match=r"the training ends by itself when validations bring no"):
        go(dataclasses.replace(patient, finetune=more))
    assert go(patient) == []


def test_nothing_is_added_where_other_settings_differ_too(go, tmp_path):
    go()
    with pytest.raises(InputError, match=r"finetune was made with other settings \(batch_size"):
        go(longer(tmp_path / "run", "finetune", 1, batch_size=9))
    other = dataclasses.replace(longer(tmp_path / "run", "finetune", 1), seed=3)
    with pytest.raises(InputError, match=r"pretrain was made with other settings \(seed"):
        go(other)
    assert go() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_added_epochs_give_the_bits_of_a_run_that_has_them_from_the_start(
    minute_run, compiled, tmp_path
):
    added = shutil.copytree(minute_run, tmp_path / "added")
    minute.finish(added, "--finetune.epochs=+1", cache=compiled)
    whole = minute.begun(minute_run, tmp_path / "whole", "finetune")
    minute.finish(whole, "--finetune.more-epochs", "1", cache=compiled)
    minute.assert_same(added, whole)
    assert len(minute.losses(added)) == 1.5 * len(minute.losses(minute_run))
