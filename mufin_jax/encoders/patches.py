"""Images cut into square patches, and position embeddings resampled to a grid of patches."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mufin_jax.runtime.errors import InputError


def cut(images: Float[Array, "i h w 3"], side: int) -> tuple[Float[Array, "i p q"], int, int]:
    """Cut images into patches; pixels beyond the last whole patch are left out.

    Returns:
        The patches, row by row, flattened; how many rows and how many columns there are.

    Raises:
        ValueError: The images hold no patch.
    """
    count, height, width, _ = images.shape
    rows, columns = height // side, width // side
    if not rows * columns:
        raise ValueError(f"images of {height} x {width} pixels hold no patch of {side}")
    kept = images[:, : rows * side, : columns * side]
    kept = kept.reshape(count, rows, side, columns, side, 3).swapaxes(2, 3)
    return kept.reshape(count, rows * columns, side * side * 3), rows, columns


def resample_positions(
    positions: Float[Array, "p width"], rows: int, columns: int, first: int = 0
) -> Float[Array, "q width"]:
    """Resample position embeddings of a square grid of patches to one of rows x columns.

    Args:
        positions: Of the tokens in front of the patches, then of a square grid.
        rows: Of patches.
        columns: Of patches.
        first: How many tokens stand in front of the patches; their positions stay unchanged.
    """
    side = round((positions.shape[0] - first) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[first:].reshape(side, side, -1)
    vertical, horizontal = _bicubic(side, rows), _bicubic(side, columns)
    grid = jnp.einsum("ri,cj,ijd->rcd", vertical, horizontal, grid)
    return jnp.concatenate([positions[:first], grid.reshape(rows * columns, -1)])


def _bicubic(old: int, new: int) -> np.ndarray:
    """Return the (new, old) matrix of torch's bicubic resizing.

    `jax.image.resize` renormalises the kernel at the borders where torch repeats the border, and
    so differs from Hugging Face in the outer patches.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
    x, a = np.abs(centres[:, None] - taps), -0.75
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    matrix = np.zeros((new, old), np.float32)
    where = (np.arange(new)[:, None], taps.clip(0, old - 1))
    np.add.at(matrix, where, np.where(x <= 1, near, far))
    return matrix


def square(value: Any) -> int:
    """Return the side of a square, which Hugging Face writes as one number or [height, width].

    Raises:
        InputError: The height and the width differ.
    """
    sides = {*value} if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise InputError(f"patch_size or image_size is {repr(value)[:200]}; expected a square")
    return sides.pop()
