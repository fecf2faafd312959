"""Random crops: a step sees parts of its pictures, half of them mirrored.

An image encoder that trains from scratch on few pictures soon knows them by heart. With crops, it
sees no picture twice in the same way. Ready vectors and what frozen blocks made stay as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mufin_jax.data.bags import Pool
from mufin_jax.data.sources import Pixels


def cropped(pool: Pool, key: Array, share: float) -> Pool:
    """Return a pool whose pixels are random crops, scaled back to their size.

    Args:
        pool: of a batch; without pixels it is returned as it is.
        key: of the draw.
        share: of the height and of the width that a crop leaves out, at most.
    """
    if not isinstance(pool.images, Pixels):
        return pool
    rows = pool.images.rows
    count, height, width, _ = rows.shape
    sides, tops, lefts, flips = jax.random.split(key, 4)
    side = 1 - share * jax.random.uniform(sides, (count,))
    down = _weights(height, side, (1 - side) * jax.random.uniform(tops, (count,)))
    across = _weights(width, side, (1 - side) * jax.random.uniform(lefts, (count,)))
    mirrored = jax.random.bernoulli(flips, shape=(count, 1, 1))
    across = jnp.where(mirrored, across[:, ::-1], across)
    seen = jnp.einsum("nij,njkc->nikc", down, rows.astype(jnp.float32))
    seen = jnp.einsum("nlk,nikc->nilc", across, seen)
    return dataclasses.replace(pool, images=Pixels(seen))


def _weights(
    pixels: int, side: Float[Array, " n"], start: Float[Array, " n"]
) -> Float[Array, "n o i"]:
    """Return the weights of linear interpolation: row o of a crop reads rows i of its picture.

    Args:
        pixels: rows of the picture, and of the crop when it is scaled back.
        side: share of the rows that the crop shows.
        start: share of the rows above the crop.
    """
    numbers = jnp.arange(pixels, dtype=jnp.float32)
    read = start[:, None] * pixels + side[:, None] * (numbers[None] + 0.5) - 0.5
    read = jnp.clip(read, 0, pixels - 1)
    return jnp.maximum(0, 1 - jnp.abs(read[:, :, None] - numbers[None, None]))
