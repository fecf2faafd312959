"""The stage select in a whole run: what it fits, what it leaves, and that it is served."""

import dataclasses
import json
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import minute
import numpy as np
import pytest
from scipy import sparse

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.validation import Validation
from mufin_jax.evaluation import selection
from mufin_jax.evaluation.part_rows import rank_rows
from mufin_jax.evaluation.selection import Fit
from mufin_jax.evaluation.summary import CONTENT, MODULE_1, PAPER_MIX
from mufin_jax.evaluation.test_set import rank_test
from mufin_jax.model.heads import Embedding
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.run import run
from mufin_jax.prediction.mix import Mix, Weights, load_mixes
from mufin_jax.prediction.part_ranking import Candidates, PartRanking, candidates
from mufin_jax.prediction.parts import Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report.cross_attention import ask
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.errors import InputError, Stopped
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages import select as select_stage
from mufin_jax.stages.select import SelectConfig, _fit, _remove, _summary, _validation_candidates
from mufin_jax.training.early_stopping import ValidateConfig, best_step

SELECT = SelectConfig(parts=("z", "mu", "c", "v", "sg", "t"), candidates=20)


@pytest.fixture(scope="module")
def few_samples() -> Iterator[None]:
    """Search the weights on few samples of the points, which takes less time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(selection, "RESAMPLES", 4)
        yield


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, one_device, few_samples) -> Experiment:
    """A finished run with parts on one device, whose modules keep their best states."""
    every = ValidateConfig(every=1)
    found = dataclasses.replace(
        minute.MINUTE,
        workdir=tmp_path_factory.mktemp("select") / "run",
        prepare=dataclasses.replace(minute.MINUTE.prepare, validation_share=0.3),
        pretrain=dataclasses.replace(minute.MINUTE.pretrain, epochs=1, validate=every),
        finetune=dataclasses.replace(minute.MINUTE.finetune, epochs=1, validate=every),
        select=SELECT,
        evaluate=dataclasses.replace(minute.MINUTE.evaluate, missing_pictures=(0.0, 1.0)),
    )
    run(found, "all", one_device)
    return found


def test_a_run_with_parts_fits_weights_that_are_not_below_the_best_part(experiment):
    facts = json.loads((experiment.folder / "select" / "fits.json").read_text())
    assert set(facts) == {
        f"{mix}/{kind}" for mix in ("all", "content") for kind in ("warm", "cold")
    }
    for name, fit in facts.items():
        assert fit["objective"] >= max(fit["alone"].values()), name
        assert fit["points"] > 0 and fit["weights"]["parts"]
        assert ("sg" in fit["alone"]) == name.startswith("all")
    mixes = load_mixes(experiment.folder / "select" / "mixes.json")
    assert mixes["all"].cold.parts == facts["all/cold"]["weights"]["parts"]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_module_leaves_its_best_state_on_validation_points(experiment, stage):
    folder = experiment.folder / stage
    lines = map(json.loads, (folder / "validation.jsonl").read_text().splitlines())
    found = {line["step"]: line["objective"] for line in lines}
    assert list(found) == list(range(max(found) + 1)) and len(found) > 2
    best = Checkpoints(folder / "checkpoints").restore(step=best_step(found))
    left = Checkpoints(folder / "model" / "weights").restore()
    assert best is not None and left is not None
    for part in ("self_attention", "text_encoder"):
        jax.tree.map(np.testing.assert_array_equal, best[1]["train"][part], left[1][part])


def test_nothing_but_the_parts_is_left(experiment):
    left = {path.name for path in (experiment.folder / "select").iterdir()}
    assert left >= {"z", "mu", "w", "points", "words", "mixes.json", "parts.json", "fits.json"}
    assert not left & {"fitting", "x.npy", "z.npy", "vectors.npy"}


def test_serving_knows_the_pairs_of_validation_points(experiment):
    """The weights are fitted without them; the index of voters then holds them."""
    prepared = experiment.folder / "prepare"
    held, whole = (Dataset.load(prepared, hold_out=hold) for hold in (True, False))
    assert held.validation is not None and whole.validation is None
    entries = np.load(experiment.folder / "select" / "points" / "entries.npy")
    assert len(entries) == np.count_nonzero(np.diff(whole.train.pairs.indptr))
    predictor = Predictor.load(experiment.folder)
    assert predictor.ranking is not None
    assert predictor.ranking.trained.sum() == len(np.unique(whole.train.pairs.indices))


def test_what_is_measured_on_one_device_is_what_eight_serve(experiment):
    predictor = Predictor.load(experiment.folder)
    measured = np.load(experiment.folder / "evaluate" / "test.npz")
    ((labels, scores),) = predictor.rank_side(predictor.dataset.test)
    count = labels.shape[1]
    np.testing.assert_array_equal(labels, measured["labels"][:, :count])
    np.testing.assert_allclose(scores, measured["scores"][:, :count], atol=1e-6)


def test_each_part_has_a_row_of_its_own(experiment):
    rows = json.loads((experiment.folder / "metrics.json").read_text())["rows"]
    named = {f"part {name}" for name in SELECT.parts}
    assert named | {"MUFIN", PAPER_MIX, CONTENT, MODULE_1} <= set(rows)
    assert rows["part z"] != rows["part v"]


def test_one_pass_over_the_test_points_gives_the_rows_of_separate_rankings(experiment, one_device):
    every, served = (
        Predictor.load(experiment.folder, one_device, every_part=part) for part in (True, False)
    )
    assert every.ranking is not None and served.ranking is not None
    dataset, ranking = every.dataset, every.ranking
    assert set(ranking.parts) == set(SELECT.parts) and served.ranking.parts.keys() < set(
        SELECT.parts
    )
    content = load_mixes(experiment.folder / "select" / "mixes.json")["content"]
    given = Shortlist.load(experiment.folder / "retrieve" / "test")
    seen, embed = [], every.embed
    every.embed = lambda *read: seen.append(1) or embed(*read)
    rows, scores = rank_rows(
        every, dataset, "served", {CONTENT: content}, {"own": None, "given": given}
    )
    assert len(seen) == 1  # the test points are one block
    labels, wanted = rank_test(served, dataset)
    np.testing.assert_array_equal(rows.pop("served"), labels)
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    served.ranking = None
    np.testing.assert_array_equal(rows.pop("own"), rank_test(served, dataset)[0])
    np.testing.assert_array_equal(rows.pop("given"), rank_test(served, dataset, given)[0])
    ((places, pool, bags),) = served.read(dataset.test)
    points = served.embed(pool, bags)
    query = Query(
        points, fetch(points.vector)[: len(places)], ranking.known_of(dataset.test, places)
    )
    k = labels.shape[1]
    found = candidates(ranking.parts, query, k, ranking.trained)
    mixes = {f"part {name}": Mix(*[Weights({name: 1.0})] * 2) for name in SELECT.parts}
    assert rows.keys() == mixes.keys() | {CONTENT}
    for name, mix in (mixes | {CONTENT: content}).items():
        np.testing.assert_array_equal(rows[name], found.ranked(found.mixed(mix), k)[0], name)


def test_the_curve_of_missing_pictures_starts_at_the_rows_of_all_test_points(experiment):
    result = json.loads((experiment.folder / "metrics.json").read_text())
    whole, without = result["missing_pictures"]
    assert (whole["share"], whole["points"], without["share"]) == (0.0, 0, 1.0)
    assert without["points"] > 10
    for name in ("MUFIN", CONTENT):
        assert whole["rows"][name] == {m: result["rows"][name][m] for m in ("P@1", "R@10")}
    assert without["rows"] != whole["rows"]
    page = (experiment.folder / "report" / "index.html").read_text()
    assert "Missing pictures" in page


@pytest.mark.slow
@pytest.mark.rotates("experiments", every=2)
def test_early_fusion_has_parts_and_a_curve_of_missing_pictures(experiment, tmp_path):
    """The row early_fusion of the recipe's table, with a smaller encoder."""
    model = dataclasses.replace(minute.PRESETS["joint"].model, self_attention="attention")
    joint = dataclasses.replace(experiment, workdir=tmp_path / "run", model=model)
    run(joint, "all")
    result = json.loads((joint.folder / "metrics.json").read_text())
    whole, without = result["missing_pictures"]
    assert whole["rows"]["MUFIN"] == {m: result["rows"]["MUFIN"][m] for m in ("P@1", "R@10")}
    assert without["points"] > 10 and "part z" in result["rows"]


