"""Modality dropout: who may lose what, and that draws have an address of their own."""

import copy
import dataclasses

import numpy as np
import pytest
from finetuning import CONFIG as FINETUNE
from finetuning import batches as finetune_batches

from mufin_jax.data.loader import Loader
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.runtime.draws import Draw, sequence
from mufin_jax.runtime.errors import InputError
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.modality_dropout import drop_modalities, uniform
from mufin_jax.training.pretrain_batches import Batches as PretrainBatches
from mufin_jax.training.pretrain_config import PretrainConfig

DROPS = Draw.FINETUNE_MODALITIES
PRETRAIN = PretrainConfig(batch_size=8)


def kinds(dataset, side, rows, probability, address=(0, DROPS, 2)):
    """Which items show texts and pictures, before and after the draw."""
    loader = Loader(dataset, "both")
    groups = [(side, rows)]
    _, (before,) = loader.batch(groups)
    (after,) = drop_modalities([before], groups, loader, probability, address)
    text = loader.slots(side, rows)[0] < loader.num_texts
    return tuple(
        np.stack([(mask & text).any(1), (mask & ~text).any(1)], 1)
        for mask in (before.mask, after.mask)
    )


def test_items_lose_one_modality_at_most_and_only_of_two(dataset):
    for side in (dataset.train, dataset.labels):
        rows = np.arange(len(side))
        before, after = kinds(dataset, side, rows, 1.0)
        both = before.all(1)
        assert 0 < both.sum() < len(side)
        assert (after[both].sum(1) == 1).all() and after[both].any(0).all()
        np.testing.assert_array_equal(after[~both], before[~both])


def test_an_item_loses_the_same_wherever_it_stands_in_a_batch(dataset):
    rows = np.arange(len(dataset.train))
    _, there = kinds(dataset, dataset.train, rows, 0.7)
    _, twice = kinds(dataset, dataset.train, np.append(rows[::-1], rows), 0.7)
    np.testing.assert_array_equal(twice, np.append(there[::-1], there, 0))


def test_each_modality_is_lost_with_half_the_probability(dataset):
    rows = np.arange(len(dataset.train))
    lost = np.zeros(2)
    for step in range(60):
        before, after = kinds(dataset, dataset.train, rows, 0.3, (7, DROPS, step))
        lost += (before & ~after).sum(0)
    share = lost / (60 * before.all(1).sum())
    np.testing.assert_allclose(share, 0.15, atol=0.03)


def test_a_draw_depends_on_the_item_and_the_address_alone():
    items = np.arange(500)
    one, other = Draw.PRETRAIN_MODALITIES, Draw.FINETUNE_MODALITIES
    drawn = uniform(items, sequence(3, one, 5, 0))
    again = uniform(items[[9, 2, 9]], sequence(3, one, 5, 0))
    np.testing.assert_array_equal(again, drawn[[9, 2, 9]])
    assert abs(drawn.mean() - 0.5) < 0.05 and len(set(drawn)) == 500
    for address in ((2, one, 5, 0), (3, other, 5, 0), (3, one, 6, 0), (3, one, 5, 1)):
        assert abs(np.corrcoef(drawn, uniform(items, sequence(*address)))[0, 1]) < 0.2


def test_a_point_and_the_label_of_its_number_lose_modalities_of_their_own(dataset):
    rows = np.arange(len(dataset.labels))
    sides = [kinds(dataset, side, rows, 1.0) for side in (dataset.train, dataset.labels)]
    both = sides[0][0].all(1) & sides[1][0].all(1)
    kept = [after[both] for _, after in sides]
    assert 0 < (kept[0] != kept[1]).all(1).sum() < both.sum()


def made(dataset, stage, probability, devices=1, step=1, seed=0):
    if stage == 1:
        config = dataclasses.replace(PRETRAIN, modality_dropout=probability)
        return PretrainBatches(config, dataset, Loader(dataset, "both", devices=devices), seed)(
            step
        )
    config = dataclasses.replace(FINETUNE, modality_dropout=probability)
    return finetune_batches(dataset, config, devices, seed)(step)


@pytest.mark.parametrize("stage", [1, 4])
def test_dropout_changes_what_a_batch_shows_of_its_items_and_nothing_else(dataset, stage):
    plain, dropped, again = (made(dataset, stage, p) for p in (0.0, 0.8, 0.8))
    lost = 0
    for name in ("points", "labels"):
        whole, some = getattr(plain, name), getattr(dropped, name)
        assert not (some.mask & ~whole.mask).any()
        np.testing.assert_array_equal(some.slots[some.mask], whole.slots[some.mask])
        np.testing.assert_array_equal(some.mask, getattr(again, name).mask)  # resumed to the bit
        np.testing.assert_array_equal(some.mask.any(1), whole.mask.any(1))
        lost += (whole.mask & ~some.mask).sum()
    assert lost > 5
    np.testing.assert_array_equal(dropped.positives, plain.positives)
    np.testing.assert_array_equal(dropped.negatives, plain.negatives)
    for before, after in zip(*map(dataclasses.astuple, (plain.pool, dropped.pool)), strict=True):
        assert str(before) == str(after)  # nothing is read anew


@pytest.mark.parametrize("stage", [1, 4])
def test_a_batch_loses_the_same_on_one_device_and_on_eight(dataset, stage):
    one, eight = (made(dataset, stage, 0.8, devices) for devices in (1, 8))
    count = min(len(one.points.mask), len(eight.points.mask))
    np.testing.assert_array_equal(one.points.mask[:count], eight.points.mask[:count])


def test_settings_that_cannot_be_meant_are_rejected():
    for config in (PretrainConfig, FinetuneConfig):
        with pytest.raises(InputError, match=r"modality_dropout=1.5: expected a number from 0 to"):
            config(modality_dropout=1.5)
    joint = copy.copy(ModelConfig())
    object.__setattr__(joint, "modalities", "joint")
    with pytest.raises(InputError, match=r"finetune.modality_dropout=0.1 with model.modalities=jo"):
        Experiment(model=joint, finetune=FinetuneConfig(modality_dropout=0.1))
