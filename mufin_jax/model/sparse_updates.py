"""How rows of the label table move: Adam, row-wise Adagrad, and rounding to bfloat16 at random.

Everything here works on gathered rows, and knows nothing of the table or of the devices.

bfloat16 is kept as its bit patterns, uint16: to write a few bfloat16 rows, XLA on a CPU converts
the whole array to float32 and back (jax 0.10), while it moves integers unchanged.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, UInt16


def adam(
    value: Float32[Array, "u *d"],
    mean: Float32[Array, "u *d"],
    square: Float32[Array, "u *d"],
    gradient: Float32[Array, "u *d"],
    *,
    rate: Float[Array, ""],
    steps: Float[Array, ""],
    b1: float,
    b2: float,
    eps: float,
) -> tuple[Array, Array, Array]:
    """Return value, mean and square after a step of Adam.

    As torch.optim.SparseAdam: `steps` is the table's, and eps is added inside the bias correction.
    """
    m = b1 * mean + (1 - b1) * gradient
    v = b2 * square + (1 - b2) * jnp.square(gradient)
    correction = jnp.sqrt(1 - b2**steps)
    step = rate * correction / (1 - b1**steps) * m / (jnp.sqrt(v) + eps)
    return value - step, m, v


def adagrad(
    value: Float32[Array, "u *d"],
    total: Float32[Array, "u"],
    gradient: Float32[Array, "u *d"],
    *,
    rate: Float[Array, ""],
    eps: float,
) -> tuple[Array, Array]:
    """Return value and accumulator after a step of row-wise Adagrad.

    One accumulator a row sums the mean square of its gradients, instead of one for each entry.
    """
    total = total + jnp.square(gradient).reshape(len(total), -1).mean(1)
    root = jnp.sqrt(total).reshape(-1, *(1,) * (gradient.ndim - 1))
    return value - rate * gradient / (root + eps), total


def finite(rows: Array) -> Array:
    """Return whether all of kept rows, or of any array, is finite; integers always are."""
    # In the bit patterns of bfloat16, infinity and NaN have all exponent bits.
    if rows.dtype == jnp.uint16:
        return ((rows & 0x7F80) != 0x7F80).all()
    return jnp.isfinite(rows).all() if jnp.issubdtype(rows.dtype, jnp.inexact) else jnp.bool(True)


def values(rows: Float32[Array, "u *d"] | UInt16[Array, "u *d"]) -> Float32[Array, "u *d"]:
    """Return kept rows as float32."""
    if rows.dtype == jnp.float32:
        return rows
    return jax.lax.bitcast_convert_type(rows.astype(jnp.uint32) << 16, jnp.float32)


def kept(
    rows: Float32[Array, "u *d"], dtype: jnp.dtype, key: Array
) -> Float32[Array, "u *d"] | UInt16[Array, "u *d"]:
    """Return rows as an array of this dtype keeps them: unchanged, or rounded at random.

    The random bits belong to the key and to the place in the batch: they are the same on any
    devices and after a restart.
    """
    if dtype == jnp.float32:
        return rows
    return round_at_random(rows, jax.random.bits(key, rows.shape, jnp.uint16))


def round_at_random(
    values: Float32[Array, "*n"], noise: UInt16[Array, "*n"]
) -> UInt16[Array, "*n"]:
    """Return one of the two bfloat16 neighbours of each value, by noise uniform over 16 bits.

    The nearer one is the likelier: the expected result is the value. Rounded to the nearest,
    a step of less than 1/512 of the value would be lost every time.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32) + noise.astype(jnp.uint32)
    return jnp.where(
        jnp.isfinite(values), (bits >> 16).astype(jnp.uint16), round_to_nearest(values)
    )


def round_to_nearest(values: Float32[Array, "*n"]) -> UInt16[Array, "*n"]:
    """Return the nearest bfloat16 of each value."""
    return jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
