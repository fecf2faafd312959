"""The item encoder as prediction runs it: block by block, each padded to one of few shapes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from mufin_jax.data.bags import Pool
from mufin_jax.model.item_encoder import ItemEncoder
from mufin_jax.prediction import shapes
from mufin_jax.runtime.distributed.mesh import by_row, fetch, one_ahead, put

_Encode = Callable[[dict, Pool], jax.Array]
"""From weights and a pool to vectors."""


@functools.cache
def _compiled(graphdef: nnx.GraphDef) -> tuple[_Encode, _Encode]:
    """Return `ItemEncoder.describe` and `see`, compiled, as functions of an encoder's weights."""
    return (
        jax.jit(lambda weights, pool: nnx.merge(graphdef, weights).describe(pool)),
        jax.jit(lambda weights, pool: nnx.merge(graphdef, weights).see(pool.images)),
    )


class BlockEncoder:
    """Describes pools of any size by programs for few sizes.

    Taking a module of hundreds of arrays apart costs milliseconds a call. So it is done here, once.

    Args:
        encoder: E_V, E_T and their reductions.
        most_tokens: tokens of the longest text.
    """

    def __init__(self, encoder: ItemEncoder, most_tokens: int):
        graphdef, state = nnx.split(encoder)
        self._weights = nnx.to_pure_dict(state)
        self._describe, self._see = _compiled(graphdef)
        self._encoder, self._most_tokens = encoder, most_tokens

    def describe(self, pool: Pool) -> Iterator[Float[np.ndarray, "p d"]]:
        """Yield the descriptor vectors of a pool, block after block.

        Of a joint model, pictures become vectors first: each picture is encoded once.
        """
        if pool.pictures is not None and pool.images is not None and pool.images.ndim > 2:
            none = np.zeros((0, self._encoder.text_encoder.config.visual), np.float32)
            vectors = self._in_blocks(Pool(None, None, pool.images), self._see)
            pool = dataclasses.replace(pool, images=np.concatenate([none, *vectors]))
        yield from self._in_blocks(pool, self._describe)

    def _in_blocks(self, pool: Pool, encode: _Encode) -> Iterator[Float[np.ndarray, "p w"]]:
        mesh = self._encoder.mesh

        def begin(block: tuple[Pool, int]) -> tuple[jax.Array, int]:
            return encode(self._weights, put(block[0], by_row(mesh))), block[1]

        for vectors, real in one_ahead(shapes.in_blocks(pool, self._most_tokens, mesh.size), begin):
            yield fetch(vectors)[:real]
