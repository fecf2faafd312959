"""A warm start: sizes and kinds are those of the run to start from; labels keep their rows."""

import dataclasses
import shutil

import jax
import minute
import numpy as np
import pytest

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.synthetic.ads import AdsConfig
from mufin_jax.model import label_table
from mufin_jax.model.carried_rows import carry_rows
from mufin_jax.model.label_table import TableConfig
from mufin_jax.pipeline import cli
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.stage_table import STAGES, context
from mufin_jax.pipeline.start import started, with_run
from mufin_jax.runtime.distributed.mesh import by_row
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, save_json
from mufin_jax.stages.start import StartConfig, first_model, steps_before
from mufin_jax.training.finetune_batches import Batches

DIM, OLD, NEW = 6, 1100, 2050
"""Labels before and after: tables of two and of three times 1,024 rows."""


def random_table(mesh, config, num_labels, seed):
    """A table in which no value is like another, moments included."""
    rng = np.random.default_rng(seed)
    table = label_table.initialize(jax.random.key(seed), num_labels, DIM, mesh, config=config)

    def noise(leaf):
        drawn = rng.integers(1, 60_000, leaf.shape)
        return jax.device_put(drawn.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(noise, table)


@pytest.mark.parametrize(
    "config", [TableConfig(), TableConfig("bfloat16"), TableConfig("bfloat16", "adagrad")]
)
def test_known_labels_keep_their_rows_and_moments_to_the_bit(config, mesh, tmp_path):
    old = random_table(mesh, config, OLD, 1)
    label_table.save_table(old, tmp_path)
    new = random_table(mesh, config, NEW, 2)
    numbers = np.full(NEW, -1)
    numbers[5::2] = np.random.default_rng(3).permutation(OLD)[: len(numbers[5::2])]
    before = jax.tree.map(np.asarray, new)
    table, steps = carry_rows(new, tmp_path, numbers, mesh)
    known = np.flatnonzero(numbers >= 0)
    others = np.setdiff1d(np.arange(len(table.rows.alpha)), known)
    for leaf, one, other in zip(*map(jax.tree.leaves, (table, old, before)), strict=True):
        if leaf.ndim:
            assert leaf.sharding.is_equivalent_to(by_row(mesh), leaf.ndim)
            np.testing.assert_array_equal(np.asarray(leaf)[known], np.asarray(one)[numbers[known]])
            np.testing.assert_array_equal(np.asarray(leaf)[others], other[others])
    assert steps == int(old.steps) == int(table.steps)


def test_rows_of_another_kind_of_table_are_rejected_with_both_kinds(one_device, tmp_path):
    saved, wanted = TableConfig("bfloat16"), TableConfig()
    label_table.save_table(random_table(one_device, saved, 5, 1), tmp_path)
    with pytest.raises(InputError, match=r"rows.eta is uint16, \(6,\) a label, expected float32"):
        carry_rows(random_table(one_device, wanted, 5, 2), tmp_path, np.arange(5), one_device)


def warm(run, **changes) -> Experiment:
    """The minute experiment, started from a run."""
    parts = {"workdir": run.parent / "warm", "start_from": run, **changes}
    return dataclasses.replace(minute.MINUTE, **parts)


def test_a_warm_start_has_the_model_tokenizer_pictures_and_table_of_its_run(minute_run):
    """The defaults of another preset would make another model of other pictures."""
    plain = Experiment()
    found = with_run(dataclasses.replace(plain, start_from=minute_run))
    assert found.model == minute.MINUTE.model
    assert found.prepare.image_size == 16 and found.prepare.max_tokens == 8
    assert found.prepare.tokenizer == str(minute_run / "prepare" / "tokenizer.json")
    assert found.finetune == plain.finetune and found.initialize == plain.initialize
    assert with_run(found) == found
    assert with_run(plain) is plain


def test_what_is_read_of_the_run_is_recorded_by_its_content_and_not_by_its_place(
    minute_run, tmp_path
):
    moved = tmp_path / "moved"
    for part in ("finetune/model", "finetune/table", "prepare"):
        shutil.copytree(minute_run / part, moved / part)
    stages = ("pretrain", "initialize", "finetune")

    def recorded(run):
        return {name: started(warm(run), name)["start"] for name in stages}

    before = recorded(minute_run)
    assert recorded(moved) == before
    assert all(value is not None for one in before.values() for value in one.values())
    for name, part in (
        ("model", "finetune/model/weights/0/manifest.json"),
        ("table", "finetune/table/0/manifest.json"),
        ("labels", "prepare/label_ids.npz"),
    ):
        kept = (moved / part).read_bytes()
        (moved / part).write_bytes(kept + b" ")
        changed = recorded(moved)
        assert [n for one, two in zip(changed.values(), before.values(), strict=True)
                for n in one if one[n] != two[n]] == [name]  # fmt: skip
        (moved / part).write_bytes(kept)
    for stage in STAGES:
        assert "start" not in STAGES[stage].settings(minute.MINUTE)


def no_run(run):
    shutil.rmtree(run)


def unfinished(run):
    (run / "finetune" / "done.json").unlink()


def without_data(run):
    shutil.rmtree(run / "prepare")


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (no_run, {}, "found no such folder; expected the folder of a finished run"),
        (unfinished, {}, "its stage finetune is not finished"),
        (without_data, {}, "its prepared data are gone, and with them the ids of its labels"),
        (None, {"workdir": "itself"}, "this is the run's own folder; choose another --workdir"),
        (None, {"miniature": AdsConfig()}, "with a tokenizer of their own; expected --data"),
        (None, {"prepare": {"text_vectors": "v.npy"}}, "text-vectors=v.npy: that run has read no"),
    ],
)
def test_a_folder_that_is_no_run_to_start_from_is_rejected_in_one_line(
    minute_run, tmp_path, spoil, changes, said
):
    run = tmp_path / "run"
    for part in ("finetune/model", "prepare"):
        shutil.copytree(minute_run / part, run / part)
    shutil.copy(minute_run / "finetune" / "done.json", run / "finetune")
    if spoil:
        spoil(run)
    if "workdir" in changes:
        changes = {"workdir": run}
    if "prepare" in changes:
        changes = {"prepare": dataclasses.replace(minute.MINUTE.prepare, **changes["prepare"])}
    with pytest.raises(InputError, match=said) as caught:
        with_run(warm(run, **changes))
    assert str(caught.value).startswith(f"--from={run}") and "\n" not in str(caught.value)


