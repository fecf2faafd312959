"""The step of Module I: embed a batch's labels and datapoints, and take the hinge loss of each."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mufin_jax.model.mufin import Mufin
from mufin_jax.training import losses
from mufin_jax.training.nonfinite import gradient_norm, kept_unless_finite
from mufin_jax.training.pretrain_batches import Batch, PretrainConfig
from mufin_jax.training.setup import Step, TrainState, Weights, updated


def make_step(
    config: PretrainConfig, graphdef: nnx.GraphDef[Mufin], optimizer: optax.GradientTransformation
) -> Step[Batch]:
    """Return the jitted step of Module I: (state, frozen, batch) -> (state, metrics)."""

    def loss_of(train: Weights, frozen: Weights, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model: Mufin = nnx.merge(graphdef, train, frozen)
        vectors = model.describe(batch.pool)
        z = model.embed(vectors, batch.labels).vector
        x = model.embed(vectors, batch.points).vector
        similarities = z @ x.T  # over the global batch, whatever the number of devices
        hardest = min(config.negatives, similarities.shape[1])
        loss = losses.hinge_loss(
            similarities, batch.positives, batch.negatives, hardest, config.margin
        )
        cosine = jnp.where(batch.negatives, similarities, 0).sum() / batch.negatives.sum().clip(1)
        # Rows that only fill the devices have no positive: the mean is over the labels drawn.
        return loss.sum() / batch.positives.any(1).sum(), cosine

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, frozen: Weights, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, cosine), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.train, frozen, batch
        )
        metrics = {"loss": loss, "negative_cosine": cosine, "gradient": gradient_norm(gradients)}
        new = updated(state, gradients, optimizer)
        return kept_unless_finite(metrics, new, state), metrics

    return step
