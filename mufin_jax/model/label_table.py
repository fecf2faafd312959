"""The label table: the free vectors eta_l and weights alpha_l of the classifiers w_l.

    w_l = unit(alpha_l z_l + (1 - alpha_l) unit(eta_l)),  alpha_l in [0, 1]     (paper, section 3)

With millions of labels the table is most of the model, and a step touches a few thousand of its
rows. So it is not a Flax module: its rows are split over the devices, the rows that a batch names
are gathered, differentiated alone and updated in place. A step costs what its rows cost, whatever
the number of labels; its collectives carry rows, never the table.

A label costs 2,316 bytes at D = 192 with float32 and Adam. Two options make it leaner: rows in
bfloat16, written with stochastic rounding, and a row-wise Adagrad instead of Adam's two moments.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mufin_jax.model import sparse_updates
from mufin_jax.model.pooling import unit
from mufin_jax.runtime.distributed.mesh import (
    AXIS,
    BY_ROW,
    REPLICATED,
    by_row,
    gather_rows,
    over_devices,
    own_rows,
    replicated,
    take,
)
from mufin_jax.runtime.distributed.padding import next_multiple
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.checkpoint import Checkpoints

# The table is padded to a fixed multiple, not to the number of devices: a checkpoint written on one
# machine then has the same shape on every other.
ROWS = 1024


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """What the label table spends on a label; the defaults are the paper's.

    Attributes:
        dtype: of eta and of its moments under Adam; bfloat16 is written with stochastic rounding.
        update: Adam, or Adagrad without momentum and with one accumulator a row.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    update: Literal["adam", "adagrad"] = "adam"

    def __post_init__(self) -> None:
        """Reject unknown table types."""
        if self.dtype not in ("float32", "bfloat16") or self.update not in ("adam", "adagrad"):
            raise InputError(
                f"initialize.table.dtype={self.dtype}, initialize.table.update={self.update}: "
                "expected float32 or bfloat16, and adam or adagrad"
            )


def bytes_per_label(dim: int, config: TableConfig = TableConfig()) -> int:
    """Return the bytes of one label: eta, alpha, and what its optimizer remembers of them."""
    eta = dim * jnp.dtype(config.dtype).itemsize
    return 3 * (eta + 4) if config.update == "adam" else eta + 4 + 2 * 4


def padded_rows(num_labels: int) -> int:
    """Return the rows of a table of so many labels."""
    return next_multiple(num_labels, ROWS)


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
    """All rows, with what their optimizer remembers.

    Attributes:
        rows: eta and alpha of every label, padded to a multiple of 1,024. alpha is float32; eta and
            its moments under Adam may be bfloat16, kept as bit patterns (uint16).
        mean: Adam's first moments; None under Adagrad.
        square: Adam's second moments; under Adagrad the accumulators, float32, one a row for each.
        steps: updates made so far, shared by all rows as in torch.optim.SparseAdam.
    """

    rows: Rows
    mean: Rows | None
    square: Rows
    steps: Int[Array, ""]

    def __repr__(self) -> str:
        shape = getattr(self.rows.eta, "shape", ())  # the leaves may be placements
        return f"LabelTable({' x '.join(map(str, shape))})"


def placement(mesh: Mesh, config: TableConfig = TableConfig()) -> LabelTable:
    """Return where each array of the table lives, in the shape of a LabelTable."""
    rows: Any = Rows(by_row(mesh), by_row(mesh))  # pyright: ignore[reportArgumentType]
    where: Any = replicated(mesh)
    return LabelTable(rows, None if config.update == "adagrad" else rows, rows, where)