def parse(*arguments):
    return cli.parse(minute.PRESETS, list(map(str, arguments))).experiment


def test_options_that_the_run_decides_are_rejected_with_its_value(minute_run, tmp_path):
    given = (f"--from={minute_run}", f"--workdir={tmp_path}")
    for option, said in (
        ("--model.dim=16", "--model.dim=16 with --from=.*: that run has model.dim = 8"),
        ("--prepare.image-size=32", "that run has prepare.image_size = 16"),
        ("--finetune.classifiers=sum", "that run has finetune.classifiers = table"),
        ("--initialize.table.dtype=bfloat16", "has initialize.table.dtype = float32"),
        ("--prepare.vocab-size=99", "has prepare.vocab_size = that of its tokenizer"),
    ):
        with pytest.raises(InputError, match=said):
            parse(*given, option)
    found = parse(*given, "--start.steps=0.5", "--pretrain.epochs=3")
    assert found.start == StartConfig(steps=0.5) and found.pretrain.epochs == 3
    with pytest.raises(InputError, match=r"--start.rate=0.1 does nothing here: it needs --from"):
        parse("--start.rate=0.1")


def test_the_preset_of_the_run_is_the_default(minute_run, tmp_path):
    presets = minute.PRESETS | {"other": dataclasses.replace(minute.MINUTE, name="other")}
    save_json(tmp_path / "run.json", {"experiment": {"name": "other"}})
    for part in ("finetune", "prepare"):
        (tmp_path / part).symlink_to(minute_run / part)
    arguments = [f"--from={tmp_path}", f"--workdir={tmp_path}/new"]
    assert cli.parse(presets, arguments).preset == "other"
    assert cli.parse(presets, [*arguments, "--preset=paper"]).preset == "paper"


def test_a_share_of_the_steps_is_taken_at_other_rates(minute_run):
    batches = object.__new__(Batches)
    batches.per_epoch = 10
    config = dataclasses.replace(minute.MINUTE.finetune, epochs=4, more_epochs=(2, 1))
    mesh, cold = jax.sharding.Mesh(jax.devices()[:1], "x"), minute.MINUTE
    start = warm(minute_run, start=StartConfig(steps=0.3, rate=0.5))
    assert context(cold, "finetune", mesh).lengths(config, batches) == (40, 20, 10)
    given = context(start, "finetune", mesh)
    assert given.lengths(config, batches) == (12, 20, 10)
    optimizer = dataclasses.replace(config.optimizer, table_rate=1e-2)
    slow = given.rates(optimizer)
    assert (slow.rate, slow.table_rate, slow.encoder_rate) == (1.5e-3, 5e-3, None)
    assert context(cold, "finetune", mesh).rates(optimizer) is optimizer


def test_data_of_another_tokenizer_are_rejected_before_training(minute_run, one_device, tmp_path):
    dataset = Dataset.load(minute_run / "prepare")
    given = context(warm(minute_run), "pretrain", one_device)
    model = first_model(minute.MINUTE.model, dataset, given)
    assert model.config.cross_attention == "attention"
    processing = dict(dataset.manifest["processing"], size=24)
    other = dataclasses.replace(dataset, manifest=dataset.manifest | {"processing": processing})
    with pytest.raises(InputError, match=r"pictures: found .*size=24.*, expected .*size=16"):
        first_model(minute.MINUTE.model, other, given)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_warm_start_trains_from_its_run_and_resumes(minute_run, compiled, tmp_path):
    workdir = tmp_path / "warm"
    flags = (f"--from={minute_run}", "--miniature.labels=35", "--start.steps=0.5")
    minute.finish(workdir, *flags, "--stage=prepare", cache=compiled)
    minute.finish(workdir, *flags, cache=compiled)
    facts = load_json(workdir / "initialize" / "start.json")
    assert (facts["kept"], facts["new"], facts["gone"]) == (30, 5, 0)
    assert facts["steps"] == len(minute.losses(minute_run)) == steps_before(workdir / "initialize")
    assert len(minute.losses(workdir)) == round(0.5 * facts["steps"])
    one, other = ((at / "prepare" / "tokenizer.json").read_bytes() for at in (workdir, minute_run))
    assert one == other
    weights, before = minute.results(workdir), minute.results(minute_run)
    name = "initialize/model/weights/0/cross_attention"
    assert [key for key in weights if key.startswith(name)]
    for key in (key for key in weights if key.startswith(name)):
        np.testing.assert_array_equal(weights[key], before[key.replace("initialize", "finetune")])
    process = minute.start(workdir, "--miniature.labels=35", cache=compiled)
    ((code, line),) = minute.ends([process])
    assert code == 2 and f"was begun with --from={minute_run}: give it again" in line
