"""Claims about how rows of the label table move, and about rounding to bfloat16 at random."""

import jax
import jax.numpy as jnp
import numpy as np

from mufin_jax.model.sparse_updates import (
    adagrad,
    finite,
    kept,
    round_at_random,
    round_to_nearest,
    values,
)

DRAWS = 4096


def test_the_mean_of_many_roundings_is_the_value():
    exact = jnp.float32([1.0, 1 / 3, -np.pi, 1e-30, -7.7e20, 0.0, 1 + 1 / 1024])
    many = jnp.broadcast_to(exact, (DRAWS, len(exact)))
    noise = jax.random.bits(jax.random.key(0), many.shape, jnp.uint16)
    rounded = np.asarray(values(round_at_random(many, noise)), np.float64)
    assert all(len(np.unique(column)) <= 2 for column in rounded.T)
    # A rounding error is at most 1/128 of the value; that of the mean is sqrt(DRAWS) smaller.
    np.testing.assert_allclose(rounded.mean(0), exact, rtol=4 / 128 / DRAWS**0.5)
    to_nearest = np.asarray(exact.astype(jnp.bfloat16), np.float64)
    assert abs(to_nearest[-1] / float(exact[-1]) - 1) > 9e-4  # rounding to the nearest is biased


def test_values_of_bfloat16_keep_their_bits_with_any_noise():
    exact = jnp.float32([1.5, -0.0, 2.0**-126, jnp.inf, -jnp.inf, 3.0])
    for noise in (0, 1, 2**16 - 1):
        rounded = round_at_random(exact, jnp.full(exact.shape, noise, jnp.uint16))
        np.testing.assert_array_equal(values(rounded), exact)
        assert np.isnan(values(round_at_random(jnp.float32([jnp.nan]), jnp.uint16([noise])))).all()


def test_float32_rows_are_stored_unchanged():
    rows, key = jnp.float32([[0.1, -0.2]]), jax.random.key(0)
    np.testing.assert_array_equal(kept(rows, rows.dtype, key), rows)
    assert kept(rows, jnp.dtype(jnp.uint16), key).dtype == jnp.uint16


def test_noise_depends_on_the_place_in_the_batch_not_on_padding():
    rows, bits = jnp.full((5, 3), 1 / 3), jnp.dtype(jnp.uint16)
    padded = jnp.concatenate([rows, jnp.zeros((4, 3))])
    alone, among = (kept(r, bits, jax.random.key(1)) for r in (rows, padded))
    np.testing.assert_array_equal(alone, among[:5])
    assert len(np.unique(alone)) == 2


def test_rows_without_a_gradient_do_not_move_with_adagrad():
    value, total = adagrad(
        jnp.ones((2, 3)), jnp.zeros(2), jnp.zeros((2, 3)), rate=jnp.float32(1), eps=1e-8
    )
    assert (value == 1).all() and not total.any()


def test_values_that_are_not_finite_are_found_in_bfloat16_rows_too():
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        rows = jnp.array([[1.0, -2.0], [0.0, bad]])
        assert not finite(rows) and not finite(round_to_nearest(rows))
    rows = jnp.array([[1.0, -2.0], [0.0, 3e38]])
    assert finite(rows) and finite(round_to_nearest(rows)) and finite(jnp.arange(3))
