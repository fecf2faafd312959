"""Vectors that the user brings ready-made (as ViXML's release does), in place of E_V or E_T.

The vectors stay as they are; one linear map, the identity at first but for a scale, can be trained.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


class ReadyVectors(nnx.Module):
    """A trainable linear map over frozen vectors of any width.

    Args:
        width: v, the width of the vectors.
        rngs: unused by the identity initialisation, but Flax wants it.
    """

    def __init__(self, width: int, rngs: nnx.Rngs):
        eye = nnx.Linear(
            width,
            width,
            rngs=rngs,
            precision="highest",  # untrained, it hands the vectors on to the last digit
            kernel_init=lambda key, shape, dtype: jnp.eye(width, dtype=dtype),
        )
        self.blocks = nnx.List([eye])  # one block, so it trains wherever "last" or "full" do

    def bring_to_unit(self, vectors: Float[np.ndarray, "n v"]) -> None:
        """Scale the map so that it makes vectors of norm around 1 of these.

        Attention and its learning rates are for such: with vectors of norm 15 the miniature stays
        on its first plateau (P@1 6 in place of 57). The scale is a power of two, which changes no
        digit, and so is 1 for unit vectors. It is told by some 4,096 of them, zeros left out.
        """
        norms = np.linalg.norm(vectors[:: max(1, len(vectors) // 4096)], axis=1)
        if (norms > 0).any():
            power = -np.round(np.log2(np.median(norms[norms > 0])))
            kernel = self.blocks[0].kernel
            kernel[...] = kernel[...] * np.float32(2.0**power)

    def __call__(self, vectors: Float[Array, "r v"]) -> Float[Array, "r v"]:
        """Return the mapped vectors."""
        return self.blocks[0](vectors)
