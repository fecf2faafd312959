"""Draws that stand for different things differ, and a repeated address repeats its draw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import CONFIG as FINETUNE
from finetuning import batches as finetune_batches
from flax import nnx
from small import new_model

from mufin_jax.data.loader import Loader
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.mufin import _new_map
from mufin_jax.model.reduction import Dropout
from mufin_jax.report.tables import sample
from mufin_jax.training.pretrain_batches import Batches as PretrainBatches
from mufin_jax.training.pretrain_config import PretrainConfig

STAGES = ["pretrain", "finetune"]


def made(dataset, stage, seed=0):
    if stage == "pretrain":
        loader = Loader(dataset, "both", devices=1)
        return PretrainBatches(PretrainConfig(batch_size=8), dataset, loader, seed)
    return finetune_batches(dataset, dataclasses.replace(FINETUNE), 1, seed)


def epoch(batches, number):
    """The items of an epoch's batches, without those that fill the last batch up."""
    steps = range(number * batches.per_epoch, (number + 1) * batches.per_epoch)
    return np.concatenate([batches._items(step) for step in steps])[: len(batches.usable)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_epoch_shows_all_items_in_an_order_of_its_own(dataset, stage):
    batches, other = made(dataset, stage), made(dataset, stage, seed=1)
    assert len(batches.usable) % batches.size  # the last batch is filled up
    orders = [tuple(epoch(batches, number)) for number in range(4)]
    orders += [tuple(epoch(other, number)) for number in range(2)]
    for order in orders:
        assert sorted(order) == batches.usable.tolist()
    assert len(set(orders)) == len(orders) and tuple(batches.usable) not in orders
    for number in (3, 0):  # in any order of asking, as in a resumed run
        assert tuple(epoch(batches, number)) == orders[number]


@pytest.mark.parametrize("stage", STAGES)
def test_the_last_batch_of_an_epoch_is_filled_up_with_the_first_items_of_the_same_epoch(
    dataset, stage
):
    batches = made(dataset, stage)
    over = batches.per_epoch * batches.size - len(batches.usable)
    for number in (0, 1):
        last = batches._items((number + 1) * batches.per_epoch - 1)
        np.testing.assert_array_equal(last[-over:], epoch(batches, number)[:over])


@pytest.mark.parametrize("stage", STAGES)
def test_equal_items_of_two_epochs_get_positives_and_negatives_of_their_own(
    dataset, stage, monkeypatch
):
    batches = made(dataset, stage)
    monkeypatch.setattr(type(batches), "_items", lambda self, step: self.usable[: self.size])
    one, again, other = (batches._draw(step) for step in (2, 2, 3))
    for mine, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(mine, same)
    np.testing.assert_array_equal(one[0], other[0])
    assert (one[1] != other[1]).any()
    assert (made(dataset, stage, seed=1)._draw(2)[1] != one[1]).any()


def test_titles_and_pictures_lose_entries_of_their_own(dataset, one_device, monkeypatch):
    model = new_model(dataset, one_device)
    ones = jnp.ones((60, model.dim))
    for name in ("read", "see"):
        monkeypatch.setattr(type(model), name, lambda self, source: ones)
    model.text_reduce = model.image_reduce = None
    pool, _ = Loader(dataset, "both").batch([(dataset.labels, np.arange(3))])
    found, again, other = (
        np.asarray(model.describe(pool, Dropout(jax.random.key(seed), 0.5))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(found, again)
    texts, pictures = found[:60], found[60:]
    assert 0.3 < (texts != pictures).mean() < 0.7
    assert 0.3 < (found != other).mean() < 0.7
    assert 0.3 < (texts[0::2] != texts[1::2]).mean() < 0.7  # two titles of a batch, too


def test_maps_of_titles_and_pictures_begin_with_weights_of_their_own():
    config = dataclasses.replace(ModelConfig(), reduce="hidden", reduce_hidden=6, dim=4)
    maps = [_new_map(config, 5, nnx.Rngs(0), draw) for draw in (0, 1, 0)]
    one, other, again = (np.asarray(some.linear.kernel[...]) for some in maps)
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()


def test_samples_of_the_report_differ_by_seed_and_have_no_thing_twice():
    one, again, other = (sample(100, 20, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.tolist() != other.tolist()
    for found in (one, other):
        assert len(set(found.tolist())) == 20 and (np.diff(found) > 0).all()
        assert 0 <= found.min() and found.max() < 100
