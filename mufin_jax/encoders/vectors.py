"""Vectors that the user brings ready-made (as ViXML's release does), in place of E_V or E_T.

The vectors stay as they are; one linear map, the identity at first, is what can be trained.
"""

import jax.numpy as jnp
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

    def __call__(self, vectors: Float[Array, "r v"]) -> Float[Array, "r v"]:
        """Return the mapped vectors."""
        return self.blocks[0](vectors)
