"""Outputs of the encoders' frozen parts, which are kept for all steps."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import CONFIG, new_model, weights

from mufin_jax.data.bags import Pool
from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Tokens
from mufin_jax.model.embed_side import describe_once
from mufin_jax.runtime.distributed.mesh import by_row, put
from mufin_jax.training import frozen_features
from mufin_jax.training.frozen_features import precompute, use_precomputed
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_batches import Batches, PretrainConfig
from mufin_jax.training.pretrain_step import make_step
from mufin_jax.training.setup import TrainState, split

LAST = OptimizerConfig(rate=1e-2, warmup=1)
MODES = {
    "last": LAST,
    "frozen images": dataclasses.replace(LAST, image_encoder="frozen"),
    "frozen texts": dataclasses.replace(LAST, image_encoder="full", text_encoder="frozen"),
}
FILES = {
    "last": ["image-trunk"],
    "frozen images": ["image"],
    "frozen texts": ["text"],
}


def files(folder):
    return sorted(path.name.rsplit("-", 1)[0] for path in folder.glob("*.npy"))


def train(model, loader, optimizer, mesh):
    """Return the losses of three steps of Module I, and the trained weights."""
    config = PretrainConfig(epochs=2, batch_size=8, optimizer=optimizer)
    batches = Batches(config, loader.dataset, loader, 0)
    graphdef, learns, frozen = split(model, optimizer, cross=False)
    learns = jax.tree.map(jnp.copy, learns)  # steps donate their arguments
    descent = optax.sgd(0.3)  # Adam would blow up the rounding of vanishing gradients
    step, losses = make_step(config, graphdef, descent), []
    state = TrainState(opt=descent.init(learns), train=learns)
    for number in range(3):
        state, metrics = step(state, frozen, put(batches(number), by_row(mesh)))
        losses.append(float(metrics["loss"]))
    return losses, state.train


@pytest.mark.rotates("kept outputs", every=3)
@pytest.mark.parametrize("mode", MODES)
def test_steps_on_kept_outputs_learn_what_steps_on_pixels_and_tokens_learn(
    mode, dataset, one_device, tmp_path
):
    optimizer, model = MODES[mode], new_model(dataset, one_device)
    plain = train(model, Loader(dataset, "both", one_device), optimizer, one_device)
    loader = Loader(dataset, "both", one_device)
    loader = precompute(model, loader, optimizer, tmp_path, tmp_path / "decisions.json")
    assert files(tmp_path) == FILES[mode]
    kept = train(model, loader, optimizer, one_device)
    np.testing.assert_allclose(kept[0], plain[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), kept[1], plain[1])


def test_nothing_is_kept_for_encoders_that_train_fully(dataset, model, mesh, tmp_path):
    loader = Loader(dataset, "both", mesh)
    full = dataclasses.replace(LAST, image_encoder="full")
    loader = precompute(model, loader, full, tmp_path, tmp_path / "decisions.json")
    assert files(tmp_path) == [] and loader.sources.images.rows is dataset.images


@pytest.mark.parametrize("mode", MODES)
def test_later_stages_describe_with_the_outputs_that_an_earlier_one_kept(
    mode, dataset, model, mesh, tmp_path, monkeypatch
):
    wanted = describe_once(model, Loader(dataset, "both", mesh), tmp_path / "wanted.npy")
    precompute(
        model, Loader(dataset, "both", mesh), MODES[mode], tmp_path / "kept", tmp_path / "d.json"
    )
    loader = Loader(dataset, "both", mesh)
    monkeypatch.setattr(frozen_features, "whole_npy", None)  # nothing is made again
    loader = use_precomputed(model, loader, tmp_path / "kept")
    assert (loader.sources.images.rows is dataset.images) == (mode == "frozen texts")
    assert isinstance(loader.sources.texts, Tokens) == (mode != "frozen texts")
    found = describe_once(model, loader, tmp_path / "found.npy")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_model_uses_only_outputs_of_its_own_frozen_weights(dataset, mesh, tmp_path):
    model = new_model(dataset, mesh)
    precompute(model, Loader(dataset, "both", mesh), LAST, tmp_path, tmp_path / "first.json")
    last = CONFIG.image.depth - 1
    for below, served in ((False, True), (True, False)):
        bias = model.image_encoder.blocks[0 if below else last].up.bias
        bias[...] = bias[...] + 1
        loader = Loader(dataset, "both", mesh)
        loader = use_precomputed(model, loader, tmp_path)
        assert (loader.sources.images.rows is not dataset.images) == served


@pytest.mark.parametrize("kind, served", [("image", False), ("text", False), ("image-trunk", True)])
def test_outputs_of_a_whole_encoder_are_of_its_last_block_too(
    kind, served, dataset, mesh, tmp_path
):
    """Module I may train the last block alone, and Module IV none."""
    model, paths = new_model(dataset, mesh), []
    for _ in range(2):
        part = frozen_features._Part(model, Loader(dataset, "both", mesh), kind, tmp_path)
        paths.append(part.path)
        bias = (model.text_encoder if kind == "text" else model.image_encoder).blocks[-1].up.bias
        bias[...] = bias[...] + 1
    assert (paths[0] == paths[1]) == served


@pytest.mark.parametrize("other", [{"heads": 3}, {"layer_norm_eps": 1e-3}, {"dtype": "bfloat16"}])
def test_a_model_that_uses_the_same_weights_differently_uses_no_kept_outputs(
    other, dataset, mesh, tmp_path
):
    model = new_model(dataset, mesh)
    precompute(model, Loader(dataset, "both", mesh), LAST, tmp_path, tmp_path / "first.json")
    config = dataclasses.replace(CONFIG, image=dataclasses.replace(CONFIG.image, **other))
    loader = Loader(dataset, "both", mesh)
    loader = use_precomputed(new_model(dataset, mesh, config), loader, tmp_path)
    assert loader.sources.images.rows is dataset.images


def test_a_model_that_normalises_pixels_differently_uses_no_kept_outputs(dataset, mesh, tmp_path):
    model = new_model(dataset, mesh)
    precompute(model, Loader(dataset, "both", mesh), LAST, tmp_path, tmp_path / "first.json")
    for other in ({"mean": (0.1, 0.2, 0.3)}, {"std": (0.1, 0.2, 0.3)}):
        again = new_model(dataset, mesh)
        again.processing = dataclasses.replace(model.processing, **other)
        loader = use_precomputed(again, Loader(dataset, "both", mesh), tmp_path)
        assert loader.sources.images.rows is dataset.images
    loader = use_precomputed(new_model(dataset, mesh), Loader(dataset, "both", mesh), tmp_path)
    assert loader.sources.images.rows is not dataset.images


def test_kept_outputs_are_not_used_for_other_pictures(dataset, model, mesh, tmp_path):
    precompute(model, Loader(dataset, "both", mesh), LAST, tmp_path, tmp_path / "first.json")
    files = dataset.manifest["files"] | {"images.npy": {"bytes": 1, "sha256": "another"}}
    other = dataclasses.replace(dataset, manifest=dataset.manifest | {"files": files})
    loader = Loader(other, "both", mesh)
    loader = use_precomputed(model, loader, tmp_path)
    assert loader.sources.images.rows is dataset.images


@pytest.mark.parametrize("begun_with", [0.0, None])
def test_a_resumed_run_keeps_its_decision_with_any_free_space(
    begun_with, dataset, model, mesh, tmp_path
):
    decisions, served = tmp_path / "decisions.json", begun_with is None
    first, second = (Loader(dataset, "both", mesh) for _ in range(2))
    first = precompute(model, first, LAST, tmp_path / "kept", decisions, begun_with)
    assert (first.sources.images.rows is not dataset.images) == served
    shutil.rmtree(tmp_path / "kept")
    second = precompute(model, second, LAST, tmp_path / "kept", decisions, 0.0 if served else None)
    assert (second.sources.images.rows is not dataset.images) == served


def test_kept_outputs_are_not_computed_again(dataset, model, mesh, tmp_path, monkeypatch):
    precompute(model, Loader(dataset, "both", mesh), LAST, tmp_path, tmp_path / "first.json")
    monkeypatch.setattr(frozen_features, "whole_npy", None)
    loader = Loader(dataset, "both", mesh)
    loader = precompute(
        model, loader, LAST, tmp_path, tmp_path / "second.json", gigabytes=0.0
    )  # no more space is needed
    assert loader.sources.images.rows is not dataset.images


@pytest.mark.parametrize("gigabytes", [0.0, 1e-6])
def test_without_enough_space_steps_read_pixels(gigabytes, dataset, model, mesh, tmp_path, caplog):
    loader = Loader(dataset, "both", mesh)
    with caplog.at_level("INFO", "mufin_jax.training.frozen_features"):
        loader = precompute(model, loader, LAST, tmp_path, tmp_path / "decisions.json", gigabytes)
    assert files(tmp_path) == [] and loader.sources.images.rows is dataset.images
    assert "each step computes it again" in caplog.text


def test_tokens_in_bfloat16_are_kept_unchanged(dataset, mesh, tmp_path):
    image = dataclasses.replace(CONFIG.image, dtype="bfloat16")
    model = new_model(dataset, mesh, dataclasses.replace(CONFIG, image=image))
    loader = Loader(dataset, "both", mesh)
    pixels, _ = loader.pictures(np.arange(8))
    wanted = jax.jit(lambda m, x: m.image_encoder.trunk(m.processing.normalise(x)))(
        model, pixels.rows
    )
    loader = precompute(model, loader, LAST, tmp_path, tmp_path / "decisions.json")
    kept, _ = loader.pictures(np.arange(8))
    assert kept.rows.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept.rows, np.asarray(wanted))
    vectors = jax.jit(lambda m, pool: m.describe(pool))(model, Pool(None, kept))
    assert vectors.dtype == jnp.float32


def test_one_device_uses_the_outputs_that_eight_kept(dataset, mesh, one_device, tmp_path):
    eight, one = (new_model(dataset, devices) for devices in (mesh, one_device))
    precompute(eight, Loader(dataset, "both", mesh), LAST, tmp_path, tmp_path / "first.json")
    loader = Loader(dataset, "both", one_device)
    loader = use_precomputed(one, loader, tmp_path)
    assert loader.sources.images.rows is not dataset.images
    assert weights(one).keys() == weights(eight).keys()
