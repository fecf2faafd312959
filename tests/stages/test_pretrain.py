"""Claims about Module I: its batches, and its step on one device and on eight."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import optax
import pytest
import small
from contexts import context
from flax import nnx
from scipy import sparse
from small import new_model, relevant, weights

from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Vectors
from mufin_jax.model.embed_side import describe_once, embed_blocks
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import by_row, put
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages import pretrain as stage
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_batches import Batches, PretrainConfig
from mufin_jax.training.pretrain_step import make_step
from mufin_jax.training.refresh import Refreshes
from mufin_jax.training.setup import TrainState, split

MARGIN, HARDEST = 0.3, 2  # neither is the default
CONFIG = PretrainConfig(
    batch_size=8, margin=MARGIN, negatives=HARDEST, optimizer=OptimizerConfig(text_encoder="full")
)


def batches(dataset, config=CONFIG, devices=8, seed=0):
    return Batches(config, dataset, Loader(dataset, "both", devices=devices), seed)


@dataclasses.dataclass
class Run:
    """Three steps from the same weights on the same batches."""

    before: dict
    after: dict
    metrics: list
    step: Any
    state: TrainState
    frozen: dict
    batch: Any


def run(dataset, mesh, config=CONFIG) -> Run:
    """By plain gradient descent: Adam would blow up the rounding of vanishing gradients."""
    model = new_model(dataset, mesh)
    before = weights(model)
    graphdef, train, frozen = split(model, CONFIG.optimizer, cross=False)
    optimizer = optax.sgd(0.3)
    step = make_step(config, graphdef, optimizer)
    state, metrics = TrainState(opt=optimizer.init(train), train=train), []
    make = batches(dataset, config, mesh.size)
    for i in range(3):
        batch = put(make(i), by_row(mesh))
        state, values = step(state, frozen, batch)
        metrics.append(jax.tree.map(float, values))
    after = weights(nnx.merge(graphdef, state.train, frozen))
    return Run(before, after, metrics, step, state, frozen, batch)


@pytest.fixture(scope="module")
def eight(dataset, mesh):
    return run(dataset, mesh)


def test_nearly_all_batches_of_a_training_have_one_shape(dataset):
    make = batches(dataset, dataclasses.replace(CONFIG, batch_size=13), devices=1)
    assert len({str(jax.tree.map(np.shape, make(step))) for step in range(60)}) == 1


def test_eight_devices_learn_what_one_learns(dataset, one_device, eight):
    one = run(dataset, one_device)
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["loss"] > 0
        assert a["negative_cosine"] == pytest.approx(b["negative_cosine"], abs=1e-5)
    moved = 0.0
    for name, weight in eight.after.items():
        np.testing.assert_allclose(weight, one.after[name], atol=1e-5, err_msg=name)
        moved = max(moved, np.abs(weight - eight.before[name]).max())
    assert moved > 0.01


def test_a_step_that_is_not_finite_changes_nothing(eight):
    poisoned = jax.tree.map(lambda leaf: leaf * np.nan, eight.frozen)
    state = jax.tree.map(lambda leaf: leaf.copy(), eight.state)
    after, metrics = eight.step(state, poisoned, eight.batch)
    assert np.isnan(metrics["loss"]) and np.isnan(metrics["gradient"])
    jax.tree.map(np.testing.assert_array_equal, after, eight.state)


def test_a_batch_is_named_by_the_ids_that_the_data_give_its_items(dataset):
    make = batches(dataset)
    labels, points, _ = make._draw(5)
    found = make.ids(5)
    assert {int(name.removeprefix("label")) for name in found["labels"]} == set(labels)
    assert {int(name.removeprefix("train")) for name in found["points"]} <= set(points)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_over_the_devices_trains_like_on_one(
    dataset, mesh, one_device
):
    config = dataclasses.replace(CONFIG, batch_size=11)
    eight, one = (run(dataset, devices, config) for devices in (mesh, one_device))
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    for name, weight in eight.after.items():
        np.testing.assert_allclose(weight, one.after[name], atol=1e-5, err_msg=name)


def test_the_loss_is_over_negatives_of_the_whole_batch_on_all_devices(dataset, mesh, eight):
    batch = batches(dataset)(0)
    model = new_model(dataset, mesh)
    embed = jax.jit(lambda model, pool, bags: model.embed(model.describe(pool), bags).vector)
    z, x = (np.asarray(embed(model, batch.pool, bags)) for bags in (batch.labels, batch.points))
    losses, elsewhere = [], 0
    for label in range(8):  # one a device, with its two points
        allowed = np.flatnonzero(batch.negatives[label])
        hard = sorted(allowed, key=lambda j: -(z[label] @ x[j]))[:HARDEST]
        elsewhere += sum(j // 2 != label for j in hard)
        pairs = itertools.product(np.flatnonzero(batch.positives[label]), hard)
        losses.append(sum(max(0.0, z[label] @ (x[j] - x[i]) + MARGIN) for i, j in pairs))
    assert elsewhere == 8 * HARDEST  # a device that looked at its own points would find none
    assert eight.metrics[0]["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_frozen_weights_keep_every_bit_and_the_others_learn(eight):
    frozen = {
        name
        for name in eight.before
        if name.startswith("cross_attention")
        or (
            name.startswith("image_encoder")
            and not name.startswith(("image_encoder/blocks/1", "image_encoder/norm"))
        )
    }
    assert "image_encoder/cls" in frozen and "image_encoder/blocks/0/up/kernel" in frozen
    for name, weight in eight.before.items():
        same = np.array_equal(weight, eight.after[name])
        # A key's bias adds the same to all of a row's logits, so its gradient vanishes.
        assert same == (name in frozen) or name.endswith("key/bias"), name


def test_no_negative_is_relevant_and_no_positive_is_not(dataset):
    make, found = batches(dataset), 0
    for step in range(4):
        batch = make(step)
        labels, points = batch_items(make, step)
        for row, label in enumerate(labels):
            for column, point in enumerate(points):
                if batch.negatives[row, column]:
                    assert label not in relevant(point)
                    found += 1
                if batch.positives[row, column]:
                    assert label in relevant(point) and column // 2 == row
        assert batch.positives.sum(1).min() >= 1
    assert found > 100


def test_pairs_of_the_overlap_filter_are_neither_positives_nor_negatives(dataset):
    overlap = dataset.train.relevance.toarray() * (np.arange(13) == 4)
    overlap[7:, 0] = [0 not in relevant(i) for i in range(7, 26)]
    train = dataclasses.replace(dataset.train, filter=sparse.csr_matrix(overlap))
    make = batches(dataclasses.replace(dataset, train=train))
    assert 4 not in make.usable and len(make.usable) == 12
    for step in range(6):
        batch, (labels, points) = make(step), batch_items(make, step)
        for row, column in zip(*np.nonzero(batch.negatives), strict=True):
            assert labels[row] != 4 and (labels[row] != 0 or points[column] < 7)


def test_a_datapoint_drawn_twice_is_one_candidate(dataset):
    make, twice = batches(dataset), 0
    for step in range(6):
        batch, (_, points) = make(step), batch_items(make, step)
        for row in batch.negatives:
            candidates = points[row]
            assert len(set(candidates)) == len(candidates)
        drawn = points[batch.positives.any(0)]
        twice += len(drawn) - len(set(drawn))
    assert twice > 0


def batch_items(make, step):
    """Return the labels and the points of a batch, from the arguments of its loader."""
    asked = []
    loader, make.loader = make.loader, _Recorder(make.loader, asked)
    try:
        make(step)
    finally:
        make.loader = loader
    (_, labels), (_, points) = asked
    return labels, points


class _Recorder:
    def __init__(self, loader, asked):
        self.loader, self.asked, self.mesh_size = loader, asked, loader.mesh_size

    def batch(self, groups):
        self.asked.extend(groups)
        return self.loader.batch(groups)


def test_an_epoch_has_every_label_and_the_next_one_has_another_order(dataset):
    make = batches(dataset)
    assert (make.size, make.per_epoch) == (8, 2)
    orders = [
        np.concatenate([batch_items(make, 2 * epoch + i)[0] for i in range(2)])
        for epoch in range(2)
    ]
    for order in orders:  # 13 labels in 16 places: three come twice, but never in one batch
        assert set(order) == set(range(13))
        assert len(set(order[:8])) == len(set(order[8:])) == 8
    assert (orders[0] != orders[1]).any()


def test_a_batch_is_a_function_of_only_seed_and_step(dataset):
    first, second = batches(dataset), batches(dataset)
    second(5)
    first(1)
    jax.tree.map(np.testing.assert_array_equal, first(3), second(3))
    other = batches(dataset, seed=1)
    assert (batch_items(other, 3)[0] != batch_items(first, 3)[0]).any()


def test_a_refresh_makes_positives_hard(dataset):
    make = batches(dataset, dataclasses.replace(CONFIG, positives=1))
    make.z = np.tile(np.array([1.0, 0], np.float32), (13, 1))
    make.x = np.tile(np.array([1.0, 0], np.float32), (26, 1))
    hard = np.arange(0, 26, 2)
    make.x[hard] = [0.6, 0.8]
    for step in range(4):
        for label, point in zip(*batch_items(make, step), strict=True):
            mine = [i for i in range(26) if label in relevant(i)]
            assert point in hard or not set(mine) & set(hard)


@pytest.mark.parametrize("known", [True, False])
def test_a_refresh_embeds_with_the_weights_of_its_step_once_and_completely(
    dataset, model, tmp_path, monkeypatch, known
):
    loader, refreshes = Loader(dataset, "both", devices=8), Refreshes(tmp_path)
    vectors = describe_once(model, loader, tmp_path / "elsewhere.npy")
    if known:
        loader = loader.with_sources(known=Vectors(vectors))
    monkeypatch.setattr(processes, "once", cut_short)
    with pytest.raises(KeyboardInterrupt):
        refreshes.at(4, lambda: model, loader, keep=0)
    monkeypatch.undo()
    assert not (tmp_path / "refresh-4").exists()
    z, x = refreshes.at(4, lambda: model, loader, keep=0)
    for found, side in ((z, dataset.labels), (x, dataset.train)):
        ((_, part),) = embed_blocks(model, loader, vectors, side)
        np.testing.assert_array_equal(found, part.vector)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere.npy", "refresh-4"]
    assert sorted(path.name for path in (tmp_path / "refresh-4").iterdir()) == ["x.npy", "z.npy"]
    again, _ = refreshes.at(4, lambda: pytest.fail("made again"), loader, keep=9)
    np.testing.assert_array_equal(again, z)


def cut_short(name, make):
    """Stop when the last file of a refresh is written but none has its final name."""
    if name == "a refresh is complete":
        raise KeyboardInterrupt
    make()


def test_only_refreshes_that_a_resumed_run_may_need_are_kept(dataset, model, tmp_path):
    loader, refreshes = Loader(dataset, "both", devices=8), Refreshes(tmp_path)
    for step in (2, 4, 6, 8):
        refreshes.at(step, lambda: model, loader, keep=step - 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refresh-6", "refresh-8"]


def test_clustered_batches_are_of_whole_clusters(dataset):
    overlap = dataset.train.relevance.toarray() * (np.arange(13) == 4)
    train = dataclasses.replace(dataset.train, filter=sparse.csr_matrix(overlap))
    clustered = dataclasses.replace(CONFIG, batches="clustered", cluster_size=6, batch_size=6)
    make = batches(dataclasses.replace(dataset, train=train), clustered)
    one, other = np.split(np.random.default_rng(0).permutation(make.usable), 2)
    make.z = np.random.default_rng(1).normal(0, 0.05, (13, 2)).astype(np.float32)
    make.z[one, 0] += 1
    make.z[other, 1] += 1
    make.x = np.zeros((26, 2), np.float32)
    first = [frozenset(batch_items(make, 2 * epoch)[0][:6]) for epoch in range(6)]
    assert set(first) == {frozenset(one), frozenset(other)}  # a cluster, and not always the same
    for epoch, labels in enumerate(first):
        assert set(batch_items(make, 2 * epoch + 1)[0][:6]) == set(make.usable) - labels


def test_draws_do_not_change_between_versions(dataset):
    labels, points, real = batches(dataset)._draw(3)
    assert labels.tolist() == [12, 5, 11, 10, 3, 0, 7, 2]
    assert points.tolist() == [25, 24, 10, 11, 23, 22, 21, 20, 8, 13, 1, 25, 15, 14, 7, 12]
    assert real.all()
    randomly = batches(dataset, dataclasses.replace(CONFIG, hard_negatives=False, negatives=3))
    assert np.flatnonzero(randomly(3).negatives[0]).tolist() == [3, 9, 14]


def test_positives_are_mined_by_the_last_refresh_of_a_training(
    dataset, one_device, tmp_path, monkeypatch
):
    found = []

    def fit(state, step, batches, place, *, refresh, refresh_every, **rest):
        """Three refreshes of a model that changes in between, and no steps."""
        for number in range(4):
            at = number * refresh_every
            refresh(at, state)
            if number:
                for name, mined_by in (("z", batches.z), ("x", batches.x)):
                    kept = np.load(tmp_path / f"refresh-{at}" / f"{name}.npy")
                    np.testing.assert_array_equal(mined_by, kept)
                found.append(np.array(batches.z))
            moved = jax.tree.map(lambda leaf: leaf + 0.1, state.train)
            state = dataclasses.replace(state, train=moved)
        return state

    monkeypatch.setattr(stage, "fit", fit)
    config = dataclasses.replace(CONFIG, epochs=4, refresh_epochs=1)
    stage.pretrain(
        config, context(tmp_path, one_device, {"prepare": dataset.path}, model=small.CONFIG)
    )
    assert len(found) == 3 and not np.allclose(found[0], found[1], atol=1e-3)
    assert not np.allclose(found[1], found[2], atol=1e-3)


def test_a_batch_is_the_same_on_any_number_of_devices_except_for_padding(dataset):
    config = dataclasses.replace(CONFIG, batch_size=11)
    one, eight = (batches(dataset, config, devices) for devices in (1, 8))
    assert one.per_epoch == eight.per_epoch
    one, eight = one(1), eight(1)
    points = 11 * CONFIG.positives
    assert eight.positives.shape == (16, 16 * CONFIG.positives)
    for name in ("positives", "negatives"):
        found = getattr(eight, name)
        np.testing.assert_array_equal(found[:11, :points], getattr(one, name))
        assert not found[11:].any() and not found[:, points:].any()


def test_more_devices_than_labels_share_the_labels(dataset):
    batch = batches(dataset, dataclasses.replace(CONFIG, batch_size=20), devices=14)(0)
    assert len(batch.labels.mask) == 14 and batch.positives.any(1).sum() == 13


@pytest.mark.parametrize(
    "wrong", [{"epochs": -1}, {"positives": 0}, {"batch_size": 1}, {"margin": 0.0}]
)
def test_invalid_settings_are_rejected(wrong):
    with pytest.raises(InputError, match=f"pretrain.{next(iter(wrong))}="):
        PretrainConfig(**wrong)
