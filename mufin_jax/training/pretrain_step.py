"""The step of Module I: embed a batch's labels and datapoints, and take the loss of each anchor."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.model.mufin import Mufin
from mufin_jax.model.reduction import Dropout
from mufin_jax.runtime.draws import Draw, key
from mufin_jax.training import losses
from mufin_jax.training.augmentation import cropped
from mufin_jax.training.follower import TEACHER
from mufin_jax.training.nonfinite import gradient_norm, kept_unless_finite
from mufin_jax.training.pretrain_batches import Batch
from mufin_jax.training.pretrain_config import PretrainConfig
from mufin_jax.training.setup import Step, TrainState, Weights, updated
from mufin_jax.training.temperature import temperature_of, without_temperature


def make_step(
    config: PretrainConfig,
    graphdef: nnx.GraphDef[Mufin],
    optimizer: optax.GradientTransformation,
    seed: int = 0,
) -> Step[Batch]:
    """Return the jitted step of Module I: (state, frozen, batch) -> (state, metrics).

    Args:
        config: the settings.
        graphdef: the model's structure.
        optimizer: of the weights that train.
        seed: of dropout and crops.
    """

    def loss_of(
        train: Weights, frozen: Weights, batch: Batch, steps: Int[Array, ""]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        model: Mufin = nnx.merge(graphdef, without_temperature(train), frozen)
        pool, dropout = batch.pool, None
        if config.crop:
            pool = cropped(
                pool, jax.random.fold_in(key(seed, Draw.PRETRAIN_CROPS), steps), config.crop
            )
        if config.dropout:
            drops = jax.random.fold_in(key(seed, Draw.PRETRAIN_DROPOUT), steps)
            dropout = Dropout(drops, config.dropout)
        vectors = model.describe(pool, dropout)
        z = model.embed(vectors, batch.labels).vector
        x = model.embed(vectors, batch.points).vector
        # Over the global batch, whatever the number of devices. A row is an anchor.
        similarities = z @ x.T if config.batches_over == "labels" else x @ z.T
        hardest = min(config.negatives, similarities.shape[1])
        if config.loss == "softmax":
            loss = _softmax(config, train, similarities, batch)
        else:
            loss = losses.hinge_loss(
                similarities, batch.positives, batch.negatives, hardest, config.margin
            )
        cosine = jnp.where(batch.negatives, similarities, 0).sum() / batch.negatives.sum().clip(1)
        told = {"negative_cosine": cosine}
        if config.loss != "softmax":
            # Rows that only fill the devices have no positive: the mean is over the labels drawn.
            loss = loss.sum() / batch.positives.any(1).sum()
        if batch.teacher is not None:
            told[TEACHER] = _taught(config, (z, x), batch.teacher)
            loss += told[TEACHER]
        return loss, told

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, frozen: Weights, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, told), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.train, frozen, batch, _steps(config, state)
        )
        metrics = {"loss": loss, **told, "gradient": gradient_norm(gradients)}
        if config.learn_temperature:
            metrics["temperature"] = temperature_of(state.train, config.temperature)
        new = updated(state, gradients, optimizer)
        return kept_unless_finite(metrics, new, state), metrics

    return step


def _steps(config: PretrainConfig, state: TrainState) -> Int[Array, ""]:
    """Return how many steps were made: a resumed run draws what it would have drawn."""
    if not (config.crop or config.dropout):
        return jnp.int32(0)
    return optax.tree_utils.tree_get_all_with_path(state.opt, "count")[0][1]


def _taught(
    config: PretrainConfig,
    vectors: tuple[Float[Array, "c d"], Float[Array, "b d"]],
    teacher: tuple[Float[Array, "c w"], Float[Array, "b w"]],
) -> Float[Array, ""]:
    """Return the weighted mean of the relation loss over the labels and points with a teacher."""
    total = count = jnp.float32(0)
    for ours, theirs in zip(vectors, teacher, strict=True):
        counted = theirs.any(1)
        each = losses.relation_loss(ours @ ours.T, theirs @ theirs.T, counted, config.temperature)
        total, count = total + each.sum(), count + counted.sum()
    return config.teacher_weight * total / count.clip(1)


def _softmax(
    config: PretrainConfig, train: Weights, similarities: Float[Array, "a o"], batch: Batch
) -> Float[Array, ""]:
    """Return the mean softmax loss, or a user's own, of the anchors or of both sides in turn."""
    loss_of = losses.batch_loss(
        config.own_loss, "pretrain", temperature_of(train, config.temperature)
    )

    def mean(similarities: Array, positives: Array, negatives: Array) -> Array:
        loss = loss_of(similarities, positives, negatives)
        return loss.sum() / positives.any(1).sum()

    one_way = mean(similarities, batch.positives, batch.negatives)
    if not config.both_ways:
        return one_way
    return (one_way + mean(similarities.T, batch.positives.T, batch.negatives.T)) / 2
