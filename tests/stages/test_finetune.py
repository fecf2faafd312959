"""Claims about Module IV's step: on one device, on eight, and on many labels."""

import dataclasses
import gc
import re

import jax
import numpy as np
import optax
import pytest
from contexts import context
from finetuning import CONFIG, TABLE, L, batches, shortlists
from flax import nnx
from small import new_model, weights

from mufin_jax.model import label_table
from mufin_jax.model.saved import save_model
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages import finetune as stage
from mufin_jax.stages.finetune import finetune
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.finetune_step import make_step, place
from mufin_jax.training.setup import TrainState, split

DIM = 6
MANY = 65_536


@dataclasses.dataclass
class Stage:
    """A model before training, and its step."""

    dataset: object
    mesh: object
    config: FinetuneConfig = CONFIG

    def __post_init__(self):
        model = new_model(self.dataset, self.mesh)
        self.before = weights(model)
        self.graphdef, self.train, self.frozen = split(model, self.config.optimizer, cross=True)
        # Plain gradient descent: Adam would blow up the rounding of vanishing gradients.
        optimizer = optax.sgd(0.1)
        self.opt = optimizer.init(self.train)
        self.step = make_step(self.config, self.graphdef, optimizer, 100, self.mesh)
        self.batches = batches(self.dataset, self.config, self.mesh.size)

    def state(self, table):
        return TrainState(opt=self.opt, table=table, train=self.train)

    def run(self):
        table = label_table.initialize(jax.random.key(0), L, DIM, self.mesh)
        self.table_before = jax.tree.map(np.array, table)
        # Donated buffers must not be those that a caller still holds.
        state, self.metrics = jax.tree.map(lambda leaf: leaf.copy(), self.state(table)), []
        self.donated = state.table
        for i in range(3):
            state, values = self.step(state, self.frozen, place(self.batches(i), self.mesh))
            self.metrics.append(jax.tree.map(float, values))
        self.after = weights(nnx.merge(self.graphdef, state.train, self.frozen))
        self.table_after = jax.tree.map(np.array, state.table)
        return self


@pytest.fixture(scope="module")
def eight(dataset, mesh):
    return Stage(dataset, mesh).run()


def test_eight_devices_learn_what_one_learns(dataset, one_device, eight):
    one = Stage(dataset, one_device).run()
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["loss"] > 0
        assert a["negative_cosine"] == pytest.approx(b["negative_cosine"], abs=1e-5)
    for name, weight in eight.after.items():
        np.testing.assert_allclose(weight, one.after[name], atol=1e-5, err_msg=name)
    moved = max(np.abs(eight.after[name] - eight.before[name]).max() for name in eight.after)
    assert moved > 0.01
    rows = jax.tree.map(np.subtract, eight.table_after.rows, one.table_after.rows)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(rows)) < 1e-5


@pytest.mark.slow
def test_a_batch_that_does_not_divide_over_the_devices_trains_like_on_one(
    dataset, mesh, one_device
):
    config = dataclasses.replace(CONFIG, batch_size=11)
    eight, one = (Stage(dataset, devices, config).run() for devices in (mesh, one_device))
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    rows = jax.tree.map(np.subtract, eight.table_after.rows, one.table_after.rows)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(rows)) < 1e-5


def test_the_loss_of_a_step_is_the_sum_computed_pair_by_pair(eight):
    model = nnx.merge(eight.graphdef, eight.train, eight.frozen)
    batch = place(eight.batches(0), eight.mesh)

    @jax.jit
    def embed(model, batch):
        vectors = model.describe(batch.pool)
        return model.embed(vectors, batch.points), model.embed(vectors, batch.labels)

    # On one device: many small programs on eight devices can block each other.
    points, labels = jax.device_get(embed(model, batch))
    attend = jax.jit(jax.device_get(model.cross_attention))
    rows, total = eight.table_before.rows, 0.0
    chosen, ids = np.array(batch.chosen), np.array(batch.ids)
    for i, k in zip(*np.nonzero(np.array(batch.positives | batch.negatives)), strict=True):
        label = chosen[i, k]
        x2 = attend(points.bag[i], labels.bag[label], labels.mask[label])
        x2 = np.array(x2)[points.mask[i]].sum(0)
        eta, alpha = rows.eta[ids[label]], rows.alpha[ids[label]]
        w = alpha * np.array(labels.vector[label]) + (1 - alpha) * eta / np.linalg.norm(eta)
        cosine = x2 @ w / np.linalg.norm(x2) / np.linalg.norm(w)
        total += 1 - cosine if batch.positives[i, k] else max(cosine - eight.config.margin, 0)
    assert eight.metrics[0]["loss"] == pytest.approx(total / len(chosen), abs=1e-5)


def test_frozen_weights_keep_every_bit_and_the_others_learn(eight):
    frozen = {
        name
        for name in eight.before
        if name.startswith("text_encoder")
        or (
            name.startswith("image_encoder")
            and not name.startswith(("image_encoder/blocks/1", "image_encoder/norm"))
        )
    }
    for name, weight in eight.before.items():
        same = np.array_equal(weight, eight.after[name])
        # A key's bias adds the same to all of a row's logits, so its gradient vanishes.
        assert same == (name in frozen) or name.endswith("key/bias"), name


