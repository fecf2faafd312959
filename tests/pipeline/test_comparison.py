"""Tables of runs: shared stages are made once, and a killed command resumes."""

import csv
import dataclasses
import shutil
import signal
import time
from pathlib import Path

import minute
import numpy as np
import pytest
from places import SUPPORT

from experiments import ablations, amazon, recipe_ablations
from experiments.ablations import TABLE_4, Ablations
from experiments.recipe_ablations import RECIPE, RecipeAblations
from experiments.siamesexml import siamesexml
from mufin_jax.evaluation.summary import CONTENT
from mufin_jax.model.label_table import load_table
from mufin_jax.pipeline.cli import main, parse
from mufin_jax.pipeline.comparison import (
    Row,
    comparison_table,
    differences,
    metrics_of,
    spread,
)
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.prediction.parts import PARTS
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.shared_stages import link_stages
from mufin_jax.runtime.storage.files import load_json, save_json

SCRIPT = str(SUPPORT / "minute_rows.py")
NONE = "\N{EN DASH}"


def begun(workdir: Path, **stages) -> Path:
    """Make a folder in which stages are finished, each with the given settings."""
    for stage, settings in stages.items():
        (workdir / stage).mkdir(parents=True)
        save_json(workdir / stage / "settings.json", {"of": settings})
        save_json(workdir / stage / "done.json", {})
    workdir.mkdir(exist_ok=True)
    return workdir


def ends(workdir: Path) -> dict[str, str]:
    """Return the run that each link of a run's folder leads to."""
    links = (path for path in sorted(workdir.iterdir()) if path.is_symlink())
    return {path.name: path.resolve().parent.name for path in links}


def of(*settings: int) -> dict:
    return {stage: {"of": s} for stage, s in zip(minute.STAGES, settings, strict=False)}


def test_runs_share_stages_up_to_the_first_with_other_settings(tmp_path):
    first = begun(tmp_path / "first", prepare=0, pretrain=1, retrieve=2, initialize=3)
    second = begun(tmp_path / "second", prepare=0, pretrain=9, retrieve=2)
    own = begun(tmp_path / "own")
    link_stages(own, of(0, 1, 5, 3), [first, second])
    # Module III has equal settings, too, but a stage before it has others.
    assert ends(own) == {"prepare": "first", "pretrain": "first"}
    other = begun(tmp_path / "other")
    link_stages(other, of(0, 9, 2), [first, second])
    assert ends(other) == {"prepare": "first", "pretrain": "second", "retrieve": "second"}


def test_a_run_keeps_stages_it_began_and_shares_no_unfinished_ones(tmp_path):
    first = begun(tmp_path / "first", prepare=0, pretrain=1)
    (first / "pretrain" / "done.json").unlink()
    own = begun(tmp_path / "own", prepare=0)
    link_stages(own, of(0, 1), [first])
    assert ends(own) == {} and sorted(p.name for p in own.iterdir()) == ["prepare"]


def test_a_run_shares_a_stage_whose_nested_settings_an_older_version_did_not_record(tmp_path):
    first = begun(tmp_path / "first", prepare={"text": {"width": 8}})
    own = begun(tmp_path / "own")
    now = {"prepare": {"of": {"text": {"width": 8, "pooling": "mean"}}}}
    link_stages(own, now, [first], lambda *_: {"of.text.width": 8, "of.text.pooling": "cls"})
    assert ends(own) == {}
    link_stages(own, now, [first], lambda *_: {"of.text.width": 8, "of.text.pooling": "mean"})
    assert ends(own) == {"prepare": "first"}


def test_links_survive_moving_and_broken_links_are_replaced(tmp_path):
    first = begun(tmp_path / "all" / "first", prepare=0, pretrain=1)
    (first / "precomputed").mkdir()
    own = begun(tmp_path / "all" / "own")
    link_stages(own, of(0, 1), [first])
    shutil.move(tmp_path / "all", tmp_path / "moved")
    own = tmp_path / "moved" / "own"
    assert load_json(own / "pretrain" / "settings.json") == {"of": 1}
    assert ends(own) == {"precomputed": "first", "prepare": "first", "pretrain": "first"}
    shutil.rmtree(tmp_path / "moved" / "first")
    second = begun(tmp_path / "moved" / "second", prepare=0)
    link_stages(own, of(0, 1), [second])
    assert ends(own) == {"prepare": "second"}


