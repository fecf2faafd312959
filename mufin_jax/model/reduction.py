"""A learned map from an encoder's vectors to D entries, and dropout in front of it.

The map is a linear one and a hidden layer next to it. It is for frozen encoders, whose vectors have
much in common that tells nothing of an item (features of pictures are positive): their mean is
removed first, and what is left has norm 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.model.pooling import unit

MEAN = "mean"
"""The name of the mean among a reduction's weights; it never trains."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Sets random entries of vectors to zero, and scales the others up.

    Attributes:
        key: of the random draw of a step.
        share: the share of the entries that become zero.
    """

    key: Array
    share: float

    def __call__(self, vectors: Float[Array, "p w"], draw: int) -> Float[Array, "p w"]:
        """Return the vectors with random zeros; equal draws have equal places."""
        kept = jax.random.bernoulli(
            jax.random.fold_in(self.key, draw), 1 - self.share, vectors.shape
        )
        return jnp.where(kept, vectors / (1 - self.share), 0)


class Reduction(nnx.Module):
    """W v + W'' gelu(W' v), where v is a centred vector of norm sqrt(w).

    Args:
        width: w, the entries of the encoder's vectors.
        dim: D.
        hidden: the width of the hidden layer.
        rngs: source of the initial weights.

    Attributes:
        mean: what is subtracted from the encoder's vectors; 0 until Module I sets it.
    """

    def __init__(self, width: int, dim: int, hidden: int, *, rngs: nnx.Rngs):
        self.mean = nnx.Param(jnp.zeros(width))
        self.linear = nnx.Linear(width, dim, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, rngs=rngs)

    def centred(self, vectors: Float[Array, "p w"]) -> Float[Array, "p w"]:
        """Return the vectors without their mean, each entry around 1."""
        return unit(vectors - self.mean[...][None]) * np.sqrt(vectors.shape[-1], dtype=np.float32)

    def __call__(self, centred: Float[Array, "p w"]) -> Float[Array, "p d"]:
        """Return D entries of each centred vector."""
        return self.linear(centred) + self.down(jax.nn.gelu(self.up(centred)))
