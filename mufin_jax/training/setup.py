"""What Modules I and IV do alike before their first step, and the state that their steps update.

The parts of the model that train are split from those that are frozen, and only the former are
differentiated. What the frozen parts make of the descriptors is computed once.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, no_type_check, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Vectors
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.label_table import LabelTable
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime.distributed.mesh import put, replicated
from mufin_jax.training.frozen_features import precompute
from mufin_jax.training.optimizer import OptimizerConfig, by_part, check_trains, describes, trains
from mufin_jax.training.prototypes import PART, without_prototypes
from mufin_jax.training.temperature import initial, without_temperature

Weights = dict[str, Any]
"""Parameters of the model as nested dicts of arrays, by part, such as "self_attention"."""

B_contra = TypeVar("B_contra", contravariant=True)


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a step of training takes, and returns updated.

    The names of the fields are those of the arrays in a checkpoint, and their alphabetical order is
    that of the arguments of the compiled steps: older runs resume, with programs compiled before.

    Attributes:
        opt: the optimizer's state for `train`.
        table: the label table with its own optimizer's state; None where none trains.
        train: the weights that train.
    """

    opt: optax.OptState
    table: LabelTable | None = None
    train: Weights


@runtime_checkable
class Step(Protocol[B_contra]):
    """A jitted training step, which takes over the memory of the state."""

    def __call__(
        self, state: TrainState, frozen: Weights, batch: B_contra, /
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Return the state after the step, and the step's metrics."""
        ...

    def lower(self, state: Any, frozen: Any, batch: Any, /) -> jax.stages.Lowered:
        """Return the program of the step, for arguments of these shapes."""
        ...


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model split by what trains, with the optimizer of what does.

    Attributes:
        graphdef: the model's structure.
        train: initial weights of the parts that train; the first step takes over their memory.
        frozen: weights of the other parts.
        optimizer: of `train`.
        mesh: the devices.
        loader: reads what the frozen parts make.
    """

    graphdef: nnx.GraphDef[Mufin]
    train: Weights
    frozen: Weights
    optimizer: optax.GradientTransformation
    mesh: Mesh
    loader: Loader

    @property
    def learns_to_describe(self) -> bool:
        """Whether descriptor vectors change while the model trains."""
        return describes(self.train)

    def state(self, table: LabelTable | None = None) -> TrainState:
        """Return the initial state; only the caller holds its optimizer's state and its table."""
        # On the mesh, as steps return it: else the first shape would be compiled once more.
        opt = put(self.optimizer.init(self.train), replicated(self.mesh))
        return TrainState(opt=opt, table=table, train=self.train)

    def model(self, state: TrainState) -> Mufin:
        """Return the model with the weights of a state."""
        train = without_prototypes(without_temperature(state.train))
        return nnx.merge(self.graphdef, train, self.frozen)


def split(
    model: Mufin, config: OptimizerConfig, cross: bool
) -> tuple[nnx.GraphDef[Mufin], Weights, Weights]:
    """Return a model's structure, the weights that train, and the frozen ones.

    Args:
        model: to be trained.
        config: which parts train.
        cross: whether A_C takes part in the stage.
    """
    graphdef, train, frozen = nnx.split(model, trains(config, model.depths(), cross), ...)
    return graphdef, nnx.to_pure_dict(train), nnx.to_pure_dict(frozen)


def set_up(
    model: Mufin,
    loader: Loader,
    config: OptimizerConfig,
    steps: Sequence[int],
    stage: Literal["pretrain", "finetune"],
    out: Path,
    kept: Path,
    cache_gb: float | None,
    has_table: bool = False,
    temperature: float | None = None,
    prototypes: Weights | None = None,
) -> Setup:
    """Split a model by what trains, and compute once what its frozen parts make.

    If no encoder trains, every descriptor is described once, to `out / "vectors.npy"`. Else the
    outputs of frozen blocks are computed once, to the folder `kept`.

    Args:
        model: with the weights that the stage starts from.
        loader: of the dataset.
        config: which parts train, and how.
        steps: of the stage, for the `schedule`.
        stage: whose flags an error names; A_C takes part in "finetune" only.
        out: the stage's folder.
        kept: the run's folder of precomputed arrays.
        cache_gb: the most that one of them may take, as in `FitConfig`.
        has_table: whether a label table trains, too.
        temperature: the first value of a temperature that is learned, too.
        prototypes: the first weights of the prototypes' block, if it trains, too.

    Raises:
        InputError: if nothing trains.
        DiskError: if a file cannot be written.
        Stopped: after a signal.
    """
    graphdef, train, frozen = split(model, config, cross=stage == "finetune")
    if not has_table:
        check_trains(train, stage)
    if not describes(train):
        known = describe_once(model, loader, out / "vectors.npy")
        loader = loader.with_sources(known=Vectors(known))
    else:
        loader = precompute(model, loader, config, kept, out / "precomputed.json", cache_gb)
    if temperature is not None:
        train |= put(initial(temperature), replicated(model.mesh))
    if prototypes is not None:
        train |= put({PART: prototypes}, replicated(model.mesh))
    return Setup(graphdef, train, frozen, by_part(config, steps, train), model.mesh, loader)


def updated(
    state: TrainState, gradients: Weights, optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state after the optimizer's step on its weights; the table stays as it is."""
    updates, opt = optimizer.update(gradients, state.opt, state.train)
    return dataclasses.replace(state, opt=opt, train=jax.tree.map(jnp.add, state.train, updates))
