"""The losses of Module I and Module IV (paper, section 3), one value per example.

The training step takes the mean over the batch. Similarities are cosines: all vectors that enter
are sphere-normalised. The hinge and the cosine loss are the paper's. The softmax loss can take the
place of either, and a user's own loss that of the softmax. The relation loss can be added to that
of Module I.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mufin_jax.training import own

BatchLoss = Callable[
    [Float[Array, "a o"], Bool[Array, "a o"], Bool[Array, "a o"]], Float[Array, "a"]
]
"""Returns the loss of each anchor of a batch, from its similarities with all other items, its
positives and its negatives. JAX compiles it. Items in neither mask play no part; an anchor without
a positive must get 0."""


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


def softmax_loss(
    similarities: Float[Array, "a o"],
    positives: Bool[Array, "a o"],
    negatives: Bool[Array, "a o"],
    temperature: float | Float[Array, ""] = 0.07,
) -> Float[Array, "a"]:
    """Return the contrastive loss (InfoNCE) of each anchor.

    It is the mean over the anchor's positives p of -log(e_p / (e_p + sum of e_n over its
    negatives n)), with e = exp(similarity / temperature). The anchor's other positives are left out
    of the denominator: it would push them away, although nothing distinguishes them from p. The
    mean is outside the logarithm: a logarithm of the positives' sum is small as soon as one of them
    is near, and the far ones would learn nothing.

    With all similarities equal the value is log(1 + the number of negatives).

    Args:
        similarities: cosines of each anchor with each other item of the batch.
        positives: the other items that are relevant to an anchor.
        negatives: those that may serve as its negatives; the remaining ones play no part.
        temperature: what similarities are divided by.
    """
    logits = similarities / temperature
    # A finite floor, not -inf: an anchor without negatives must not turn into NaN.
    total = jax.nn.logsumexp(jnp.where(negatives, logits, -1e30), axis=-1)
    gaps = jnp.where(positives, total[:, None] - logits, 0)
    losses = jnp.where(positives, jax.nn.softplus(gaps), 0)
    return losses.sum(-1) / positives.sum(-1).clip(1)


def batch_loss(name: str | None, stage: str, temperature: float | Float[Array, ""]) -> BatchLoss:
    """Return the loss that compares an anchor with all of its batch: the softmax, or a user's own.

    Args:
        name: of a user's own loss (`own.register`); None for the softmax.
        stage: whose loss it is, for messages.
        temperature: of the softmax.

    Raises:
        InputError: if this process does not know the user's own loss.
    """
    if name is None:
        return functools.partial(softmax_loss, temperature=temperature)
    return own.find(name, f"{stage}.own_loss")


def relation_loss(
    similarities: Float[Array, "b b"],
    teacher: Float[Array, "b b"],
    counted: Bool[Array, "b"],
    temperature: float = 0.07,
) -> Float[Array, "b"]:
    """Return how far each item's relations to the others are from those that a teacher gives it.

    It is the Kullback-Leibler divergence from the teacher's distribution over the batch's other
    counted items, softmax(cosine / temperature), to the student's. It is 0 where the student's
    cosines are the teacher's, up to one number an item.

    Args:
        similarities: cosines of each item with each item, as the student has them.
        teacher: the same, as the teacher has them.
        counted: the items that have a vector of the teacher; others get 0, and play no part.
        temperature: what cosines are divided by.
    """
    places = jnp.arange(len(counted))
    pairs = counted[:, None] & counted[None, :] & (places[:, None] != places[None, :])
    # A finite floor, not -inf: an item without others must not turn into NaN.
    ours, theirs = (
        jax.nn.log_softmax(jnp.where(pairs, cosines / temperature, -1e30), axis=-1)
        for cosines in (similarities, teacher)
    )
    return jnp.where(pairs, jnp.exp(theirs) * (theirs - ours), 0).sum(-1)


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
