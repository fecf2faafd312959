"""Label prototypes, after PRIME: a classifier that also reads the centroid of its label.

    w_l = unit(P(z_l, mu_l, f) + eta_l),    P(z, mu, f) = z + O · attention of z over (z, mu, f)

z_l is the label as its own titles and pictures describe it, mu_l the centroid of its training
points, and f a free vector that all labels share. Every label goes through the same small block, so
a label with few training points gains from what the others have learned. O is 0 at first: Module IV
then starts at w = unit(z + eta), to the bit. A label without a training point has no centroid, and
its block attends to the two others.

PRIME (as ViXML describes it) has one transformer layer, tens of thousands of shared vectors and no
eta; its centroids follow the encoders from epoch to epoch. Here they are computed once, so what x1
is made by must be frozen.

When Module IV is done, what the block adds to z_l becomes a part of eta_l (`absorbed`): prediction
knows nothing of prototypes.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mufin_jax.model import sparse_updates
from mufin_jax.model.attention import ResidualAttention
from mufin_jax.model.label_table import ROWS, Rows
from mufin_jax.runtime.distributed.mesh import BY_ROW, REPLICATED, over_devices
from mufin_jax.runtime.draws import Draw, key

PART = "prototypes"
"""The name of the block among the parts that train."""
CENTROIDS = "centroids"
"""The name of the centroids among what a step reads; split by rows as the label table is."""


class Prototypes(nnx.Module):
    """The block P, the same for all labels.

    Args:
        dim: D.
        rngs: source of the initial weights.
    """

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.attention = ResidualAttention(dim, rngs=rngs)
        # Added to z and to mu, which tells the two apart, and f itself.
        self.kinds = nnx.Param(0.1 * jax.random.normal(rngs.params(), (3, dim)))

    def __call__(self, z: Float[Array, "u d"], mu: Float[Array, "u d"]) -> Float[Array, "u d"]:
        """Return what labels are before eta is added.

        Args:
            z: of labels.
            mu: their centroids, 0 where there is none.
        """
        none = jnp.zeros_like(z)
        tokens = jnp.stack([z, mu, none], 1) + self.kinds[...][None]
        always = jnp.ones(len(z), bool)
        real = jnp.stack([always, (mu != 0).any(1), always], 1)
        return self.attention.attend(z[:, None], self.attention.memory(tokens, real))[:, 0]


def new_weights(dim: int, seed: int) -> dict[str, Any]:
    """Return the initial weights of the block, as numpy arrays."""
    state = nnx.state(Prototypes(dim, nnx.Rngs(key(seed, Draw.PROTOTYPES))))
    return jax.device_get(nnx.to_pure_dict(state))


def block_of(train: dict[str, Any], dim: int) -> Prototypes:
    """Return the block with the weights that stand among those that train."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Prototypes(dim, nnx.Rngs(0))))
    return nnx.merge(graphdef, train[PART])


def without_prototypes(train: dict[str, Any]) -> dict[str, Any]:
    """Return the weights that are of the model, and a temperature if there is one."""
    return {part: weights for part, weights in train.items() if part != PART}


@functools.partial(jax.jit, static_argnames="mesh")
def absorbed(
    rows: Rows,
    block: Prototypes,
    z: Float[Array, "l d"],
    mu: Float[Array, "l d"],
    mesh: Mesh,
) -> Rows:
    """Return rows whose eta includes what the block adds to z: `label_table.add` gives the same w.

    Args:
        rows: of all labels, split over the devices.
        block: trained.
        z: of all labels, split and padded as the rows are.
        mu: their centroids, likewise.
        mesh: the devices.
    """

    def local(block: Prototypes, eta: Array, z: Array, mu: Array) -> Array:
        def one(label: tuple[Array, Array, Array]) -> Array:
            eta, z, mu = (row[None] for row in label)
            new = sparse_updates.values(eta) + (block(z, mu) - z)
            return (new if eta.dtype == jnp.float32 else sparse_updates.round_to_nearest(new))[0]

        return jax.lax.map(one, (eta, z, mu), batch_size=min(ROWS, len(eta)))

    mapped = over_devices(local, mesh, (REPLICATED, BY_ROW, BY_ROW, BY_ROW), BY_ROW)
    return dataclasses.replace(rows, eta=mapped(block, rows.eta, z, mu))
