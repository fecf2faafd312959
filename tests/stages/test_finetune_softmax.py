"""Claims about the softmax of Module IV, and about its start at Module I's scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contexts import context
from finetuning import CONFIG, L, batches
from flax import nnx
from small import CONFIG as MODEL
from small import new_model, relevant

from mufin_jax.model import label_table
from mufin_jax.model.heads import new_cross_attention
from mufin_jax.model.label_table import Rows
from mufin_jax.model.saved import save_model
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.runtime.distributed.mesh import put, replicated
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.initialize import InitializeConfig, initialize
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.finetune_step import make_step, place
from mufin_jax.training.setup import TrainState, split

SOFTMAX = dataclasses.replace(
    CONFIG, loss="softmax", temperature=0.3, classifiers="sum", batch_size=7
)
DIM = MODEL.dim


def begun(dataset, mesh):
    """A model whose A_C starts as the identity, and a table of zeros."""
    model = new_model(dataset, mesh)
    model.config = dataclasses.replace(model.config, cross_attention="residual")
    graphdef, state = nnx.split(new_cross_attention(model.config, nnx.Rngs(0)))
    model.cross_attention = nnx.merge(graphdef, put(state, replicated(mesh)))
    table = label_table.initialize(jax.random.key(0), L, DIM, mesh)
    zeros = jax.jit(jnp.zeros_like, out_shardings=table.rows.eta.sharding)(table.rows.eta)
    return model, dataclasses.replace(table, rows=Rows(zeros, table.rows.alpha))


@dataclasses.dataclass
class Run:
    """Three steps by plain gradient descent from Module I's scores."""

    metrics: list
    eta: np.ndarray


def run(dataset, mesh):
    model, table = begun(dataset, mesh)
    graphdef, train, frozen = split(model, SOFTMAX.optimizer, cross=True)
    optimizer, metrics = optax.sgd(0.1), []
    step = make_step(SOFTMAX, graphdef, optimizer, 100, mesh)
    make = batches(dataset, SOFTMAX, mesh.size)
    state = TrainState(opt=optimizer.init(train), table=table, train=train)
    for i in range(3):
        state, values = step(state, frozen, place(make(i), mesh))
        metrics.append(jax.tree.map(float, values))
    return Run(metrics, np.array(state.table.rows.eta))


@pytest.mark.rotates("one and eight", every=3)
def test_the_loss_is_worked_out_pair_by_pair_on_one_device_and_on_eight(dataset, mesh, one_device):
    eight, one = run(dataset, mesh), run(dataset, one_device)
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    np.testing.assert_allclose(eight.eta, one.eta, atol=1e-5)
    assert np.isfinite(one.eta).all() and np.abs(one.eta).max() > 0.01  # zero rows learn

    model, _ = begun(dataset, one_device)
    batch = batches(dataset, SOFTMAX, 1)(0)
    embed = jax.jit(lambda model, pool, bags: model.embed(model.describe(pool), bags).vector)
    x, z = (np.array(embed(model, batch.pool, bags)) for bags in (batch.points, batch.labels))
    logits, losses = x @ z.T / SOFTMAX.temperature, []
    for row in range(7):
        bad = [*batch.chosen[row][batch.negatives[row]], *np.flatnonzero(batch.others[row])]
        others = np.exp(logits[row, bad]).sum()
        good = logits[row, batch.chosen[row][batch.positives[row]]]
        losses.append(np.mean([np.log(np.exp(p) + others) - p for p in good]))
    assert one.metrics[0]["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_other_labels_of_a_batch_are_neither_related_to_a_point_nor_drawn_for_it(dataset):
    make, found = batches(dataset, SOFTMAX), 0
    for step in range(4):
        batch, points = make(step), make._draw(step)[0]
        for row, point in enumerate(points):
            labels = batch.ids[batch.others[row]]
            own = batch.ids[batch.chosen[row][batch.positives[row] | batch.negatives[row]]]
            named = set(batch.ids[batch.ids < L]) - set(own) - set(relevant(point))
            assert set(labels) == (named if row < make.size else set())
            found += len(labels)
    assert found > 50


def test_module_4_starts_at_the_scores_of_module_1(dataset, one_device):
    model, table = begun(dataset, one_device)
    batch = place(batches(dataset, SOFTMAX, 1)(0), one_device)

    @jax.jit
    def scores(model, batch):
        vectors = model.describe(batch.pool)
        points, labels = model.embed(vectors, batch.points), model.embed(vectors, batch.labels)
        memory = jax.tree.map(lambda leaf: leaf[batch.chosen], model.memory(labels))
        return points.vector, model.adapt(points, memory), labels.vector

    x1, x2, z = map(np.array, scores(model, batch))
    np.testing.assert_array_equal(x2, np.broadcast_to(x1[:, None], x2.shape))  # to the bit
    rows = label_table.gather(table.rows, batch.ids, one_device)
    w = np.array(label_table.add(rows, jnp.asarray(z)))
    # What remains is the rounding of normalising z, which has the norm 1, once more.
    np.testing.assert_allclose(w, z, rtol=3e-7, atol=0)
    assert np.abs(x1 @ w.T - x1 @ z.T).max() < 5e-7


def test_rows_of_zeros_are_combined_to_the_same_classifiers_that_they_are_summed_to():
    z = jax.random.normal(jax.random.key(0), (5, 3))
    z /= jnp.linalg.norm(z, axis=1, keepdims=True)
    rows = Rows(jnp.zeros((5, 3)), jnp.full(5, 0.5))
    combined = label_table.combine(label_table.as_combined(rows), z)
    np.testing.assert_array_equal(combined, label_table.add(rows, jnp.asarray(z)))
    assert np.isfinite(np.array(combined)).all()


def test_module_3_can_start_all_free_vectors_at_zero(dataset, one_device, tmp_path):
    save_model(new_model(dataset, one_device), tmp_path / "pretrain" / "model")
    folders = {"prepare": dataset.path, "pretrain": tmp_path / "pretrain"}
    model = dataclasses.replace(MODEL, cross_attention="residual")
    initialize(
        InitializeConfig(eta="zero"), context(tmp_path / "out", one_device, folders, model=model)
    )
    table = label_table.load_table(tmp_path / "out" / "table", L, DIM, one_device)
    assert table.rows.eta.shape == (1024, DIM) and not np.any(table.rows.eta)


def test_free_vectors_of_zero_are_rejected_where_they_could_not_learn():
    zero = InitializeConfig(eta="zero")
    with pytest.raises(InputError, match=r"initialize.eta=zero .*--finetune.classifiers=sum"):
        Experiment(initialize=zero)
    Experiment(initialize=zero, finetune=FinetuneConfig(classifiers="sum"))
