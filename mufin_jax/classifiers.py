"""The label table: the free vectors eta_l and weights alpha_l of the classifiers w_l.

    w_l = unit(alpha_l z_l + (1 - alpha_l) unit(eta_l)),  alpha_l in [0, 1]     (paper, section 3)

With millions of labels the table is most of the model, and a step touches a few thousand of its
rows. So it is not a Flax module: its rows are split over the devices, the rows that a batch names
are gathered, differentiated alone and updated in place. A step costs what its rows cost, whatever
the number of labels; its collectives carry rows, never the table.
"""

import dataclasses
import functools
from typing import no_type_check

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mufin_jax.bags import unit
from mufin_jax.sharding import (
    BY_ROW,
    REPLICATED,
    by_row,
    gather_rows,
    over_devices,
    own_rows,
    replicated,
    take,
)

# The table is padded to a fixed multiple, not to the number of devices: a checkpoint written on one
# machine then has the same shape on every other.
ROWS = 1024


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The two parameters of some labels; also their gradients and their moments."""

    eta: Float[Array, "u d"]
    alpha: Float[Array, "u"]


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelTable:
    """All rows, with the moments of their row-sparse Adam.

    Attributes:
        rows: eta and alpha of every label, padded to a multiple of 1,024.
        mean: first moments.
        square: second moments.
        steps: updates made so far, shared by all rows as in torch.optim.SparseAdam.
    """

    rows: Rows
    mean: Rows
    square: Rows
    steps: Int[Array, ""]


def placement(mesh: Mesh) -> LabelTable:
    """Return where each array of the table lives, in the shape of a LabelTable."""
    rows = Rows(by_row(mesh), by_row(mesh))  # pyright: ignore[reportArgumentType]
    return LabelTable(rows, rows, rows, replicated(mesh))  # pyright: ignore[reportArgumentType]


_SPECS = LabelTable(*[Rows(BY_ROW, BY_ROW)] * 3, REPLICATED)  # pyright: ignore


def abstract(num_labels: int, dim: int, mesh: Mesh) -> LabelTable:
    """Return the shapes and placements of a table, for restoring one."""
    shapes = jax.eval_shape(lambda: initialize(jax.random.key(0), num_labels, dim, mesh))
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        placement(mesh),
    )


def initialize(key: Array, num_labels: int, dim: int, mesh: Mesh, alpha: float = 0.5) -> LabelTable:
    """Module III: eta Xavier-uniform with the true number of labels as fan, alpha = 0.5.

    The table is born sharded: no device ever holds it whole.
    """
    padded = -(-num_labels // ROWS) * ROWS
    if padded % mesh.size:
        raise ValueError(f"{padded} rows do not divide over {mesh.size} devices")
    limit = (6 / (num_labels + dim)) ** 0.5

    def make(key: Array) -> LabelTable:
        eta = jax.random.uniform(key, (padded, dim), minval=-limit, maxval=limit)
        rows = Rows(eta, jnp.full((padded,), alpha))
        zero = jax.tree.map(jnp.zeros_like, rows)
        return LabelTable(rows, zero, zero, jnp.zeros((), jnp.int32))

    return jax.jit(make, out_shardings=placement(mesh))(key)


def gather(table: LabelTable, ids: Int[Array, "u"], mesh: Mesh) -> Rows:
    """Return the rows of the labels `ids`, on every device; zero for ids beyond the table."""

    return gather_rows(table.rows, ids, mesh)


def update(
    table: LabelTable,
    ids: Int[Array, "u"],
    gradients: Rows,
    rate: Float[Array, ""],
    mesh: Mesh,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> LabelTable:
    """Return the table after one step of row-sparse Adam on the rows `ids`.

    Rows that are not named keep their values and moments to the bit. alpha is projected back into
    [0, 1]. No weight decay (the released code has none on its table either). The caller donates the
    table.

    Args:
        ids: *distinct* label ids; pads are distinct ids beyond the table and are dropped.
        gradients: of the rows that `gather` gave for the same ids.
        rate: learning rate.
    """

    def local(table: LabelTable, ids: Array, gradients: Rows, rate: Array) -> LabelTable:
        steps = table.steps + 1
        adam = functools.partial(
            _adam, rate=rate, steps=steps.astype(jnp.float32), b1=b1, b2=b2, eps=eps
        )
        eta = adam(table.rows.eta, table.mean.eta, table.square.eta, gradients.eta, ids)
        old = (table.rows.alpha, table.mean.alpha, table.square.alpha)
        alpha = adam(*old, gradients.alpha, ids, bounded=True)
        rows, mean, square = (Rows(e, a) for e, a in zip(eta, alpha, strict=True))
        return LabelTable(rows, mean, square, steps)

    specs = (_SPECS, REPLICATED, REPLICATED, REPLICATED)
    return over_devices(local, mesh, specs, _SPECS)(table, ids, gradients, rate)


def combine(rows: Rows, z: Float[Array, "u d"]) -> Float[Array, "u d"]:
    """Return the classifiers w of labels with these rows and vector embeddings z."""
    alpha = rows.alpha[:, None]
    # Normalised, as in the authors' code; the paper's figure 2 shows the plain combination, but the
    # margins of its losses are margins of cosines.
    return unit(alpha * z + (1 - alpha) * unit(rows.eta))


def _adam(
    value: Array,
    mean: Array,
    square: Array,
    gradient: Array,
    ids: Array,
    *,
    rate: Array,
    steps: Array,
    b1: float,
    b2: float,
    eps: float,
    bounded: bool = False,
) -> tuple[Array, Array, Array]:
    """Adam on this device's part of the rows `ids`; eps as in torch, inside the bias correction."""
    index = own_rows(ids, value)
    m = b1 * take(mean, index) + (1 - b1) * gradient
    v = b2 * take(square, index) + (1 - b2) * jnp.square(gradient)
    correction = jnp.sqrt(1 - b2**steps)
    step = rate * correction / (1 - b1**steps) * m / (jnp.sqrt(v) + eps)
    new = take(value, index) - step
    new = jnp.clip(new, 0, 1) if bounded else new
    return _put(value, index, new), _put(mean, index, m), _put(square, index, v)


def _put(array: Array, index: Array, rows: Array) -> Array:
    return array.at[index].set(rows, mode="drop")
