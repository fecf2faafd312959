"""Images as tokens: square patches, and position embeddings for a grid of them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import check_size
from mufin_jax.encoders.processing import MAX_SIDE
from mufin_jax.runtime.errors import InputError


def check_grid(config: Any) -> None:
    """Reject a patch or an image that has no size, or a patch that doesn't divide the image."""
    for name in ("patch", "image_size"):
        check_size(config, name, MAX_SIDE)
    if config.image_size % config.patch:
        raise InputError(
            f"{type(config).__name__}: image_size={config.image_size} isn't a multiple of "
            f"patch={config.patch}"
        )


def embed(
    images: Float[Array, "i h w 3"],
    side: int,
    project: nnx.Linear,
    positions: nnx.Param,
    cls: nnx.Param | None = None,
) -> Float[Array, "i p width"]:
    """Patches through their projection, a token in front where there is one, positions added.

    Pixels beyond the last whole patch are left out, and positions are resampled to the patches.

    Args:
        images: normalised.
        side: of a patch.
        project: a patch to a token.
        positions: for the token in front, then for a square grid of patches.
        cls: the token in front.
    """
    found, rows, columns = cut(images, side)
    tokens = project(found)
    if cls is not None:
        front = cls[...].astype(tokens.dtype)
        front = jnp.broadcast_to(front, (len(images), 1, tokens.shape[-1]))
        tokens = jnp.concatenate([front, tokens], axis=1)
    fitting = resample_positions(positions[...], rows, columns, first=0 if cls is None else 1)
    return tokens + fitting.astype(tokens.dtype)[None]


def resize(encoder: Any, image_size: int, first: int) -> None:
    """Resample the positions of an encoder, once, for images of this side; see `embed`."""
    side = image_size // encoder.config.patch
    encoder.config = dataclasses.replace(encoder.config, image_size=image_size)
    encoder.positions = nnx.Param(resample_positions(encoder.positions[...], side, side, first))


def cut(images: Float[Array, "i h w 3"], side: int) -> tuple[Float[Array, "i p q"], int, int]:
    """The patches of images, row by row, flattened; how many rows and columns of them there are.

    Pixels beyond the last whole patch are left out.

    Raises:
        ValueError: the images hold no patch.
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
    """Position embeddings, for a grid of rows x columns patches instead of a square one.

    Args:
        positions: of tokens that are no patches, then of a square grid.
        rows: of patches.
        columns: of patches.
        first: how many tokens stand before the grid: theirs are left alone.
    """
    side = round((positions.shape[0] - first) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[first:].reshape(side, side, -1)
    vertical, horizontal = _bicubic(side, rows), _bicubic(side, columns)
    grid = jnp.einsum("ri,cj,ijd->rcd", vertical, horizontal, grid)
    return jnp.concatenate([positions[:first], grid.reshape(rows * columns, -1)])


def _bicubic(old: int, new: int) -> np.ndarray:
    """The (new, old) matrix of torch's bicubic resizing.

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
    """The side of a square, which Hugging Face writes as one number or as [height, width]."""
    sides = {*value} if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise InputError(f"patch_size or image_size is {repr(value)[:200]}; expected a square")
    return sides.pop()
