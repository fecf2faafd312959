"""The heads: the attention blocks A_S and A_C over bags of descriptor vectors (paper, section 3).

- embed: self-attention A_S over the bag, X1 = A_S(X0, X0), and the vector embedding
  x1 = unit(sum of X1). Labels go the same way with the same weights: Z1, z1.
- adapt: cross-attention, x2_l = unit(sum of A_C(X1, Z1_l)): the datapoint as seen by label l.
"""

import dataclasses
from typing import no_type_check

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

import mufin_jax.data.pytrees  # noqa: F401 (the model traces bags)
from mufin_jax.data.bags import Bags
from mufin_jax.model.attention import (
    AttentionBlock,
    Concatenation,
    Memory,
    NoAttention,
    ResidualAttention,
)
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.pooling import fill, masked_sum, unit
from mufin_jax.runtime.distributed.mesh import BY_ROW, REPLICATED, over_devices

SelfBlock = AttentionBlock | NoAttention
CrossBlock = AttentionBlock | Concatenation | NoAttention


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedding:
    """Items after self-attention.

    Attributes:
        bag: X1 (or Z1), one vector per descriptor.
        mask: True where the descriptor exists.
        vector: x1 (or z1), sphere-normalised.
    """

    bag: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    vector: Float[Array, "b d"]


def new_self_attention(config: ModelConfig, rngs: nnx.Rngs) -> SelfBlock:
    """Return A_S, or what replaces it, as Module I begins with it."""
    if config.self_attention == "attention":
        return AttentionBlock(config.dim, config.heads, rngs=rngs)
    return NoAttention()


def new_cross_attention(config: ModelConfig, rngs: nnx.Rngs) -> CrossBlock:
    """Return A_C, or what replaces it, as Module IV begins with it."""
    if config.cross_attention == "concat":
        return Concatenation(config.dim, rngs=rngs)
    if config.cross_attention == "none":
        return NoAttention()
    kind = ResidualAttention if config.cross_attention == "residual" else AttentionBlock
    return kind(config.dim, config.heads, rngs=rngs)


class Heads(nnx.Module):
    """A_S and A_C: everything that follows the descriptor vectors.

    Args:
        self_attention: A_S, or what replaces it.
        cross_attention: A_C, or what replaces it.
        dim: D, the width of the vectors.
        mesh: the devices that the blocks are mapped over.
    """

    def __init__(
        self, self_attention: SelfBlock, cross_attention: CrossBlock, *, dim: int, mesh: Mesh
    ):
        self.dim, self.mesh = dim, mesh
        self.self_attention, self.cross_attention = self_attention, cross_attention

    def embed(self, vectors: Float[Array, "p d"], bags: Bags) -> Embedding:
        """Return X1 = A_S(X0, X0) and x1 = unit(sum X1); the bags are split over the devices."""

        def local(block: SelfBlock, vectors: Array, bags: Bags) -> Embedding:
            x0 = fill(vectors, bags)
            x1 = block(x0, x0, bags.mask)
            return Embedding(x1, bags.mask, unit(masked_sum(x1, bags.mask)))

        mapped = over_devices(local, self.mesh, (REPLICATED, REPLICATED, BY_ROW), BY_ROW)
        return mapped(self.self_attention, vectors, bags)

    def adapt(self, points: Embedding, pairs: Memory) -> Float[Array, "b c d"]:
        """Return x2_l = unit(sum A_C(X1, Z1_l)) of each datapoint for each of its c labels.

        Args:
            points: datapoints, split over the devices.
            pairs: for each datapoint the `memory` of its labels, axes (b, c, m, ...).
        """

        def local(block: CrossBlock, points: Embedding, pairs: Memory) -> Array:
            if isinstance(block, Concatenation):
                return unit(block.join(points.vector[:, None], pairs))
            x2 = block.attend(points.bag[:, None], pairs)
            return unit(masked_sum(x2, points.mask[:, None]))

        mapped = over_devices(local, self.mesh, (REPLICATED, BY_ROW, BY_ROW), BY_ROW)
        return mapped(self.cross_attention, points, pairs)

    def memory(self, labels: Embedding) -> Memory:
        """Return what cross-attention needs of each label, made once per label."""
        return self.cross_attention.memory(labels.bag, labels.mask)
