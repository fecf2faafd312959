"""Module III of the paper: what Module IV starts from.

Encoders and A_S are Module I's. A_C, which this stage makes again, is the identity. Every label
gets a free vector eta, Xavier-uniform, and alpha = 1/2. A warm start has A_C, and the rows of the
labels that are not new, from the run that it starts from.

With eta = 0, classifiers w = unit(z + eta), and A_C `residual` or `none`, Module IV starts at
Module I's scores: x2_l·w_l = x1·z_l, but for the rounding of normalising z a second time.

Reads: a prepared folder and Module I's model. Writes: `model/` and `table/` (the label table: eta
(L', D), float32 or bfloat16, alpha (L',), float32, and what their optimizer remembers, L' = L
padded to a multiple of 1,024); for a warm start `start.json`, how many rows were carried over.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from mufin_jax.model import label_table
from mufin_jax.model.heads import new_cross_attention
from mufin_jax.model.label_table import Rows, TableConfig
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import load_model, save_model
from mufin_jax.runtime.distributed.mesh import put, replicated
from mufin_jax.runtime.draws import Draw, key
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.context import StageContext
from mufin_jax.stages.start import first_table


@dataclasses.dataclass(frozen=True)
class InitializeConfig:
    """Module III; the defaults are the paper's.

    Attributes:
        alpha: initial weight of the label's own embedding z in its classifier w.
        eta: initial free vectors: xavier (uniform), or zero, for classifiers w = unit(z + eta).
        table: number format and optimizer of the label table, which decide the bytes of a label.
    """

    alpha: float = 0.5
    eta: Literal["xavier", "zero"] = "xavier"
    table: TableConfig = dataclasses.field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        """Reject weights outside [0, 1]."""
        if not 0 <= self.alpha <= 1:
            raise InputError(f"initialize.alpha={self.alpha}: expected a weight between 0 and 1")


def initialize(config: InitializeConfig, context: StageContext) -> None:
    """Write the model and the label table that Module IV starts from (Module III)."""
    dataset, out, mesh = context.dataset(), context.out, context.mesh
    model = load_model(context.folders["pretrain"] / "model", mesh)
    if context.start is None:  # else Module I has left that of the other run as it was
        _make_cross_attention(model, context)
    save_model(model, out / "model")
    table = label_table.initialize(
        key(context.seed, Draw.ETA),
        dataset.num_labels,
        model.dim,
        mesh,
        config.alpha,
        config.table,
    )
    if config.eta == "zero":
        zeros = jax.jit(jnp.zeros_like, out_shardings=table.rows.eta.sharding)(table.rows.eta)
        table = dataclasses.replace(table, rows=Rows(zeros, table.rows.alpha))
    label_table.save_table(first_table(table, dataset, context), out / "table")


def _make_cross_attention(model: Mufin, context: StageContext) -> None:
    """Give a model a new A_C, of the kind that the settings name."""
    kind = context.model.cross_attention
    model.config = dataclasses.replace(model.config, cross_attention=kind)
    cross = new_cross_attention(model.config, nnx.Rngs(key(context.seed, Draw.CROSS_ATTENTION)))
    graphdef, state = nnx.split(cross)
    model.cross_attention = nnx.merge(graphdef, put(state, replicated(context.mesh)))