@pytest.mark.slow
@pytest.mark.rotates("experiments", every=2)
def test_a_killed_table_resumes_and_makes_shared_stages_once(minute_run, compiled, tmp_path):
    full = tmp_path / "seed-0" / "mufin"
    shutil.copytree(minute_run, full)
    flags = ("--rows=alpha_1,p_i_bag", "--seeds=0")
    process = minute.start(tmp_path, *flags, cache=compiled, script=SCRIPT)
    row = tmp_path / "seed-0" / "alpha_1"
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        if (row / "finetune" / "settings.json").exists():
            break
    process.send_signal(signal.SIGTERM)
    ((code, errors),) = minute.ends([process])
    assert code == 75, errors
    before = {path: path.stat().st_mtime_ns for path in full.rglob("*.npy")}

    out = minute.finish(tmp_path, *flags, cache=compiled, script=SCRIPT)
    assert {path: path.stat().st_mtime_ns for path in full.rglob("*.npy")} == before
    assert ends(row) == dict.fromkeys(["miniature", *[*minute.STAGES][:4]], "mufin")
    assert not (row / "finetune" / "table").exists()
    found, wanted = load_json(tmp_path / "table.json"), load_json(full / "metrics.json")["rows"]
    assert list(found) == ["mufin", "p_i_bag", "alpha_1"]
    assert found["p_i_bag"]["seeds"]["0"] == wanted["Module I alone (P-I-bag)"]
    mufin = found["mufin"]["seeds"]["0"]
    assert mufin.items() >= wanted["MUFIN"].items()
    assert mufin.keys() - wanted["MUFIN"].keys() >= {"P@1 warm", "P@1 cold"}
    ours = found["alpha_1"]["seeds"]["0"]["P@1"] - wanted["MUFIN"]["P@1"]
    assert found["alpha_1"]["P@1 - mufin"] == [pytest.approx(ours)]
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == list(found)
    assert lines[4].split()[-2:] == ["49.25", "-3.05"]  # as published
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == list(found)
    assert float(rows[1]["P@5"]) == pytest.approx(found["p_i_bag"]["seeds"]["0"]["P@5"], abs=1e-4)


@pytest.mark.parametrize("preset", ["miniature", "paper"])
def test_every_row_is_an_experiment_that_differs_from_the_full_one(preset):
    full = ablations.PRESETS[preset]
    alike = {
        name for name, row in TABLE_4.items() if row.of(full) == full and not row.shortlists_alone
    }
    # The miniature already draws from all positives.
    assert alike == ({"mufin", "no_pos"} if preset == "miniature" else {"mufin"})
    assert all(set(row.paper) == {"P@1", "P@5", "nDCG@5", "R@10"} for row in TABLE_4.values())


def test_a_report_has_means_spreads_and_paired_differences():
    rows = {
        "full": Row({}, {"P@1": 50.0}),
        "text": Row({"model": {"modalities": "text"}}, {"P@1": 47.5}),
        "alike": Row(),
    }
    metrics = {"P@5": 1.0, "nDCG@5": 2.0, "R@10": 3.0}
    found = {
        "full": {0: {"P@1": 10.0, **metrics}, 7: {"P@1": 14.0, **metrics}},
        "text": {0: {"P@1": 9.0, **metrics}, 7: {"P@1": 12.0, **metrics}},
        "alike": {0: {"P@1": 10.0, **metrics}, 7: {"P@1": 14.0, **metrics}},
    }
    assert differences(found, "text") == [-1, -2]
    lines = comparison_table(rows, found, Experiment()).splitlines()
    assert "12.00 ± 2.83" in lines[2] and "50.00" in lines[2]
    assert "-1.50 ± 0.71" in lines[3] and lines[3].endswith("-2.50")
    assert "same settings" in lines[4]
    assert spread([]) == "" and spread([1.234]) == "1.23" and spread([-1.0], "+") == "-1.00"


def test_rows_of_the_recipe_that_differ_in_the_score_share_all_that_trains():
    command = parse(recipe_ablations.PRESETS, ["--data=DIR", "--recipe"], RecipeAblations)
    full = command.experiment
    assert command.preset == "catalogue" and full.select.parts == PARTS
    trained = list(STAGES)[: list(STAGES).index("select")]

    def settings(experiment: Experiment) -> list:
        return [STAGES[stage].settings(experiment) for stage in trained]

    of_scores = {f"no_{name}" for name in PARTS} | {"catalogue", "content", "no_selection"}
    alike = {name for name, row in RECIPE.items() if settings(row.of(full)) == settings(full)}
    assert alike == of_scores
    assert RECIPE["no_mu"].of(full).select.parts == ("z", "c", "v", "g", "sg", "t", "tv")
    assert len({str(row.of(full).options()) for row in RECIPE.values()}) == len(RECIPE)


