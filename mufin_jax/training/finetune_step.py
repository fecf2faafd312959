"""The step of Module IV: adapt each datapoint to the labels drawn for it, and compare with their w.

The weights of the model and the rows of the label table that the batch names are differentiated
together. The optimizer updates the weights; the rows are updated in place, alone. Validation takes
the same scores without a step.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mufin_jax.model import label_table
from mufin_jax.model.label_table import Rows
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime.distributed.mesh import by_row, gather_rows, put, replicated
from mufin_jax.training import losses
from mufin_jax.training.finetune_batches import Batch, FinetuneConfig
from mufin_jax.training.nonfinite import gradient_norm, is_finite, kept_unless_finite
from mufin_jax.training.optimizer import schedule
from mufin_jax.training.prototypes import CENTROIDS, Prototypes, block_of, without_prototypes
from mufin_jax.training.setup import Step, TrainState, Weights, updated


def place(batch: Batch, mesh: Mesh) -> Batch:
    """Put a batch on the devices: everything by rows but the label ids, which all devices read."""
    placed = put(dataclasses.replace(batch, ids=None), by_row(mesh))
    return dataclasses.replace(placed, ids=put(batch.ids, replicated(mesh)))


def make_step(
    config: FinetuneConfig,
    graphdef: nnx.GraphDef[Mufin],
    optimizer: optax.GradientTransformation,
    steps: int | Sequence[int],
    mesh: Mesh,
    before: int = 0,
) -> Step[Batch]:
    """Return the jitted step of Module IV: (state, frozen, batch) -> (state, metrics).

    Args:
        config: the settings.
        graphdef: the model's structure.
        optimizer: of the weights that train.
        steps: of the stage, for the `schedule` of the label table's rate.
        mesh: the devices.
        before: steps that the label table's optimizer had made when the stage began.
    """
    rates = config.optimizer
    table_rate = schedule(rates.table_rate or rates.rate, rates.warmup, steps)

    def loss_of(
        train: Weights, rows: Rows | None, frozen: Weights, batch: Batch, mu: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        model: Mufin = nnx.merge(graphdef, without_prototypes(train), frozen)
        block = None if mu is None else block_of(train, model.dim)
        similarities, x1, w = _classified(config, model, rows, batch, mesh, block, mu)
        if config.loss == "softmax":
            loss = _softmax(config, similarities, x1 @ w.T, batch)
        else:
            loss = losses.cosine_margin_loss(
                similarities, batch.positives, batch.negatives, config.margin
            )
        cosine = jnp.where(batch.negatives, similarities, 0).sum() / batch.negatives.sum().clip(1)
        # Rows that only fill the devices have no positive: the mean is over the points drawn.
        return loss.sum() / batch.positives.any(1).sum(), cosine

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, frozen: Weights, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        table = state.table
        frozen, mu = _centroids(frozen, batch, mesh)
        rows = None if table is None else label_table.gather(table.rows, batch.ids, mesh)
        (loss, cosine), (gradients, row_gradients) = jax.value_and_grad(
            loss_of, argnums=(0, 1), has_aux=True
        )(state.train, rows, frozen, batch, mu)
        norm = gradient_norm((gradients, row_gradients))
        metrics = {"loss": loss, "negative_cosine": cosine, "gradient": norm}
        weights = dataclasses.replace(state, table=None)
        new = kept_unless_finite(metrics, updated(weights, gradients, optimizer), weights)
        if table is not None:
            steps_now = table.steps - before if before else table.steps
            rate, made = jnp.asarray(table_rate(steps_now)), is_finite(metrics)
            table = label_table.update(table, batch.ids, row_gradients, rate, mesh, made=made)
        return dataclasses.replace(new, table=table), metrics

    return step


def make_scores(
    config: FinetuneConfig, graphdef: nnx.GraphDef[Mufin], mesh: Mesh
) -> Callable[[TrainState, Weights, Batch], Float[Array, "b c"]]:
    """Return the jitted scores c of a batch's datapoints with the labels drawn for them.

    They are of (state, frozen, batch); the state is not donated.
    """

    @jax.jit
    def scores(state: TrainState, frozen: Weights, batch: Batch) -> Float[Array, "b c"]:
        frozen, mu = _centroids(frozen, batch, mesh)
        model: Mufin = nnx.merge(graphdef, without_prototypes(state.train), frozen)
        table, block = state.table, None if mu is None else block_of(state.train, model.dim)
        rows = None if table is None else label_table.gather(table.rows, batch.ids, mesh)
        return _classified(config, model, rows, batch, mesh, block, mu)[0]

    return scores


def _centroids(frozen: Weights, batch: Batch, mesh: Mesh) -> tuple[Weights, Array | None]:
    """Return what of the frozen arrays is the model's, and the centroids of a batch's labels."""
    frozen = dict(frozen)
    mu = frozen.pop(CENTROIDS, None)
    return frozen, None if mu is None else gather_rows(mu, batch.ids, mesh)


def _classified(
    config: FinetuneConfig,
    model: Mufin,
    rows: Rows | None,
    batch: Batch,
    mesh: Mesh,
    block: Prototypes | None = None,
    mu: Float[Array, "u d"] | None = None,
) -> tuple[Float[Array, "b c"], Float[Array, "b d"], Float[Array, "u d"]]:
    """Return c = x2_l·w_l of each datapoint with its labels, x1 of it, and w of all labels.

    The block of prototypes and the labels' centroids are given together, or not at all.
    """
    combine = label_table.add if config.classifiers == "sum" else label_table.combine
    vectors = model.describe(batch.pool)
    points, labels = model.embed(vectors, batch.points), model.embed(vectors, batch.labels)
    memory, z = jax.lax.with_sharding_constraint(
        (model.memory(labels), labels.vector), replicated(mesh)
    )
    x2 = model.adapt(points, jax.tree.map(lambda leaf: leaf[batch.chosen], memory))
    own = z if block is None or mu is None else block(z, mu)
    w = own if rows is None else combine(rows, own)
    return jnp.einsum("bcd,bcd->bc", x2, w[batch.chosen]), points.vector, w


def _softmax(
    config: FinetuneConfig,
    own: Float[Array, "b c"],
    others: Float[Array, "b u"],
    batch: Batch,
) -> Float[Array, "b"]:
    """Return the softmax loss, or a user's own, of each datapoint.

    It compares the datapoint's own labels and the batch's others.
    The other labels are compared by x1·w: an x2 for every pair of the batch would cost some fifty
    times as much cross-attention, and these are the easy negatives.
    """
    assert batch.others is not None
    none = jnp.zeros_like(batch.others)
    loss_of = losses.batch_loss(config.own_loss, "finetune", config.temperature)
    return loss_of(
        jnp.concatenate([own, others], 1),
        jnp.concatenate([batch.positives, none], 1),
        jnp.concatenate([batch.negatives, batch.others], 1),
    )
