"""Bags: how they are filled, summed, reduced and normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mufin_jax.data.bags import Bags
from mufin_jax.model.pooling import fill, masked_sum, pool_maximum, unit


def test_slots_are_filled_from_the_pool_and_padding_is_zero():
    vectors = jnp.array([[1.0, 2], [3, 4], [5, 6]])
    slots, mask = jnp.array([[2, 0], [1, 0]]), jnp.array([[True, True], [True, False]])
    filled = fill(vectors, Bags(slots, mask))
    np.testing.assert_array_equal(filled, [[[5, 6], [1, 2]], [[3, 4], [0, 0]]])


def test_only_real_descriptors_are_summed_even_next_to_nan():
    vectors = jnp.array([[[1.0, 2], [10, 20], [jnp.nan, jnp.inf]]])
    mask = jnp.array([[True, True, False]])
    np.testing.assert_array_equal(masked_sum(vectors, mask), [[11, 22]])
    gradient = jax.grad(lambda v: masked_sum(v, mask).sum())(vectors)
    np.testing.assert_array_equal(gradient, [[[1, 1], [1, 1], [0, 0]]])


@pytest.mark.parametrize(
    "vector, dim, expected",
    [
        # torch.nn.AdaptiveMaxPool1d: run j is [floor(j w / d), ceil((j + 1) w / d)).
        ([5, 1, 2, 9, 0, 3, 4], 3, [5, 9, 4]),  # [0, 3), [2, 5), [4, 7)
        ([1, 7, 2, 0, 5], 4, [7, 7, 2, 5]),  # [0, 2), [1, 3), [2, 4), [3, 5)
        ([3, 8], 3, [3, 8, 8]),  # [0, 1), [0, 2), [1, 2)
        ([-3, -1, -2, -7, -5, -6], 3, [-1, -2, -5]),  # divides: runs of 2
        ([4, 2, 9], 3, [4, 2, 9]),
    ],
)
def test_adaptive_max_pooling_is_that_of_torch(vector, dim, expected):
    vectors = jnp.array([vector, vector], jnp.float32)
    np.testing.assert_array_equal(pool_maximum(vectors, dim), [expected, expected])


def test_one_entry_of_a_run_takes_its_whole_gradient_even_among_equals():
    # As in torch. Split among all that equal the maximum, it is lost when XLA recomputes an entry
    # with another rounding and finds none.
    vectors, upstream = jnp.array([3.0, 3, 1, 2, 5, 5]), jnp.array([10.0, 20, 30])
    gradient = jax.grad(lambda v: pool_maximum(v, 3) @ upstream)(vectors)
    np.testing.assert_array_equal(gradient, [10, 0, 0, 20, 30, 0])
    gradient = jax.grad(lambda v: pool_maximum(v, 4) @ jnp.array([1.0, 2, 4, 8]))(vectors)
    # Runs [0, 2), [1, 3), [3, 5), [4, 6)
    np.testing.assert_array_equal(gradient, [1, 2, 0, 0, 12, 0])


def test_unit_vectors_have_length_one_and_the_old_direction():
    vectors = jnp.array([[3.0, -4], [1e-3, 0], [1e6, 1e6]])
    expected = [[0.6, -0.8], [1, 0], [0.5**0.5, 0.5**0.5]]
    np.testing.assert_allclose(unit(vectors), expected, rtol=1e-6)


def test_the_unit_of_zero_is_zero_and_so_is_its_gradient():
    zero = jnp.zeros((2, 3))
    np.testing.assert_array_equal(unit(zero), zero)
    np.testing.assert_array_equal(jax.grad(lambda v: unit(v).sum())(zero), zero)


def test_the_unit_of_nan_is_nan_and_that_of_other_rows_is_not():
    vectors = jnp.array([[jnp.nan, 1], [3, 4], [0, 0]])
    np.testing.assert_allclose(unit(vectors), [[jnp.nan, jnp.nan], [0.6, 0.8], [0, 0]], rtol=1e-6)


def test_the_gradient_of_unit_is_tangential():
    vector, direction = jnp.array([3.0, -4, 12]), jnp.array([0.3, 1.0, -2])
    gradient = jax.grad(lambda v: unit(v) @ direction)(vector)
    # (I - u u^T) direction / |v|, with |v| = 13.
    u = np.array([3, -4, 12]) / 13
    expected = (np.eye(3) - np.outer(u, u)) @ np.array(direction) / 13
    np.testing.assert_allclose(gradient, expected, atol=1e-7)
