"""Ready-made vectors that the user brings (as in ViXML's release), instead of E_V or E_T.

The vectors are only scaled; one linear map, the identity at first, can be trained.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


class ReadyVectors(nnx.Module):
    """A trainable linear map over frozen vectors of any width.

    Args:
        width: v, the width of the vectors.
        rngs: Required by Flax; the identity initialisation does not use it.

    Attributes:
        scale: The factor of vectors before the map; whatever their norm, the map then trains at the
            same pace. 1 unless set.
    """

    def __init__(self, width: int, rngs: nnx.Rngs):
        eye = nnx.Linear(
            width,
            width,
            rngs=rngs,
            precision="highest",  # untrained, it changes no digit of the vectors
            kernel_init=lambda key, shape, dtype: jnp.eye(width, dtype=dtype),
        )
        self.scale = 1.0
        self.blocks = nnx.List([eye])  # one block, so it trains in the modes "last" and "full"

    def __call__(self, vectors: Float[Array, "r v"]) -> Float[Array, "r v"]:
        """Return the mapped vectors."""
        return self.blocks[0](vectors * self.scale)


def unit_scale(vectors: Float[np.ndarray, "n v"]) -> float:
    """Return the factor that brings vectors to norms around 1, which attention is tuned for.

    With a norm of 15, the miniature's vectors kept Module I on its first plateau (docs/results.md).
    The factor is a power of two, which changes no digit, and 1 for unit vectors. It comes from the
    median norm of 4,096 to 8,191 evenly spaced rows, without zero rows.
    """
    norms = np.linalg.norm(vectors[:: max(1, len(vectors) // 4096)], axis=1)
    norms = norms[norms > 0]
    return float(2.0 ** -np.round(np.log2(np.median(norms)))) if len(norms) else 1.0
