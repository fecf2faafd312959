"""Random crops: by hand, in place, and the same in a resumed run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mufin_jax.data.bags import Pool
from mufin_jax.data.sources import Pixels, Vectors
from mufin_jax.training import augmentation
from mufin_jax.training.augmentation import cropped


@pytest.fixture(scope="module")
def ramp():
    """300 pictures whose red grows to the right by 8 a pixel, and green downwards by 4."""
    rows = np.zeros((300, 16, 24, 3), np.uint8)
    rows[..., 0] = 8 * np.arange(24)
    rows[..., 1] = 4 * np.arange(16)[:, None]
    return Pool(None, Pixels(rows))


def test_a_crop_without_a_share_is_the_picture_or_its_mirror_image(ramp):
    rows = np.array(cropped(ramp, jax.random.key(0), 0.0).images.rows)
    same = [np.allclose(row, ramp.images.rows[0], atol=1e-3) for row in rows]
    mirror = [np.allclose(row, ramp.images.rows[0][:, ::-1], atol=1e-3) for row in rows]
    assert 110 < sum(same) < 190 and sum(same) + sum(mirror) == 300


def test_a_crop_is_a_window_scaled_back_to_the_whole_size(ramp):
    """On a ramp, a window's values grow by 8 times its share of the width from pixel to pixel."""
    rows = np.array(cropped(ramp, jax.random.key(1), 0.4).images.rows)
    assert rows.shape == ramp.images.rows.shape
    across, down = np.diff(rows[:, 8, 2:-2, 0]), np.diff(rows[:, 2:-2, 12, 1], axis=1)
    shares = np.abs(across[:, 8]) / 8
    np.testing.assert_allclose(np.abs(across), 8 * shares[:, None] + 0 * across, atol=1e-2)
    np.testing.assert_allclose(down, 4 * shares[:, None] + 0 * down, atol=1e-2)
    assert shares.min() > 0.599 and shares.max() < 1.001 and shares.std() > 0.08
    starts = np.minimum(rows[:, 8, 0, 0], rows[:, 8, -1, 0]) / 8
    ends = np.maximum(rows[:, 8, 0, 0], rows[:, 8, -1, 0]) / 8
    assert starts.min() < 1 and ends.max() > 22  # windows lie everywhere ...
    assert starts.max() > 4 and ends.min() < 19


def test_a_crop_lies_at_any_height_whatever_its_distance_from_the_left(ramp):
    rows = np.array(cropped(ramp, jax.random.key(2), 0.4).images.rows)
    left = np.minimum(rows[:, 8, 0, 0], rows[:, 8, -1, 0]) / 8 / 24
    top, share = rows[:, 0, 12, 1] / 4 / 16, np.abs(rows[:, 8, 9, 0] - rows[:, 8, 8, 0]) / 8
    free = share < 0.9  # a larger crop has hardly a choice
    places = [some[free] / (1 - share[free]) for some in (top, left)]
    assert free.sum() > 200 and abs(np.corrcoef(places)[0, 1]) < 0.3


def test_only_pixels_are_cropped():
    pool = Pool(None, Vectors(np.ones((2, 3), np.float32)))
    assert cropped(pool, jax.random.key(0), 0.3) is pool
    assert cropped(Pool(None, None), jax.random.key(0), 0.3).images is None


def test_a_draw_is_a_function_of_its_key(ramp):
    one, again, other = (
        np.array(cropped(ramp, jax.random.key(seed), 0.3).images.rows) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_weights_of_a_row_sum_up_to_one():
    weights = augmentation._weights(9, jnp.array([1, 0.5, 0.3]), jnp.array([0, 0.5, 0.1]))
    np.testing.assert_allclose(weights.sum(2), 1, atol=1e-5)
    np.testing.assert_allclose(weights[0], np.eye(9), atol=1e-5)
