"""The attention block A(Q, K) of the paper, section 3, used twice: as A_S and as A_C.

    A(Q, K) = LayerNorm(Q + O · softmax(q k^T / sqrt(d)) v)

q, k, v and O are linear maps, initialised to the identity; padding is masked. The block is
*factored*: all that depends on the keys alone (k, and v already mapped by O) is a `Memory`, made
once per label; what depends on the queries alone is made once per datapoint; a pair of the two
meets only in the softmax. The numbers are those of the textbook form, at 1/62 of the operations
when a shortlist is scored.

Two stand-ins take its place in the ablations of table 4: `NoAttention` and `Concatenation`. A third
one, `ResidualAttention`, starts as the identity.
"""

import dataclasses
from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mufin_jax.model.pooling import masked_sum, unit


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What a bag of keys contributes to any attention over it (g: heads, e = d / g).

    Attributes:
        keys: k of each descriptor, per head.
        values: O · v of each descriptor, per head.
        mask: True where there is a descriptor.
    """

    keys: Float[Array, "*c m g e"]
    values: Float[Array, "*c m g d"]
    mask: Bool[Array, "*c m"]


class IdentityAtFirst(nnx.Linear):
    """A linear map R^dim -> R^dim, with a bias, that starts as the identity.

    Args:
        dim: D.
        rngs: unused by the initialisation, but Flax requires it.
    """

    bias: nnx.Param[jax.Array]

    def __init__(self, dim: int, rngs: nnx.Rngs):
        super().__init__(
            dim, dim, rngs=rngs, kernel_init=lambda key, shape, dtype: jnp.eye(dim, dtype=dtype)
        )


class AttentionBlock(nnx.Module):
    """One attention layer with a residual on its queries and a LayerNorm after it.

    Args:
        dim: D, the width of the vectors.
        heads: number of heads; must divide `dim`.
        rngs: unused by the identity initialisation, but Flax requires it.

    Raises:
        ValueError: if `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int = 1, *, rngs: nnx.Rngs):
        if dim % heads:
            raise ValueError(f"heads={heads} must divide dim={dim}")
        self.heads = heads
        self.query = IdentityAtFirst(dim, rngs)
        self.key = IdentityAtFirst(dim, rngs)
        self.value = IdentityAtFirst(dim, rngs)
        self.out = IdentityAtFirst(dim, rngs)
        self.norm = nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def memory(self, keys: Float[Array, "*c m d"], mask: Bool[Array, "*c m"]) -> Memory:
        """Return what attention over these bags needs, once per bag."""
        kernel = self.out.kernel[...].reshape(self.heads, -1, keys.shape[-1])
        values = jnp.einsum("...mge,ged->...mgd", self._split(self.value(keys)), kernel)
        # Attention weights sum to one, so O's bias is added to the values, a share per head.
        values += (self.out.bias[...] / self.heads).reshape((1,) * (values.ndim - 1) + (-1,))
        return Memory(self._split(self.key(keys)), values, mask)

    def attend(self, queries: Float[Array, "*q n d"], memory: Memory) -> Float[Array, "*p n d"]:
        """Return A(Q, K); leading axes of the queries and of the memory broadcast.

        Over a bag without any descriptor, attention adds nothing.
        """
        return self.norm(queries + self.attended(queries, memory))

    def attended(self, queries: Float[Array, "*q n d"], memory: Memory) -> Float[Array, "*p n d"]:
        """Return what attention adds to the queries: O · softmax(q k^T / sqrt(d)) v."""
        return jnp.einsum("...gnm,...mgd->...nd", self.weights(queries, memory), memory.values)

    def __call__(
        self,
        queries: Float[Array, "*b n d"],
        keys: Float[Array, "*b m d"],
        mask: Bool[Array, "*b m"],
    ) -> Float[Array, "*b n d"]:
        """Return A(Q, K) where each bag of queries attends to its own bag of keys."""
        return self.attend(queries, self.memory(keys, mask))

    def weights(self, queries: Float[Array, "*q n d"], memory: Memory) -> Float[Array, "*p g n m"]:
        """Return the attention weights alone: which key each query looks at (figure 5)."""
        logits = jnp.einsum("...nge,...mge->...gnm", self._split(self.query(queries)), memory.keys)
        logits = logits / jnp.sqrt(memory.keys.shape[-1])
        mask = memory.mask[..., None, None, :]
        # A finite floor, not -inf: a bag without descriptors must not turn into NaN.
        return jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, -1e30)), 0)

    def _split(self, vectors: Float[Array, "*b n d"]) -> Float[Array, "*b n g e"]:
        return vectors.reshape(*vectors.shape[:-1], self.heads, -1)


class ResidualAttention(AttentionBlock):
    """A(Q, K) = Q + O · softmax(q k^T / sqrt(d)) v with O = 0 at first: the block starts as Q.

    The paper's block starts with q, k, v and O at the identity, and normalises. It is then far from
    the identity: x2_l is not x1, and what Module I has learned is lost at first. Here Module IV
    starts at x2_l = x1, to the bit, and learns what a label adds to it.
    """

    def __init__(self, dim: int, heads: int = 1, *, rngs: nnx.Rngs):
        super().__init__(dim, heads, rngs=rngs)
        del self.norm
        self.out = nnx.Linear(dim, dim, rngs=rngs, kernel_init=nnx.initializers.zeros_init())

    def attend(self, queries: Float[Array, "*q n d"], memory: Memory) -> Float[Array, "*p n d"]:
        """Return the queries, and what attention adds to them."""
        return queries + self.attended(queries, memory)


class NoAttention(nnx.Module):
    """The identity instead of the block: A(Q, K) = Q (table 4, "no A_S" and "no A_C")."""

    def memory(self, keys: Float[Array, "*c m d"], mask: Bool[Array, "*c m"]) -> Memory:
        """Return the bags unchanged: prediction keeps them in the form of any other memory."""
        return Memory(keys[..., None, :], keys[..., None, :], mask)

    def attend(self, queries: Float[Array, "*q n d"], memory: Memory) -> Float[Array, "*p n d"]:
        """Return the queries, once for each bag of the memory."""
        leading = jnp.broadcast_shapes(queries.shape[:-2], memory.mask.shape[:-1])
        return jnp.broadcast_to(queries, (*leading, *queries.shape[-2:]))

    def __call__(
        self,
        queries: Float[Array, "*b n d"],
        keys: Float[Array, "*b m d"],
        mask: Bool[Array, "*b m"],
    ) -> Float[Array, "*b n d"]:
        """Return the queries."""
        return queries


class Concatenation(nnx.Module):
    """ConCat of table 4 instead of A_C: [x1; z1] through linear maps 2D -> 2D -> D.

    The paper names the widths alone; a ReLU stands between the two maps, and their weights start
    at random, because no identity maps 2D to D.

    Args:
        dim: D.
        rngs: source of the initial weights.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(2 * dim, 2 * dim, rngs=rngs)
        self.out = nnx.Linear(2 * dim, dim, rngs=rngs)

    def memory(self, keys: Float[Array, "*c m d"], mask: Bool[Array, "*c m"]) -> Memory:
        """Return the bags unchanged; z1 is the sum of a bag."""
        return Memory(keys[..., None, :], keys[..., None, :], mask)

    def join(self, x1: Float[Array, "*q d"], memory: Memory) -> Float[Array, "*p d"]:
        """Return what the two maps make of [x1; z1]; leading axes broadcast."""
        z1 = unit(masked_sum(memory.values[..., 0, :], memory.mask))
        leading = jnp.broadcast_shapes(x1.shape[:-1], z1.shape[:-1])
        pair = [jnp.broadcast_to(vector, (*leading, vector.shape[-1])) for vector in (x1, z1)]
        return self.out(jax.nn.relu(self.hidden(jnp.concatenate(pair, -1))))