def test_a_row_changes_fields_of_fields_and_leaves_the_others():
    row = Row({"finetune": {"optimizer": {"rate": 0.5}, "epochs": 7}})
    changed = row.of(Experiment())
    plain = Experiment().finetune
    assert changed.finetune == dataclasses.replace(
        plain, epochs=7, optimizer=dataclasses.replace(plain.optimizer, rate=0.5)
    )


def test_a_table_shows_content_and_warm_and_cold_where_a_run_has_them(tmp_path):
    def measured(value: float) -> dict:
        return dict.fromkeys(("P@1", "P@5", "nDCG@5", "R@10"), value)

    def run(name: str, result: dict) -> dict:
        (tmp_path / name / "evaluate").mkdir(parents=True)
        save_json(tmp_path / name / "evaluate" / "metrics.json", result)
        return metrics_of(tmp_path / name, Row())

    kinds = {kind: {"rows": {"MUFIN": measured(v)}} for kind, v in (("warm", 7.0), ("cold", 3.0))}
    full = run("full", {"rows": {"MUFIN": measured(5.0), CONTENT: measured(4.0)}, **kinds})
    alone = run("alone", {"rows": {"MUFIN": measured(1.0)}, "cold": kinds["cold"]})
    assert full["P@1 content"] == 4.0 and full["R@10 warm"] == 7.0
    assert alone == measured(1.0)  # no parts, and test points of one kind
    rows, found = {"full": Row(), "alone": Row()}, {"full": {0: full}, "alone": {0: alone}}
    head, _, one, other, *_ = comparison_table(rows, found, Experiment()).splitlines()
    assert "P@1 content" in head and "R@10 cold" in head and "paper" not in head
    assert one.split()[1:] == ["5.00"] * 4 + ["4.00"] * 2 + ["7.00"] * 2 + ["3.00"] * 2 + [NONE]
    assert other.split()[1:5] == ["1.00"] * 4 and other.split()[5:11] == [NONE] * 6
    assert "content" not in comparison_table(rows, {"full": {}, "alone": {0: alone}}, Experiment())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows=no_pos,alpha"], "--rows=alpha: expected all, or some of mufin, no_pos"),
        (["--seeds=one"], "--seeds=one: expected whole numbers, such as --seeds=0,1,2"),
        (["--seed=3"], "--seed: every row runs through all of its stages"),
        (["--stage=finetune"], "--stage=finetune: every row"),
        (["--row=alpha_1"], "unrecognized option --row; did you mean --rows?"),
    ],
)
def test_wrong_options_give_one_line(capfd, tmp_path, flags, message):
    assert main(minute.PRESETS, [f"--workdir={tmp_path}", *flags], kind=Ablations) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


def test_flags_of_the_experiment_apply_to_every_row():
    command = parse(ablations.PRESETS, ["--pretrain.epochs=3", "--rows=concat"], Ablations)
    assert isinstance(command, Ablations) and command.rows == "concat"
    own = TABLE_4["concat"].of(command.experiment)
    assert own.pretrain.epochs == 3 and own.model.cross_attention == "concat"
    with pytest.raises(InputError, match="seed=-1"):
        dataclasses.replace(own, seed=-1)


@pytest.mark.slow
@pytest.mark.rotates("experiments", every=2)
def test_siamesexml_trains_and_predicts_from_titles_only(compiled, tmp_path):
    siamese = siamesexml(minute.MINUTE, "siamesexml")
    model, flags = siamese.model, ["--preset=siamesexml"]
    assert amazon.PRESETS["siamesexml"].finetune.classifiers == "sum"
    assert (model.modalities, model.self_attention, model.cross_attention) == (
        "text", "none", "none"
    )  # fmt: skip
    assert main({"siamesexml": siamese}, [f"--workdir={tmp_path}", *flags]) == 0
    minute.assert_learned(tmp_path)
    table = load_table(tmp_path / "finetune" / "table", 30, 8, make_mesh())
    eta, alpha = (np.asarray(leaf)[:30] for leaf in (table.rows.eta, table.rows.alpha))
    np.testing.assert_allclose(alpha, 1 / (1 + np.linalg.norm(eta, axis=1)), rtol=1e-5)
    index = Predictor.load(tmp_path).index
    assert len(index.entries.vectors) <= 30  # one vector a label