def test_only_rows_of_drawn_labels_learn_and_alpha_learns_too(eight):
    drawn = np.unique(np.concatenate([eight.batches(i).ids for i in range(3)]))
    drawn = drawn[drawn < L]
    before, after = eight.table_before.rows, eight.table_after.rows
    changed = (before.eta != after.eta).any(1)
    assert set(np.flatnonzero(changed)) <= set(drawn) and changed.sum() >= L - 2
    assert set(np.flatnonzero(before.alpha != after.alpha)) <= set(drawn)
    assert (before.alpha != after.alpha).sum() >= L - 2 and eight.table_after.steps == 3


def test_the_first_step_moves_rows_by_the_table_s_own_rate(eight):
    state = eight.state(label_table.initialize(jax.random.key(0), L, DIM, eight.mesh))
    batch = place(eight.batches(0), eight.mesh)
    state = jax.tree.map(lambda leaf: leaf.copy(), state)
    after, _ = eight.step(state, eight.frozen, batch)
    moved = np.abs(np.array(after.table.rows.eta) - eight.table_before.rows.eta)
    # Adam's first step is the rate itself.
    assert moved.max() == pytest.approx(eight.config.optimizer.table_rate, rel=1e-3)
    assert eight.config.optimizer.table_rate != eight.config.optimizer.rate


def test_a_step_that_is_not_finite_changes_neither_weights_nor_table(dataset, eight):
    state = eight.state(label_table.initialize(jax.random.key(0), L, DIM, eight.mesh))
    before = jax.tree.map(np.array, state)
    poisoned = jax.tree.map(lambda leaf: leaf * np.nan, eight.frozen)
    batch = place(eight.batches(0), eight.mesh)
    state = jax.tree.map(lambda leaf: leaf.copy(), state)
    after, metrics = eight.step(state, poisoned, batch)
    assert np.isnan(metrics["loss"]) and after.table.steps == 0
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_the_table_is_donated_to_the_step(eight):
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(eight.donated.rows))


def compiled(stage, num_labels):
    """Return the step, compiled for an abstract table of so many labels."""
    table = label_table.abstract(num_labels, DIM, stage.mesh)
    batch = place(stage.batches(0), stage.mesh)
    return stage.step.lower(stage.state(table), stage.frozen, batch).compile()


def test_the_cost_of_a_step_does_not_depend_on_the_number_of_labels(eight):
    few, many = compiled(eight, 2048), compiled(eight, MANY)
    sizes = [one.memory_analysis() for one in (few, many)]
    # One array of the smallest kind, a float for each of a device's rows, would be seen.
    growth = sizes[1].temp_size_in_bytes - sizes[0].temp_size_in_bytes
    assert growth < 4 * (MANY - 2048) / 8 / 2
    # eta and alpha with two moments each, in place on every device.
    grown_table = 3 * (DIM + 1) * 4 * (MANY - 2048) / 8
    assert sizes[1].alias_size_in_bytes - sizes[0].alias_size_in_bytes == grown_table
    text = many.as_text()
    assert not re.search(rf"\[(\d+,)*{MANY}(,\d+)*\]", text)  # the whole table, nowhere
    collectives = re.findall(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute)", text)
    assert collectives
    for shapes, name in collectives:
        assert not re.search(rf"\b{MANY // 8}\b", shapes), (name, shapes)


def test_without_a_table_the_step_trains_only_the_model(eight):
    state = eight.state(None)
    batch = place(eight.batches(0), eight.mesh)
    new, metrics = jax.eval_shape(eight.step, state, eight.frozen, batch)
    assert new.table is None and new.train.keys() == eight.train.keys()
    assert metrics["loss"].shape == ()


def test_the_moments_are_freed_before_the_label_side_is_written(
    dataset, one_device, tmp_path, monkeypatch
):
    model = new_model(dataset, one_device)
    save_model(model, tmp_path / "initialize" / "model")
    table = label_table.initialize(jax.random.key(0), L, DIM, one_device)
    Checkpoints(tmp_path / "initialize" / "table").save(0, table, {})
    shortlists().save(tmp_path / "retrieve" / "train")
    del model, table

    def tables() -> int:
        gc.collect()
        held = (array for array in jax.live_arrays() if array.shape == (TABLE, DIM))
        return len({array.unsafe_buffer_pointer() for array in held})

    before, during = tables(), []

    def write(folder, model, rows, *rest):
        during.append(tables())
        assert rows.eta.shape == (TABLE, DIM)

    monkeypatch.setattr(stage, "build_predictor", write)
    monkeypatch.setattr(stage, "fit", lambda state, *rest, **options: state)  # skips training
    monkeypatch.setattr(stage, "describe_once", lambda model, loader, path: path.touch())
    (tmp_path / "finetune").mkdir()
    folders = {name: tmp_path / name for name in ("retrieve", "initialize")}
    folders["prepare"] = dataset.path
    finetune(
        dataclasses.replace(CONFIG, epochs=1), context(tmp_path / "finetune", one_device, folders)
    )
    assert during == [before + 1]  # eta, without its two moments
    assert not (tmp_path / "finetune" / "vectors.npy").exists()  # the images' encoder has trained
