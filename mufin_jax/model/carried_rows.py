"""Rows of one label table that another table begins with, label by label."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int64

from mufin_jax.model.label_table import LabelTable
from mufin_jax.runtime.distributed.mesh import put, put_rows, replicated
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.checkpoint import Checkpoints


def carry_rows(
    table: LabelTable, folder: Path, numbers: Int64[np.ndarray, " labels"], mesh: Mesh
) -> tuple[LabelTable, int]:
    """Return a table with rows of a saved one, and how many steps the latter's optimizer has made.

    Values and moments are the same to the bit. The number of steps is taken over, too: the
    optimizer corrects moments by it. A row that is new is to it like one that no batch has named.

    Args:
        table: has the rows of all other labels. Its arrays are used up.
        folder: where a table with the same number format and optimizer was saved.
        numbers: for each label of `table`, its row there; -1 if it has none.
        mesh: the devices.

    Raises:
        InputError: there is no readable table, or it is of another kind.
    """
    found = Checkpoints(folder).restore()
    if found is None:
        raise InputError(f"{folder}: no readable label table; run the stage that writes it first")
    saved = found[1]
    padded = len(table.rows.alpha)
    carried = put_rows(numbers >= 0, mesh, padded)
    rows = np.where(numbers < 0, 0, numbers)

    def one(keys: tuple, leaf: Array) -> Array:
        names = [key.name for key in keys]
        old = saved
        for name in names:
            old = old.get(name) if isinstance(old, dict) else None
        kind = "absent" if old is None else f"{old.dtype.name}, {old.shape[1:]} a label"
        if (wanted := f"{leaf.dtype.name}, {leaf.shape[1:]} a label") != kind:
            raise InputError(
                f"{folder}: {'.'.join(names)} is {kind}, expected {wanted}; give the options "
                "--initialize.table.* and --model.dim of that run"
            )
        assert old is not None
        if not leaf.ndim:
            return put(old, replicated(mesh))
        return _where(carried, put_rows(old[rows], mesh, padded), leaf)

    return jax.tree_util.tree_map_with_path(one, table), int(saved["steps"])


@functools.partial(jax.jit, donate_argnums=2)
def _where(carried: Bool[Array, "l"], old: Array, new: Array) -> Array:
    return jnp.where(carried.reshape(-1, *[1] * (new.ndim - 1)), old, new)
