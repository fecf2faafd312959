"""Claims about the softmax of Module I: its batches, its step, and its learned temperature."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import small
from contexts import context
from small import new_model, relevant, weights

from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Pixels
from mufin_jax.model import saved
from mufin_jax.runtime.distributed.mesh import by_row, put
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages import pretrain as stage
from mufin_jax.training import mining
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_batches import Batches
from mufin_jax.training.pretrain_config import PretrainConfig
from mufin_jax.training.pretrain_step import make_step
from mufin_jax.training.setup import TrainState, split
from mufin_jax.training.temperature import initial

CONFIG = PretrainConfig(
    loss="softmax", batch_size=7, hard_limit=1.0, temperature=0.2,
    optimizer=OptimizerConfig(text_encoder="full"),
)  # fmt: skip
OVER_POINTS = dataclasses.replace(CONFIG, batches_over="points", random_others=3)


def batches(dataset, config=CONFIG, devices=8):
    return Batches(config, dataset, Loader(dataset, "both", devices=devices), 0)


def drawn(make, step):
    """The labels and the points of a batch, and whether its rows are labels."""
    anchors, others, real = make._draw(step)
    over_labels = make.over == "labels"
    return anchors, np.where(real, others, -1), over_labels


@pytest.mark.parametrize("config", [CONFIG, OVER_POINTS], ids=["labels", "points"])
def test_relevant_pairs_of_a_batch_are_positives_and_all_others_negatives(dataset, config):
    make = batches(dataset, config)
    for step in range(3):
        batch = make(step)
        anchors, others, over_labels = drawn(make, step)
        seen = set()
        for column, other in enumerate(others):
            counted = other >= 0 and other not in seen
            seen.add(other)
            for row, anchor in enumerate(anchors):
                label, point = (anchor, other) if over_labels else (other, anchor)
                real = counted and row < make.size
                liked = real and label in relevant(point)
                assert batch.positives[row, column] == liked
                assert batch.negatives[row, column] == (real and not liked)
        assert batch.positives[: make.size].any(1).all()


@pytest.mark.parametrize("config", [CONFIG, OVER_POINTS], ids=["labels", "points"])
def test_the_plan_of_memory_knows_the_sizes_of_a_batch(dataset, config):
    batch = batches(dataset, config, devices=1)(0)
    assert (len(batch.labels.mask), len(batch.points.mask)) == config.shapes(config.batch_size)


def test_pairs_of_the_overlap_filter_are_neither_positives_nor_negatives(dataset):
    overlap = dataset.train.relevance.copy()
    overlap.data[:] = 0
    overlap = (overlap + dataset.train.relevance.multiply(np.arange(13) == 4)).tocsr()
    overlap.eliminate_zeros()
    train = dataclasses.replace(dataset.train, filter=overlap)
    make = batches(dataclasses.replace(dataset, train=train), OVER_POINTS)
    assert 4 not in make.usable_others
    for step in range(4):
        assert 4 not in drawn(make, step)[1]


def test_mined_negatives_are_near_an_anchor_and_not_related_to_it(dataset):
    config = dataclasses.replace(CONFIG, mined_negatives=1)
    make = batches(dataset, config)
    mined = slice(8 * 2, 8 * 3)  # after the positives of seven labels and one spare row
    assert (drawn(make, 0)[1][mined][:7] >= 0).all()  # random ones, before the first refresh
    rng = np.random.default_rng(0)
    z, x = rng.normal(size=(13, 4)), rng.normal(size=(26, 4))

    def search(entries, queries, count):
        assert count == 2 * mining.NEAR
        return np.argsort(-(queries @ entries.T), 1)[:, :count]

    make.refresh(z, x, search)
    for step in range(4):
        labels, points, _ = drawn(make, step)
        batch = make(step)
        for row, (label, point) in enumerate(zip(labels[:7], points[mined][:7], strict=True)):
            free = [i for i in np.argsort(-(x @ z[label])) if label not in relevant(i)]
            assert point in free[: mining.NEAR]
            assert batch.negatives[row, points == point].sum() == 1


@dataclasses.dataclass
class Run:
    """Three steps by plain gradient descent, with a learned temperature."""

    metrics: list
    after: dict
    batch: object


def patterned(batch):
    """The batch with a pattern on its pictures, which have a single colour otherwise."""
    rows = batch.pool.images.rows
    pattern = np.arange(rows.shape[1])[:, None, None] * np.arange(rows.shape[2])[:, None]
    rows = (rows.astype(int) + 9 * pattern).astype(np.uint8)
    return dataclasses.replace(batch, pool=dataclasses.replace(batch.pool, images=Pixels(rows)))


def run(dataset, mesh, config):
    model = new_model(dataset, mesh)
    graphdef, train, frozen = split(model, config.optimizer, cross=False)
    optimizer, metrics = optax.sgd(optax.constant_schedule(0.1)), []
    train |= initial(config.temperature)
    state = TrainState(opt=optimizer.init(train), train=train)
    step, make = make_step(config, graphdef, optimizer), batches(dataset, config, mesh.size)
    first = make(0)
    for i in range(3):
        state, values = step(state, frozen, put(patterned(make(i)), by_row(mesh)))
        metrics.append(jax.tree.map(float, values))
    return Run(metrics, jax.tree.map(np.array, state.train), first)


@pytest.mark.rotates("one and eight", every=3)
def test_the_loss_is_the_mean_of_both_ways_worked_out_pair_by_pair_on_one_device_and_on_eight(
    dataset, mesh, one_device
):
    config = dataclasses.replace(OVER_POINTS, learn_temperature=True)
    eight, one = (run(dataset, devices, config) for devices in (mesh, one_device))
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (eight.after, one.after)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    temperatures = [values["temperature"] for values in one.metrics]
    assert temperatures[0] == pytest.approx(0.2) and len(set(temperatures)) == 3

    model, batch = new_model(dataset, one_device), patterned(one.batch)
    embed = jax.jit(lambda model, pool, bags: model.embed(model.describe(pool), bags).vector)
    z, x = (np.array(embed(model, batch.pool, bags)) for bags in (batch.labels, batch.points))
    logits, ways = x @ z.T / 0.2, []
    masks = (batch.positives, batch.negatives)
    for scores, positives, negatives in ((logits, *masks), (logits.T, *(m.T for m in masks))):
        each = [
            np.mean([
                np.log(np.exp(row[p]) + np.exp(row[bad]).sum()) - row[p]
                for p in np.flatnonzero(good)
            ])
            for row, good, bad in zip(scores, positives, negatives, strict=True)
            if good.any()
        ]  # fmt: skip
        ways.append(np.mean(each))
    assert one.metrics[0]["loss"] == pytest.approx(np.mean(ways), abs=1e-5)


@pytest.mark.slow
def test_a_training_that_was_killed_learns_the_same_temperature_and_weights_to_the_bit(
    dataset, one_device, tmp_path, monkeypatch
):
    config = dataclasses.replace(
        CONFIG, epochs=2, refresh_epochs=1, learn_temperature=True, mined_negatives=1
    )

    def train(name):
        where = context(tmp_path / name, one_device, {"prepare": dataset.path}, model=small.CONFIG)
        where.out.mkdir(exist_ok=True)
        stage.pretrain(config, where)
        return Checkpoints(tmp_path / name / "checkpoints").restore()

    whole = train("whole")
    make = Batches.__call__

    def killed(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return make(self, step)

    monkeypatch.setattr(Batches, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "killed" / "checkpoints").latest() == 2
    resumed = train("killed")
    assert whole[0] == resumed[0] == 4
    jax.tree.map(np.testing.assert_array_equal, resumed[1], whole[1])
    assert np.exp(whole[1]["train"]["temperature"]) != pytest.approx(0.2, abs=1e-6)
    model = saved.new_model(small.CONFIG, dataset, one_device, 0)
    assert not any("temperature" in name for name in weights(model))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"mined_negatives": -1},
        {"learn_temperature": True},
        # It would have no gradient, and never change.
        {"temperature": 0.01, "learn_temperature": True, "loss": "softmax"},
    ],
)
def test_settings_that_cannot_be_meant_are_rejected(wrong):
    with pytest.raises(InputError, match=f"pretrain.{next(iter(wrong))}"):
        PretrainConfig(**wrong)


@pytest.mark.rotates("one and eight", every=3)
def test_crops_change_what_is_learned_and_are_the_same_on_one_device_and_on_eight(
    dataset, mesh, one_device
):
    config = dataclasses.replace(OVER_POINTS, learn_temperature=True, crop=0.5)
    eight, one = (run(dataset, devices, config) for devices in (mesh, one_device))
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    plain = run(dataset, one_device, dataclasses.replace(config, crop=0.0))
    assert plain.metrics[0]["loss"] != pytest.approx(one.metrics[0]["loss"], abs=1e-4)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_crop_leaves_something(share):
    with pytest.raises(
        InputError, match=f"pretrain.crop={share}: expected a share from 0 to below"
    ):
        PretrainConfig(crop=share)
