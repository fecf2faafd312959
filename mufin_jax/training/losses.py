"""The losses of Module I and Module IV (paper, section 3), one value per example.

The training step takes the mean over the batch. Similarities are cosines: all vectors that enter
are sphere-normalised.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def hinge_loss(
    similarities: Float[Array, "c b"],
    positives: Bool[Array, "c b"],
    negatives: Bool[Array, "c b"],
    hardest: int = 3,
    margin: float = 0.2,
) -> Float[Array, "c"]:
    """Return Module I's loss of each label l.

    It is the sum over i in P_l and j in N_l of [z_l·x_j - z_l·x_i + margin]_+. When all
    similarities are equal the value is |P_l| * |N_l| * margin: the collapsed solution.

    Args:
        similarities: z_l·x_i of every label of the batch with every datapoint of the batch.
        positives: P_l, the datapoints drawn for label l.
        negatives: the datapoints that may serve as negatives of l: drawn for other labels of the
            (global) batch, and not relevant to l.
        hardest: |N_l|; N_l holds the most similar candidates, shared by all positives of l.
        margin: gamma.
    """
    hard, _ = jax.lax.top_k(jnp.where(negatives, similarities, -jnp.inf), hardest)
    gaps = hard[:, None, :] - similarities[:, :, None] + margin
    real = positives[:, :, None] & (hard != -jnp.inf)[:, None, :]  # NaN is real, and must be seen
    return jnp.where(real, jax.nn.relu(jnp.where(real, gaps, 0)), 0).sum((1, 2))


def cosine_margin_loss(
    similarities: Float[Array, "b c"],
    positives: Bool[Array, "b c"],
    negatives: Bool[Array, "b c"],
    margin: float = 0.5,
) -> Float[Array, "b"]:
    """Return Module IV's loss of each datapoint.

    It is the sum of 1 - x2_l·w_l over positives plus the sum of [x2_k·w_k - margin]_+ over
    negatives.

    Args:
        similarities: x2_l·w_l of each datapoint with each label sampled for it.
        positives: True for the labels drawn from the datapoint's relevant ones.
        negatives: True for the labels drawn from its shortlist R_i. Padding is in neither mask.
        margin: gamma of the cosine embedding loss.
    """
    attract = jnp.where(positives, 1 - similarities, 0)
    repel = jnp.where(negatives, jax.nn.relu(similarities - margin), 0)
    return (attract + repel).sum(-1)