@pytest.mark.parametrize("by", ["text", "images"])
def test_points_seen_by_one_modality_are_known_but_for_titles_that_are_not_seen(experiment, by):
    predictor, given = Predictor.load(experiment.folder), []
    test, rows = predictor.dataset.test, np.arange(3)

    def rank(pool, bags, count, extra, known):
        given.append((count, known))
        return np.full((count, 1), -1), None

    predictor.rank = rank
    ask(predictor, rows, by)
    wanted = predictor.ranking.known_of(test, rows)
    ((count, known),) = given
    assert count == 3 and (known.own == wanted.own).all()
    assert known.titles == (wanted.titles if by == "text" else [""] * 3)


def test_the_stage_gives_the_same_files_when_it_runs_again(experiment, one_device, tmp_path):
    again = dataclasses.replace(experiment, workdir=tmp_path / "run")
    minute.begun(experiment.folder, tmp_path / "run", "evaluate")
    for name in ("initialize", "retrieve"):
        assert (tmp_path / "run" / name).exists()
    shutil.rmtree(tmp_path / "run" / "select", ignore_errors=True)
    run(again, "select", one_device)
    for name in ("mixes.json", "parts.json", "fits.json"):
        old, new = ((at / "select" / name).read_bytes() for at in (experiment.folder, again.folder))
        assert old == new


