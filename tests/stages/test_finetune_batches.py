"""Batches of Module IV: the labels drawn for a datapoint, and the padding."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from finetuning import CONFIG, TABLE, L, batches, shortlists
from scipy import sparse
from small import SIZES, relevant

from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError
from mufin_jax.training.finetune_batches import FinetuneConfig


def labels_of(batch, mask):
    """Return the label ids of each datapoint where a mask is true."""
    return [batch.ids[row[real]] for row, real in zip(batch.chosen, mask, strict=True)]


def points_of(make, step):
    epoch, index = divmod(step, make.per_epoch)
    return np.take(make._order(epoch), index * make.size + np.arange(make.size), mode="wrap")


def test_positives_are_relevant_and_negatives_are_listed_but_not_relevant(dataset):
    make, lists = batches(dataset), shortlists()
    for step in range(4):
        batch, points = make(step), points_of(make, step)
        likes, others = labels_of(batch, batch.positives), labels_of(batch, batch.negatives)
        for point, liked, other in zip(points, likes, others, strict=True):
            assert set(liked) <= set(relevant(point)) and len(set(liked)) == len(liked)
            assert len(liked) == min(2, len(relevant(point)))
            allowed = set(lists.labels[point]) - set(relevant(point)) - {-1}
            assert set(other) <= allowed and len(set(other)) == len(other) == min(3, len(allowed))


def test_bags_of_a_batch_are_those_of_its_points_and_labels(dataset):
    make = batches(dataset)
    batch, points = make(1), points_of(make, 1)
    pool, (point_bags, label_bags) = make.loader.batch(
        [(dataset.train, points), (dataset.labels, batch.ids[batch.ids < L])]
    )
    real = batch.ids < L
    np.testing.assert_array_equal(batch.points.slots, point_bags.slots)
    np.testing.assert_array_equal(batch.labels.slots[real], label_bags.slots)
    np.testing.assert_array_equal(batch.labels.mask[real], label_bags.mask)
    np.testing.assert_array_equal(batch.pool.images.rows, pool.images.rows)


def test_label_ids_are_distinct_and_pads_lie_beyond_the_table(dataset):
    for devices in (1, 8):
        ids = batches(dataset, devices=devices)(0).ids
        assert len(set(ids)) == len(ids) and len(ids) % devices == 0
        assert (ids < L).sum() > 8 and (ids[ids >= L] >= TABLE).all() and (ids >= L).any()


def test_pairs_of_the_overlap_filter_are_neither_positives_nor_negatives(dataset):
    overlap = np.zeros((SIZES["train"], L), np.float32)
    overlap[:, [1, 6]] = 1
    train = dataclasses.replace(dataset.train, filter=sparse.csr_matrix(overlap))
    make = batches(dataclasses.replace(dataset, train=train))
    for step in range(4):
        assert not {1, 6} & set(make(step).ids.tolist())


def test_the_best_negative_can_be_left_out(dataset):
    lists = shortlists()
    config = dataclasses.replace(CONFIG, drop_best=True, negatives=12)
    for drop, make in ((True, batches(dataset, config)), (False, batches(dataset))):
        best_drawn = 0
        for step in range(4):
            batch = make(step)
            others = labels_of(batch, batch.negatives)
            for point, other in zip(points_of(make, step), others, strict=True):
                best = next(x for x in lists.labels[point] if x not in relevant(point))
                best_drawn += best in other
        assert (best_drawn == 0) == drop


def test_negatives_are_drawn_from_the_first_places_of_the_shortlist(dataset):
    lists, drawn = shortlists(), set()
    make = batches(dataset, dataclasses.replace(CONFIG, negatives=2, negatives_from=3))
    for step in range(8):
        batch = make(step)
        others = labels_of(batch, batch.negatives)
        for point, other in zip(points_of(make, step), others, strict=True):
            listed = [label for label in lists.labels[point] if label not in relevant(point)]
            assert len(other) == 2 and set(other) <= set(listed[:3])
            drawn |= {listed.index(label) for label in other}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("places, fits", [(11, False), (L, True)])
def test_negatives_from_more_places_than_the_shortlists_have_are_rejected(dataset, places, fits):
    lists = np.zeros((SIZES["train"], places), np.int32)
    deep = dataclasses.replace(CONFIG, negatives_from=1000)
    rejected = pytest.raises(
        InputError, match=r"finetune.negatives_from=1000.* 11 places.*--retrieve.shortlist=1000"
    )
    with contextlib.nullcontext() if fits else rejected:
        batches(dataset, deep, lists=Shortlist(lists, lists.astype(np.float32)))


def test_without_a_training_pair_there_is_no_batch(dataset):
    train = dataclasses.replace(dataset.train, filter=dataset.train.relevance)
    with pytest.raises(InputError, match="0 of its datapoints have a training pair, expected at"):
        batches(dataclasses.replace(dataset, train=train))


def test_a_small_catalogue_gets_the_least_steps_and_a_large_one_its_passes(dataset):
    make = batches(dataset)
    assert make.per_epoch == 4
    assert [make.steps(3, least) for least in (0, 12, 13, 50)] == [12, 12, 13, 50]
    with pytest.raises(InputError, match=r"finetune.least_steps=-1: expected a number >= 0"):
        FinetuneConfig(least_steps=-1)


def test_draws_do_not_change_between_versions(dataset):
    points, drawn = batches(dataset)._draw(5)
    assert points.tolist() == [15, 19, 7, 4, 8, 1, 9, 22]
    assert drawn[:3].tolist() == [[7, 0, 5, 11, 8], [9, 4, 3, 11, 5], [3, 2, 8, 7, 6]]


def test_nearly_all_batches_of_a_training_have_one_shape(dataset):
    make = batches(dataset, dataclasses.replace(CONFIG, batch_size=24), devices=1)
    assert len({str(jax.tree.map(np.shape, make(step))) for step in range(60)}) == 1


def test_a_batch_is_a_function_of_only_seed_and_step(dataset):
    first, second, other = batches(dataset), batches(dataset), batches(dataset, seed=1)
    second(7)
    jax.tree.map(np.testing.assert_array_equal, first(4), second(4))
    assert (points_of(first, 0) != points_of(other, 0)).any()
    assert set(np.concatenate([points_of(first, i) for i in range(4)])) == set(range(26))


def test_negatives_drawn_from_a_mapped_shortlist_are_those_drawn_from_memory(dataset, tmp_path):
    shortlists().save(tmp_path)
    mapped, held = batches(dataset, lists=Shortlist.load(tmp_path)), batches(dataset)
    jax.tree.map(np.testing.assert_array_equal, mapped(3), held(3))


def test_a_batch_is_the_same_on_any_number_of_devices_except_for_padding(dataset):
    config = dataclasses.replace(CONFIG, batch_size=11)
    one, eight = (batches(dataset, config, devices) for devices in (1, 8))
    assert one.per_epoch == eight.per_epoch
    one, eight = one(3), eight(3)
    assert eight.positives.shape == (16, CONFIG.positives + CONFIG.negatives)
    for name in ("chosen", "positives", "negatives"):
        np.testing.assert_array_equal(getattr(eight, name)[:11], getattr(one, name))
        assert name == "chosen" or not getattr(eight, name)[11:].any()


def test_more_devices_than_points_share_the_points(dataset):
    batch = batches(dataset, dataclasses.replace(CONFIG, batch_size=200), 27)(0)
    assert len(batch.points.mask) == 27 and batch.positives.any(1).sum() == 26


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"negatives": 0}, {"margin": 1.0}])
def test_invalid_settings_are_rejected(wrong):
    with pytest.raises(InputError, match=f"finetune.{next(iter(wrong))}="):
        FinetuneConfig(**wrong)