def abstract(
    num_labels: int, dim: int, mesh: Mesh, config: TableConfig = TableConfig()
) -> LabelTable:
    """Return the shapes and placements of a table, for restoring one."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: initialize(key, num_labels, dim, mesh, config=config))
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        placement(mesh, config),
    )


def initialize(
    key: Array,
    num_labels: int,
    dim: int,
    mesh: Mesh,
    alpha: float = 0.5,
    config: TableConfig = TableConfig(),
) -> LabelTable:
    """Draw Module III's table: eta Xavier-uniform with the true L as fan, alpha = 0.5.

    It is drawn where it lives, row by row: no device holds it whole, and little memory is needed.
    """
    padded = padded_rows(num_labels)
    if padded % mesh.size:
        raise ValueError(f"{padded} rows do not divide over {mesh.size} devices")
    limit = (6 / (num_labels + dim)) ** 0.5
    own = padded // mesh.size

    def local(key: Array) -> LabelTable:
        def draw(row: Array) -> Array:
            key_of_row = jax.random.fold_in(key, row)
            eta = jax.random.uniform(key_of_row, (dim,), minval=-limit, maxval=limit)
            return eta if config.dtype == "float32" else sparse_updates.round_to_nearest(eta)

        first = jax.lax.axis_index(AXIS) * own
        eta = jax.lax.map(draw, first + jnp.arange(own), batch_size=ROWS // mesh.size)
        rows = Rows(eta, jnp.full((own,), alpha))
        steps = jnp.zeros((), jnp.int32)
        if config.update == "adagrad":
            return LabelTable(rows, None, Rows(jnp.zeros((own,)), jnp.zeros((own,))), steps)
        zero = jax.tree.map(jnp.zeros_like, rows)
        return LabelTable(rows, zero, zero, steps)

    spec: Any = Rows(BY_ROW, BY_ROW)  # pyright: ignore[reportArgumentType]
    mean = None if config.update == "adagrad" else spec
    specs = LabelTable(spec, mean, spec, REPLICATED)  # pyright: ignore[reportArgumentType]
    return jax.jit(over_devices(local, mesh, REPLICATED, specs))(key)


def gather(rows: Rows, ids: Int[Array, "u"], mesh: Mesh) -> Rows:
    """Return the rows of the labels `ids` on every device, as float32; zero for ids beyond them.

    Rows of bfloat16 are sent as they are kept, in two bytes an entry: seen in what XLA compiles for
    CPUs, not measured on GPUs, where XLA may convert them first.

    Args:
        rows: of all labels, split over the devices.
        ids: of labels.
        mesh: the devices.
    """
    return jax.tree.map(sparse_updates.values, gather_rows(rows, ids, mesh))


def update(
    table: LabelTable,
    ids: Int[Array, "u"],
    gradients: Rows,
    rate: Float[Array, ""],
    mesh: Mesh,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    made: Bool[Array, ""] | bool = True,
) -> LabelTable:
    """Return the table after one step of its optimizer on the rows `ids`, if it is `made`.

    Row-sparse Adam, or row-wise Adagrad where the table has no first moments. Rows that are not
    named keep their values and moments to the bit. alpha is projected back into [0, 1]. No weight
    decay (the released code has none on its table either). The caller donates the table.

    Args:
        table: the table; its buffers are donated.
        ids: *distinct* label ids; pads are distinct ids beyond the table and are dropped.
        gradients: of the rows that `gather` gave for the same ids.
        rate: learning rate.
        mesh: the devices that hold the rows.
        b1: decay of the first moments.
        b2: decay of the second moments.
        eps: added to the denominator.
        made: whether anything changes; False where the gradients cannot be used.
    """
    ids = jnp.where(made, ids, ids + len(table.rows.alpha))  # beyond the table: dropped

    def local(table: LabelTable, ids: Array, gradients: Rows, rate: Array) -> LabelTable:
        steps = table.steps + 1
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), steps)
        rule: Any = functools.partial(sparse_updates.adagrad, rate=rate, eps=eps)
        if table.mean is not None:
            count = steps.astype(jnp.float32)
            rule = functools.partial(
                sparse_updates.adam, rate=rate, steps=count, b1=b1, b2=b2, eps=eps
            )

        def one(name: str) -> list[Array]:
            """Return eta or alpha, and what is remembered of it, after the step."""
            arrays = [getattr(rows, name) for rows in parts]
            gradient, index = getattr(gradients, name), own_rows(ids, arrays[0])
            old = [sparse_updates.values(take(array, index)) for array in arrays]
            new = rule(*old, gradient)
            if name == "alpha":
                new = jnp.clip(new[0], 0, 1), *new[1:]
            keys = [jax.random.fold_in(key, number) for number in range(len(arrays))]
            new = map(sparse_updates.kept, new, [array.dtype for array in arrays], keys)
            return [a.at[index].set(row, mode="drop") for a, row in zip(arrays, new, strict=True)]

        parts = [part for part in (table.rows, table.mean, table.square) if part is not None]
        rows, *mean, square = (Rows(e, a) for e, a in zip(one("eta"), one("alpha"), strict=True))
        return LabelTable(rows, mean[0] if mean else None, square, steps)

    specs = jax.tree.map(lambda leaf: BY_ROW if leaf.ndim else REPLICATED, table)
    replicas = (REPLICATED, REPLICATED, REPLICATED)
    new = over_devices(local, mesh, (specs, *replicas), specs)(table, ids, gradients, rate)
    return dataclasses.replace(new, steps=jnp.where(made, new.steps, table.steps))


def combine(rows: Rows, z: Float[Array, "u d"]) -> Float[Array, "u d"]:
    """Return the classifiers w of labels with these rows and vector embeddings z."""
    alpha = rows.alpha[:, None]
    # Normalised, as in the authors' code; the paper's figure 2 shows the plain combination, but the
    # margins of its losses are margins of cosines.
    return unit(alpha * z + (1 - alpha) * unit(sparse_updates.values(rows.eta)))


def add(rows: Rows, z: Float[Array, "u d"]) -> Float[Array, "u d"]:
    """Return the classifiers w = unit(z + eta) of SiameseXML, in which alpha has no part."""
    return unit(z + sparse_updates.values(rows.eta))


@jax.jit
def as_combined(rows: Rows) -> Rows:
    """Return rows from which `combine` makes what `add` makes of these: alpha = 1 / (1 + |eta|)."""
    size = jnp.linalg.norm(sparse_updates.values(rows.eta), axis=-1)
    return Rows(rows.eta, 1 / (1 + size))


def save_table(table: LabelTable, folder: Path) -> None:
    """Write a label table, with what its optimizer remembers; every process must call this.

    Args:
        table: its rows may be split over the devices of several processes.
        folder: holds nothing else; DiskError if the disk does not take the table.
    """
    Checkpoints(folder).save(0, table, {})


def saved_config(folder: Path) -> TableConfig:
    """Return the kind of the label table that `save_table` wrote, as the file itself tells it."""
    arrays = Checkpoints(folder).described()
    lean = arrays.get("rows/eta", {}).get("dtype") == "uint16"
    update = "adam" if "mean/eta" in arrays else "adagrad"
    return TableConfig("bfloat16" if lean else "float32", update)


def load_table(folder: Path, num_labels: int, dim: int, mesh: Mesh) -> LabelTable:
    """Load the label table that `save_table` wrote, its rows split over the devices.

    Args:
        folder: where the table was saved.
        num_labels: L; the table has that many rows, padded.
        dim: D.
        mesh: the devices.

    Raises:
        InputError: if there is no readable table of this size.
    """
    found = Checkpoints(folder).restore(abstract(num_labels, dim, mesh, saved_config(folder)))
    if found is None:
        raise InputError(f"{folder}: no readable label table; run the stage that writes it first")
    return found[1]