def test_a_run_without_parts_has_no_such_stage(experiment):
    with pytest.raises(InputError, match="the settings name no parts"):
        run(dataclasses.replace(experiment, select=SelectConfig()), "select")
    with pytest.raises(InputError, match="evaluate was made with other settings"):
        run(dataclasses.replace(experiment, select=SelectConfig()), "evaluate")


def test_a_run_without_parts_rejects_a_folder_with_parts(experiment, tmp_path):
    """Otherwise evaluate would measure the parts, and record that it measured the paper's mix."""
    minute.begun(experiment.folder, tmp_path / "run", "evaluate")
    shutil.copytree(experiment.folder / "select", tmp_path / "run" / "select")
    plain = dataclasses.replace(experiment, workdir=tmp_path / "run", select=SelectConfig())
    for stage in ("evaluate", "all"):
        with pytest.raises(InputError, match=r"select: these settings have no stage select"):
            run(plain, stage)
    assert not (tmp_path / "run" / "evaluate").exists()


@pytest.mark.parametrize("what", ["select", "pretrain", "finetune"])
def test_parts_and_the_best_step_require_validation_points(tmp_path, what):
    plain = dataclasses.replace(minute.MINUTE, workdir=tmp_path / "run", select=SELECT)
    if what != "select":
        module = dataclasses.replace(getattr(plain, what), validate=ValidateConfig(every=9))
        plain = dataclasses.replace(minute.MINUTE, workdir=plain.workdir, **{what: module})
    said = "--select.parts" if what == "select" else f"--{what}.validate.every=9"
    with pytest.raises(InputError, match=f"{said}.*add --prepare"):
        run(plain, "all")
    assert not (tmp_path / "run" / "prepare").exists()  # it is said before any work


