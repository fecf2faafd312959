"""The learned map from the vectors of frozen encoders to D, its mean, and the dropout before it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from block_sizes import small_blocks
from flax import nnx
from small import CONFIG

from mufin_jax.data.bags import Pool
from mufin_jax.data.sources import Vectors
from mufin_jax.model.embed_side import encode
from mufin_jax.model.reduction import Dropout, Reduction
from mufin_jax.model.saved import load_model, new_loader, new_model, save_model
from mufin_jax.runtime.errors import InputError
from mufin_jax.training import centring
from mufin_jax.training.centring import centre, means
from mufin_jax.training.optimizer import OptimizerConfig, trains
from mufin_jax.training.pretrain_config import PretrainConfig

HIDDEN = dataclasses.replace(CONFIG, reduce="hidden", reduce_hidden=5)
VECTORS = jnp.asarray(np.random.default_rng(0).normal(2, 1, size=(40, 7)), jnp.float32)

blocks = small_blocks((centring, "_BLOCK", 16))


def test_neither_an_offset_nor_the_scale_of_vectors_changes_the_result():
    reduction = Reduction(7, 3, 5, rngs=nnx.Rngs(0))
    reduction.mean[...] = VECTORS.mean(0)
    found = reduction(reduction.centred(VECTORS))
    reduction.mean[...] = 4 * VECTORS.mean(0) + 8
    np.testing.assert_allclose(reduction(reduction.centred(4 * VECTORS + 8)), found, atol=1e-5)
    assert np.asarray(found).std(0).min() > 0.1


def test_dropout_keeps_the_mean_of_vectors_and_repeats_its_draws():
    dropout = Dropout(jax.random.key(0), 0.3)
    ones = jnp.ones((200, 50))
    found = np.asarray(dropout(ones, 0))
    assert abs((found == 0).mean() - 0.3) < 0.02 and abs(found.mean() - 1) < 0.03
    np.testing.assert_array_equal(dropout(ones, 0), found)
    assert (np.asarray(dropout(ones, 1)) != found).any()


@pytest.fixture(scope="module")
def centred(dataset, one_device):
    """A model with such maps, and its loader."""
    model = new_model(HIDDEN, dataset, one_device, seed=0)
    loader = new_loader(HIDDEN, dataset, one_device)
    centre(model, loader)
    return model, loader


def test_the_means_are_those_of_the_encoders_vectors(centred, dataset):
    model, loader = centred
    pixels = np.asarray(dataset.images[np.arange(len(dataset.images))])
    vectors = model.image_encoder(dataset.processing.normalise(jnp.asarray(pixels)))
    np.testing.assert_allclose(model.image_reduce.mean[...], np.asarray(vectors).mean(0), atol=1e-5)
    assert {name: len(mean) for name, mean in means(model, loader).items()} == {
        "text_reduce": 12,
        "image_reduce": 12,
    }


def test_a_mean_of_many_descriptors_is_that_of_evenly_spread_ones(centred, dataset, monkeypatch):
    model, loader = centred
    monkeypatch.setattr(centring, "SAMPLE", 16)
    for kind, count in (("text", dataset.num_texts), ("image", len(dataset.images))):
        spread = np.arange(16) * (count - 1) // 15
        assert len(set(spread)) == 16 < count
        found = means(model, loader)[f"{kind}_reduce"]
        np.testing.assert_allclose(found, encode(model, loader, kind, spread).mean(0), atol=1e-6)


def test_texts_and_pictures_drop_entries_of_their_own(centred):
    model, dropout = centred[0], Dropout(jax.random.key(1), 0.5)
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(4, 12)), jnp.float32)
    found = np.asarray(model.describe(Pool(Vectors(rows), Vectors(rows)), dropout))
    for start, reduce, draw in ((0, model.text_reduce, 0), (4, model.image_reduce, 1)):
        own = reduce(dropout(reduce.centred(rows), draw))
        np.testing.assert_allclose(found[start : start + 4], own, atol=1e-5)


def test_a_saved_model_keeps_its_means(centred, one_device, tmp_path):
    save_model(centred[0], tmp_path / "model")
    again = load_model(tmp_path / "model", one_device)
    assert again.config == centred[0].config
    np.testing.assert_array_equal(again.image_reduce.mean[...], centred[0].image_reduce.mean[...])


def test_maps_train_unless_they_are_frozen_and_their_means_never_do(centred):
    model = centred[0]
    for reduce, expected in (("full", {"linear", "up", "down"}), ("frozen", set())):
        config = OptimizerConfig(image_encoder="frozen", text_encoder="frozen", reduce=reduce)
        _, train, _ = nnx.split(model, trains(config, model.depths(), cross=True), ...)
        paths = [path for path, _ in nnx.to_flat_state(train)]
        for part in ("image_reduce", "text_reduce"):
            assert {path[1] for path in paths if path[0] == part} == expected


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_impossible_shares_and_widths_are_rejected(share):
    with pytest.raises(
        InputError, match=r"pretrain.dropout=.*: expected a share from 0 to below 1"
    ):
        PretrainConfig(dropout=share)
    with pytest.raises(InputError, match=r"model.reduce_hidden=0: expected at least 1"):
        dataclasses.replace(CONFIG, reduce_hidden=0)
