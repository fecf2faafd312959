"""The item encoder as prediction runs it: block by block, each padded to one of few shapes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from mufin_jax.data.bags import Pool
from mufin_jax.data.descriptors import Descriptors
from mufin_jax.data.sources import Vectors
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
        descriptors: how pools are made of texts and pictures.
    """

    def __init__(self, encoder: ItemEncoder, descriptors: Descriptors):
        graphdef, state = nnx.split(encoder)
        self._weights = nnx.to_pure_dict(state)
        self._describe, self._see = _compiled(graphdef)
        self._encoder, self._descriptors = encoder, descriptors

    def describe(self, pool: Pool) -> Iterator[Float[np.ndarray, "p d"]]:
        """Yield the descriptor vectors of a pool, block after block.

        Of a joint model, pictures become vectors first: each picture is encoded once.
        """
        pictures = self._descriptors.encoded_first(pool)
        if pictures is not None:
            none = np.zeros((0, self._encoder.text_encoder.config.visual), np.float32)
            vectors = self._in_blocks(Pool(None, pictures), self._see)
            pool = dataclasses.replace(pool, images=Vectors(np.concatenate([none, *vectors])))
        yield from self._in_blocks(pool, self._describe)

    def _in_blocks(self, pool: Pool, encode: _Encode) -> Iterator[Float[np.ndarray, "p w"]]:
        mesh = self._encoder.mesh

        def begin(block: tuple[Pool, int]) -> tuple[jax.Array, int]:
            return encode(self._weights, put(block[0], by_row(mesh))), block[1]

        blocks = shapes.in_blocks(pool, self._descriptors, mesh.size)
        for vectors, real in one_ahead(blocks, begin):
            yield fetch(vectors)[:real]
