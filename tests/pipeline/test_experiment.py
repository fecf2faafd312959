"""All stages, end to end: all ways to run them give the same result, all settings work."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import minute
import numpy as np
import optax
import pytest
from places import GOLDEN, SUPPORT
from raw_folders import write_json_lines

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Vectors
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.saved import new_model
from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.run import run
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import make_mesh, put, replicated
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, load_sealed
from mufin_jax.training import finetune_batches, finetune_step, pretrain_batches, pretrain_step
from mufin_jax.training.optimizer import OptimizerConfig, describes
from mufin_jax.training.setup import TrainState, split

# One batch an epoch: all batches have the same shape, so each stage compiles only one program.
BRIEF = ("--pretrain.epochs=1", "--pretrain.batch-size=30", "--finetune.epochs=4",
         "--finetune.batch-size=80")  # fmt: skip

_BY_STAGE = """
import sys
import minute
for stage in sys.argv[2:]:
    code = minute.main(minute.PRESETS, [sys.argv[1], f"--stage={stage}"])
    assert code == 0, (stage, code)
"""


@pytest.mark.slow
def test_stage_by_stage_gives_the_same_as_all_at_once(minute_run, compiled, tmp_path):
    subprocess.run(
        [sys.executable, "-c", _BY_STAGE, f"--workdir={tmp_path}/run", *minute.STAGES],
        env=minute.environment(compiled) | {"PYTHONPATH": str(SUPPORT)},
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert minute.metrics(tmp_path / "run") == minute.metrics(minute_run)
    one, other = minute.results(tmp_path / "run"), minute.results(minute_run)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)


def test_metrics_json_has_what_its_readers_rely_on(minute_run):
    found = load_json(minute_run / "metrics.json")
    percents = [f"{name}@{k}" for name in ("P", "nDCG", "PSP") for k in (1, 3, 5)]
    for name in [*percents, "R@10", "R@100", "ceiling", *map("floors.{}".format, found["floors"])]:
        value = found["floors"][name[7:]] if name.startswith("floors.") else found[name]
        assert 0 <= value <= 100, name
    assert 0 <= found["AUC"] <= 1
    assert found["ms_per_point"] > 0 and found["ms_per_point_single"] > 0
    floors = ["popularity", "nearest_title", "title_neighbours", "walk", "frozen_neighbours"]
    assert list(found["floors"]) == floors and max(found["floors"].values()) > 0
    for kind in ("warm", "cold"):
        assert found[kind]["rows"].keys() == found["rows"].keys()
    assert found["warm"]["points"] + found["cold"]["points"] == found["points"] == 24


def test_run_json_records_what_a_run_was_made_with(minute_run):
    found = load_json(minute_run / "run.json")
    assert found["experiment"]["pretrain"]["optimizer"]["rate"] == 3e-3
    assert found["experiment"]["seed"] == 0 and found["experiment"]["miniature"]["seed"] == 0
    assert {"jax", "flax", "numpy", "mufin_jax", "python"} <= found["versions"].keys()
    assert found["devices"] == ["cpu:0 cpu"]
    for facts in (found["seconds"], found["peak_bytes"]):
        assert list(facts) == minute.STAGES and min(facts.values()) > 0


@pytest.mark.parametrize(("stage", "steps"), [("pretrain", 4), ("finetune", 4)])
def test_training_leaves_json_lines_and_events(minute_run, stage, steps):
    lines = (minute_run / stage / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))
    assert {"loss", "negative_cosine"} <= json.loads(lines[0]).keys()
    (events,) = (minute_run / stage / "tensorboard").iterdir()
    assert events.stat().st_size > 200


def test_a_finished_run_is_not_changed_by_running_it_again(minute_run, monkeypatch):
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    changing = {"run.json", "lock", "owner.json"}

    def state() -> dict[str, tuple[int, int]]:
        files = (path for path in minute_run.rglob("*") if path.is_file())
        stats = {path: path.stat() for path in files if path.name not in changing}
        return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}

    before = state()
    found = run(dataclasses.replace(minute.MINUTE, workdir=minute_run))
    assert found == load_json(minute_run / "metrics.json")
    assert state() == before


@pytest.mark.parametrize(
    ("stage", "part", "change", "message"),
    [
        ("prepare", "miniature", {"points": 81}, "miniature.points: 80 -> 81"),
        ("pretrain", "model", {"heads": 2}, "model.heads: 1 -> 2"),
        ("finetune", "finetune", {"margin": 0.4}, "margin: 0.5 -> 0.4"),
    ],
)
def test_the_error_for_a_folder_of_another_configuration_names_the_field(
    minute_run, monkeypatch, stage, part, change, message
):
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    before = load_json(minute_run / "run.json")["experiment"]
    changed = dataclasses.replace(getattr(minute.MINUTE, part), **change)
    other = dataclasses.replace(minute.MINUTE, workdir=minute_run, **{part: changed})
    with pytest.raises(InputError, match=f"{stage} was made with other settings \\({message}\\)"):
        run(other)
    # The record keeps the settings that the folder was made with.
    assert load_json(minute_run / "run.json")["experiment"] == before


def test_negatives_from_too_many_places_are_rejected_before_pretrain_begins(
    minute_run, tmp_path, monkeypatch
):
    def train(config, context):
        pytest.fail("pretrain began")

    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    monkeypatch.setitem(STAGES, "pretrain", dataclasses.replace(STAGES["pretrain"], make=train))
    workdir = minute.begun(minute_run, tmp_path / "run", "pretrain")
    deep = dataclasses.replace(minute.MINUTE.finetune, negatives_from=1000)
    with pytest.raises(InputError, match=r"finetune.negatives_from=1000.* 20 places") as found:
        run(dataclasses.replace(minute.MINUTE, workdir=workdir, finetune=deep))
    (line,) = str(found.value).splitlines()
    assert "--retrieve.shortlist=1000" in line and "--finetune.negatives-from=100" in line


def test_a_stage_is_not_made_again_while_later_stages_exist(minute_run, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    shutil.copytree(minute_run, tmp_path / "run")
    for stage in ("retrieve", "evaluate"):  # evaluate reads what retrieve writes
        shutil.rmtree(tmp_path / "run" / stage)
    said = "initialize was made from another retrieve: .*--redo=retrieve"
    with pytest.raises(InputError, match=said):
        run(dataclasses.replace(minute.MINUTE, workdir=tmp_path / "run"))


@pytest.mark.slow
def test_eight_devices_give_the_same_as_one(minute_run, compiled, tmp_path):
    minute.finish(tmp_path / "run", cache=compiled, devices=8)
    assert len(load_json(tmp_path / "run" / "run.json")["devices"]) == 8
    for stage in ("pretrain", "finetune"):
        one, eight = (minute.losses(at, stage) for at in (minute_run, tmp_path / "run"))
        np.testing.assert_allclose(one, eight, rtol=1e-4)
    one, eight = minute.metrics(minute_run), minute.metrics(tmp_path / "run")
    # A sum in another order may swap two labels with nearly equal scores, of 24 points: 4.2%.
    for name in ("P@5", "nDCG@5", "R@10", "R@100"):
        assert abs(one[name] - eight[name]) < 1.0, name
    assert abs(one["AUC"] - eight["AUC"]) < 0.01


def _stands(workdir: Path, cache: Path, *flags: str) -> dict:
    minute.finish(workdir, *BRIEF, *flags, cache=cache)
    return load_json(workdir / "metrics.json")


@pytest.mark.slow
@pytest.mark.rotates("experiment", every=2)
def test_text_only_without_a_table_on_clustered_batches(compiled, tmp_path):
    _stands(
        tmp_path / "run", compiled, "--model.modalities=text", "--finetune.classifiers=labels",
        "--pretrain.batches=clustered", "--pretrain.cluster-size=4", "--pretrain.epochs=2",
    )  # fmt: skip
    minute.assert_learned(tmp_path / "run")
    assert not (tmp_path / "run" / "finetune" / "table").exists()
    # The batches of the second epoch are clustered by the refresh after the first.
    assert len(minute.losses(tmp_path / "run", "pretrain")) == 2


@pytest.mark.slow
@pytest.mark.rotates("experiment", every=2)
def test_images_only_with_frozen_encoders_from_json_lines(compiled, tmp_path):
    raw = json_lines(tmp_path / "raw")
    found = _stands(
        tmp_path / "run", compiled, f"--data={raw}", "--model.modalities=images",
        "--predict.mix=0.6",
        *(f"--{stage}.optimizer.{kind}-encoder=frozen" for stage in ("pretrain", "finetune")
          for kind in ("image", "text")),
    )  # fmt: skip
    minute.assert_learned(tmp_path / "run")
    assert found["ceiling"] is None
    before, after = (
        np.load(tmp_path / "run" / stage / "vectors.npy") for stage in ("pretrain", "finetune")
    )
    np.testing.assert_array_equal(before, after)  # no part that describes has trained
    assert np.abs(before).max() > 0
    recorded = load_sealed(tmp_path / "run" / "finetune" / "predictor" / "predictor.json")
    assert recorded == {"shortlist": 100, "mix": 0.6}  # what metrics.json was made with


@pytest.mark.slow
@pytest.mark.rotates("experiment", every=2)
def test_ready_vectors_with_a_learned_reduction(compiled, tmp_path):
    _stands(
        tmp_path / "run", compiled, "--miniature.pictures=vectors", "--model.reduce=linear",
        "--model.heads=2", "--retrieve.pooled", "--finetune.drop-best",
    )  # fmt: skip
    minute.assert_learned(tmp_path / "run")
    assert not (tmp_path / "run" / "prepare" / "images.npy").exists()


@pytest.mark.slow
@pytest.mark.rotates("experiment", every=2)
def test_the_last_blocks_of_checkpoints_train(compiled, tmp_path):
    _stands(tmp_path / "run", compiled, *checkpoint_flags(tmp_path), *(
        f"--{stage}.optimizer.{kind}-encoder=last" for stage in ("pretrain", "finetune")
        for kind in ("image", "text")))  # fmt: skip
    minute.assert_learned(tmp_path / "run")
    trained = minute.results(tmp_path / "run")
    start, end = (f"{stage}/model/weights/0/image_encoder" for stage in ("pretrain", "finetune"))
    assert (trained[f"{start}/blocks/2/up/kernel"] != trained[f"{end}/blocks/2/up/kernel"]).any()
    np.testing.assert_array_equal(trained[f"{start}/patches/kernel"],
                                  trained[f"{end}/patches/kernel"])  # fmt: skip
    # The picture's size and normalisation are the checkpoint's own.
    manifest = load_json(tmp_path / "run" / "prepare" / "manifest.json")
    assert manifest["processing"]["size"] == 24 and manifest["processing"]["std"] == [0.5, 0.6, 0.7]


@pytest.mark.slow
@pytest.mark.rotates("experiment", every=2)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_stored_descriptor_vectors_train_like_computed_ones(minute_run, stage, tmp_path):
    dataset, mesh = Dataset.load(minute_run / "prepare"), make_mesh(jax.devices()[:1])
    rates = OptimizerConfig(rate=1e-2, image_encoder="frozen", text_encoder="frozen")
    loader = Loader(dataset)
    model = new_model(minute.MINUTE.model, dataset, mesh, 0)
    graphdef, train, frozen = split(model, rates, cross=stage == "finetune")
    assert not describes(train)
    # Plain gradient descent: Adam would blow up the rounding of vanishing gradients.
    optimizer = optax.sgd(0.1)
    if stage == "pretrain":
        config = dataclasses.replace(minute.MINUTE.pretrain, optimizer=rates)
        batches = pretrain_batches.Batches(config, dataset, loader, 0)
        step = pretrain_step.make_step(config, graphdef, optimizer)
    else:
        config = dataclasses.replace(minute.MINUTE.finetune, optimizer=rates, classifiers="labels")
        lists = Shortlist.load(minute_run / "retrieve" / "train").labels
        batches = finetune_batches.Batches(config, dataset, loader, lists, 0)
        step = finetune_step.make_step(config, graphdef, optimizer, 10, mesh)

    def learned() -> tuple[dict, dict]:
        state = jax.tree.map(jnp.copy, TrainState(opt=optimizer.init(train), train=train))
        losses = []
        for i in range(2):
            state, found = step(state, frozen, put(batches(i), replicated(mesh)))
            losses.append(found["loss"])
        return losses, state.train

    computed = learned()
    vectors = describe_once(model, loader, tmp_path / "vectors.npy")
    batches.read_from(loader.with_sources(known=Vectors(vectors)))
    known = learned()
    assert batches(0).pool.images is None
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), computed, known
    )


def checkpoint_flags(folder: Path) -> list[str]:
    """Return the flags of a run with the tiny checkpoints in golden/; write a vocabulary."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    text = folder / "text"
    text.mkdir()
    for file in (GOLDEN / "distilbert").iterdir():
        os.symlink(file, text / file.name)
    (text / "vocab.txt").write_text("\n".join(words) + "\n")
    return [f"--model.image-checkpoint={GOLDEN / 'vit'}", f"--model.text-checkpoint={text}"]


def json_lines(folder: Path) -> Path:
    """Write fifty products, some without a title; each is bought with the next three."""
    products = [
        {"ASIN": f"B{i:03}", "title": f"lamp {i}" if i % 4 else "", "images": [f"images/{i}.jpg"],
         "also_buy": [f"B{(i + k) % 50:03}" for k in (1, 2, 3)]}
        for i in range(50)
    ]  # fmt: skip
    return write_json_lines(folder, products=products)
