"""Bags to vectors: filling the slots of a bag, summing over it, pooling, and normalising.

`fill` takes the vector of each slot from the rows of a pool (data/bags.py). `masked_sum` adds the
vectors of a bag, `pool_maximum` shortens vectors by maxima (paper, section 3), and `unit` makes
their norm 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mufin_jax.data.bags import Bags
from mufin_jax.runtime.distributed.padding import divide_up


def fill(vectors: Float[Array, "p d"], bags: Bags) -> Float[Array, "b n d"]:
    """Return the descriptor vectors of each bag, zero where there is none."""
    return vectors[bags.slots] * bags.mask[..., None]


def unit(vectors: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Sphere-normalise: v / |v|; zero stays zero, its gradient too, and NaN stays NaN."""
    square = jnp.square(vectors).sum(-1, keepdims=True)
    tiny = square <= 1e-12
    return jnp.where(tiny, 0, vectors * jax.lax.rsqrt(jnp.where(tiny, 1, square)))


def masked_sum(vectors: Float[Array, "*b n d"], mask: Bool[Array, "*#b n"]) -> Float[Array, "*b d"]:
    """Sum the vectors of each bag over its real descriptors."""
    return jnp.where(mask[..., None], vectors, 0).sum(-2)


def pool_maximum(vectors: Float[Array, "*b w"], dim: int) -> Float[Array, "*b d"]:
    """Return the maximum of each of `dim` runs of neighbouring entries: adaptive max-pooling.

    Run j covers entries floor(j*w/d) to ceil((j+1)*w/d) - 1, as in torch's AdaptiveMaxPool1d; for
    768 -> 192 these are runs of 4 (paper, section 3).
    """
    width = vectors.shape[-1]
    if width % dim == 0:
        return _maximum(vectors.reshape(*vectors.shape[:-1], dim, width // dim))
    starts = [j * width // dim for j in range(dim)]
    stops = [divide_up((j + 1) * width, dim) for j in range(dim)]
    runs = [_maximum(vectors[..., a:b]) for a, b in zip(starts, stops, strict=True)]
    return jnp.stack(runs, axis=-1)


def _maximum(runs: Float[Array, "*b r"]) -> Float[Array, "*b"]:
    """Return the maximum over the last axis.

    Not `max`: its gradient goes to entries *equal* to the maximum, and XLA may compute the entries
    again and round them otherwise: then none is (seen on CPU: gradients wrong by a third).
    """
    chosen = jax.nn.one_hot(runs.argmax(-1), runs.shape[-1], dtype=bool)
    return jnp.where(chosen, runs, 0).sum(-1)