def test_weights_of_some_validation_points_are_fitted_on_their_own_labels():
    """z knows the relevant labels, of which the filter takes the last one away."""
    dense = np.random.default_rng(0).random((40, 9)) < 0.3
    dense[:, :2] = True, False
    last = 8 - dense[:, ::-1].argmax(1)
    filter = (np.arange(9) == last[:, None]) & (last > 0)[:, None]
    every, ones = np.arange(40), np.zeros(40, bool)
    validation = Validation(every, ones, *(sparse.csr_matrix(m * 1.0) for m in (filter, dense)))
    rows = np.array([3, 8, 9, 21, 30, 38])
    values = {"z": np.float32(dense & ~filter)[rows] - 10 * np.float32(filter)[rows]}
    labels = np.tile(np.arange(9, dtype=np.int32), (6, 1))
    found = Candidates(labels, values, labels >= 0, np.arange(6) < 3)
    for fit in _fit(("z",), found, validation, rows, 0).values():
        assert fit.points == 3 and fit.alone == {"z": 100}
        assert fit.objective == 100


def test_as_many_points_and_candidates_are_judged_as_the_settings_ask_for(dataset, monkeypatch):
    predictor, asked = object.__new__(Predictor), []
    predictor.dataset = dataset
    predictor.read = lambda side, rows: iter([(np.arange(len(rows)), None, None)])
    bag = np.zeros((4, 1, 6), np.float32)
    points = Embedding(jnp.array(bag), jnp.ones((4, 1), bool), jnp.array(bag[:, 0]))
    predictor.embed = lambda pool, bags: points
    pairs = sparse.csr_matrix((6, dataset.num_labels))
    validation = Validation(np.arange(6), np.zeros(6, bool), pairs, pairs)
    mix = Mix(Weights({}), Weights({}))
    trained = np.ones(dataset.num_labels, bool)
    ranking = PartRanking({}, mix, trained, dataset.labels.ids)

    def judge(parts, query, k, trained):
        asked.append((len(query.x), k))
        raise Stopped

    monkeypatch.setattr(select_stage, "candidates", judge)
    config = SelectConfig(parts=("z",), candidates=7, points=4)
    with pytest.raises(Stopped):
        _validation_candidates(config, predictor, ranking, validation, 0)
    assert asked == [(4, 7)]


def test_a_weight_that_fills_lists_up_is_told_apart_from_none():
    fit = Fit(Weights({"v": 2.0, "z": 0.001}), 12.5, {"z": 1.0, "v": 12.5, "mu": 3.0}, 40)
    weights, alone = _summary({("all", "warm"): fit}).splitlines()[-2:]
    assert weights.split()[-5:-2] == ["fill", "0.001", "2.00"]  # then dashes
    assert alone.split()[-4:] == ["1.00", "12.50", "3.00", "12.50"]


def test_what_a_killed_call_left_half_removed_is_no_part(experiment, one_device, tmp_path):
    """It renames the parts it fitted with before it removes them: none is found incomplete."""
    again = dataclasses.replace(experiment, workdir=tmp_path / "run")
    minute.begun(experiment.folder, tmp_path / "run", "evaluate")
    shutil.copytree(experiment.folder / "select", tmp_path / "run" / "select")
    select = tmp_path / "run" / "select"
    (select / "done.json").unlink()
    wanted = (select / "fits.json").read_bytes()

    def kill(folder, **_):
        if folder.exists():
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            _remove(select / "z")
    assert not (select / "z").exists() and (select / "z.old").exists()
    (select / "z.old").rename(select / "fitting.old")
    (select / "fitting.old" / "entries.npy").unlink()
    run(again, "select", one_device)
    assert (select / "fits.json").read_bytes() == wanted
    assert (select / "z" / "index.json").exists() and not (select / "fitting.old").exists()


def test_invalid_settings_are_rejected():
    for fields, message in (
        ({"candidates": 0}, "select.candidates=0: expected at least 1"),
        ({"points": 0}, "select.points=0: expected at least 1"),
        ({"parts": ("z", "z")}, "expected each part once"),
    ):
        with pytest.raises(InputError, match=message):
            SelectConfig(**fields)


def test_unknown_parts_are_rejected():
    config = SelectConfig()
    object.__setattr__(config, "parts", ("z", "q"))  # tests check the types of arguments
    with pytest.raises(
        InputError, match=r"select\.parts has 'q': expected some of z mu c v g sg t"
    ):
        config.__post_init__()
