"""The ad-to-query experiment: from generated vectors to metrics, and the flags that size it."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import jax
import minute
import numpy as np
import pytest
from places import GOLDEN, ROOT

from experiments import a2q, amazon
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.synthetic.ads import AdsConfig
from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.cli import main, parse
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json

TINY = (
    "--num_labels=240", "--num-points=4_00", "--num-test-points=50", "--miniature.dim=16",
    "--miniature.noise=0.4", "--model.dim=16", "--finetune.batch-size=100", "--finetune.epochs=2",
    "--evaluate.timed-points=3", "--retrieve.shortlist=40", "--predict.shortlist=40",
)  # fmt: skip


def finish(workdir: Path, cache: Path, *flags: str) -> dict:
    """Run the experiment as a user would, and return its metrics."""
    subprocess.run(
        [sys.executable, "-m", "experiments.a2q", f"--workdir={workdir}", *TINY, *flags],
        cwd=ROOT, env=minute.environment(cache), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return load_json(workdir / "metrics.json")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, compiled):
    folder = tmp_path_factory.mktemp("a2q") / "run"
    finish(folder, compiled)
    return folder


@pytest.mark.slow
def test_generated_ads_go_through_all_stages(workdir):
    found = load_json(workdir / "metrics.json")
    assert (found["labels"], found["points"], found["ceiling"]) == (240, 50, None)
    assert found["rows"]["Module I alone (P-I-bag)"]["P@1"] > 1.5 * found["floors"]["popularity"]
    assert found["P@1"] > found["floors"]["popularity"]
    dataset = Dataset.load(workdir / "prepare", verify=True)
    assert (len(dataset.train), dataset.num_texts) == (400, 690)


@pytest.mark.slow
def test_module_1_of_zero_epochs_writes_the_initial_model(workdir):
    names = {path.name for path in (workdir / "pretrain").iterdir()}
    assert names == {"model", "settings.json", "done.json"}
    sizes = load_json(workdir / "pretrain" / "model" / "model.json")
    assert (sizes["vector_width"], sizes["text_vector_width"], sizes["vocab"]) == (16, 16, 0)
    weights = minute.results(workdir)
    for encoder in ("image_encoder", "text_encoder"):
        kernel = weights[f"pretrain/model/weights/0/{encoder}/blocks/0/kernel"]
        np.testing.assert_array_equal(kernel, np.eye(16))
        assert (kernel == weights[f"finetune/model/weights/0/{encoder}/blocks/0/kernel"]).all()
    query = [
        weights[f"{s}/model/weights/0/self_attention/query/kernel"]
        for s in ("pretrain", "finetune")
    ]
    assert np.abs(query[0] - query[1]).max() > 1e-4


@pytest.mark.slow
def test_descriptor_vectors_are_the_ready_vectors(workdir):
    dataset = Dataset.load(workdir / "prepare")
    vectors = np.load(workdir / "finetune" / "vectors.npy")
    np.testing.assert_array_equal(vectors[:690], dataset.text_vectors)
    np.testing.assert_array_equal(vectors[690:], dataset.image_vectors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"title": "blue shoes"}, "not titles; expected text_vector of 16 numbers"),
        ({"images": ["a.jpg"]}, "not pictures; expected image_vectors of 16 numbers"),
    ],
)
def test_a_title_or_a_picture_is_rejected_if_the_model_has_no_such_encoder(workdir, item, message):
    predictor = Predictor.load(workdir, make_mesh(jax.devices()[:1]))
    with pytest.raises(InputError, match=f"item 0: the model knows ready vectors, {message}"):
        predictor.predict([item])


@pytest.mark.slow
@pytest.mark.rotates("experiments", every=2)
def test_training_works_on_ready_vectors(workdir, compiled, tmp_path):
    trains = [f"--pretrain.optimizer.{kind}-encoder=full" for kind in ("image", "text")]
    finish(tmp_path / "run", compiled, "--pretrain.epochs=2", "--pretrain.batch-size=64", *trains)
    before, after = minute.results(workdir), minute.results(tmp_path / "run")
    for part in ("image_encoder/blocks/0", "text_encoder/blocks/0", "self_attention/query"):
        name = f"pretrain/model/weights/0/{part}/kernel"
        assert np.abs(before[name] - after[name]).max() > 1e-4, name


def test_without_flags_the_builtin_data_are_used():
    for module in (a2q, amazon):
        command = parse(module.PRESETS, [])
        assert (command.preset, command.stage) == ("miniature", "all")
        assert command.experiment == module.PRESETS["miniature"]
    assert parse(a2q.PRESETS, ["--data", "/tmp"]).preset == "paper"


@pytest.mark.parametrize(("module", "kind"), [(a2q, AdsConfig), (amazon, object)])
def test_short_flags_set_the_sizes_of_the_builtin_data(module, kind):
    sizes = ["--num_labels=4_500_000", "--num-points", "200_000", "--num-test-points=7"]
    builtin = parse(module.PRESETS, sizes).experiment.miniature
    assert isinstance(builtin, kind)
    assert (builtin.labels, builtin.points, builtin.test_points) == (4_500_000, 200_000, 7)
    assert parse(module.PRESETS, ["--miniature.labels=50"]).experiment.miniature.labels == 50


def test_the_labels_pictures_can_be_left_out():
    for flags, wanted in (
        ([], True), (["--label_images=false"], False), (["--label-images=true"], True),
        (["--model.no-label-images"], False),
    ):  # fmt: skip
        assert parse(amazon.PRESETS, flags).experiment.model.label_images is wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=/tmp", "--num-labels=9"], "--num-labels=9: sizes are of built-in data, and"),
        (["--num-labels=many"], "--num-labels: 'many' is not a whole number"),
        (["--num-lables=9"], "unrecognized option --num-lables; did you mean --num-labels"),
        (["--num-labels=1"], "generated data: labels=1, expected at least 2"),
        (["--labels=9"], "did you mean --miniature.labels"),
        (["--label-images=no"], "--label-images=no: expected one of"),
        (["--miniature.picture=9"], "unrecognized option --miniature.picture"),
    ],
)  # fmt: skip
def test_a_wrong_size_gives_one_clear_error(flags, message):
    with pytest.raises(InputError, match=message):
        parse(a2q.PRESETS, flags)


def test_generated_data_have_no_validation_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    handlers = list(logging.getLogger().handlers)
    flags = [f"--workdir={tmp_path}", "--stage=prepare", "--prepare.validation-share=0.1"]
    assert main(a2q.PRESETS, flags) == 2
    logging.getLogger().handlers[:] = handlers
    said = "prepare.validation_share=0.1: built-in data without raw files have no validation part"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "lacks"), [("text", "titles"), ("image", "pixels")])
def test_a_checkpoint_for_ready_vectors_is_rejected(kind, lacks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    handlers = list(logging.getLogger().handlers)
    golden = GOLDEN / {"text": "minilm", "image": "vit"}[kind]
    flags = [f"--workdir={tmp_path / 'run'}", *TINY, f"--model.{kind}-checkpoint={golden}"]
    assert main(a2q.PRESETS, flags) == 2
    logging.getLogger().handlers[:] = handlers
    message = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"the data hold ready {kind} vectors; expected {lacks}; use --model.{kind}-check" in message
    )


def test_the_benchmarks_exact_search_compares_every_label():
    spec = importlib.util.spec_from_file_location("bench_a2q", ROOT / "benchmarks" / "a2q.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(700, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    entries = LabelEntries.group(vectors[7:], rng.integers(0, 300, 693), 300)
    wanted = entries.exact_search(vectors[:7], bench.K)
    for block in (130, 299, 1000):
        found = bench.exact(entries, vectors[:7], block)
        np.testing.assert_array_equal(found.labels, wanted[0])
        np.testing.assert_allclose(found.similarities, wanted[1], atol=1e-6)
