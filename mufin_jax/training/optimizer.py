"""Which parts of the model train, each with its own line in the optimizer (paper, App. D).

AdamW, a cosine schedule after a linear warm-up counted in steps, weight decay on matrices only. The
label table is not here: its row-sparse Adam is `label_table.update`, at the rate of `schedule`.
"""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import Literal

import jax
import optax
from flax import nnx

from mufin_jax.encoders.freezing import trainable
from mufin_jax.model.reduction import MEAN
from mufin_jax.runtime.errors import InputError
from mufin_jax.training import prototypes, temperature

TrainingOption = Literal["frozen", "last", "full", "auto"]
"""Which blocks of an encoder train; "auto" is settled when a run begins."""

RATES = ("rate", "encoder_rate", "reduce_rate", "attention_rate", "table_rate")
"""The learning rates of an `OptimizerConfig`."""

_DESCRIBING = ("image_encoder", "text_encoder", "image_reduce", "text_reduce")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How a stage trains; the defaults are the paper's of Module I.

    Attributes:
        rate: peak learning rate of every part without a rate of its own.
        warmup: steps of linear warm-up from zero; counted in steps, at most half of all.
        weight_decay: of matrices; biases, norms and the label table have none.
        clip: largest global norm of the gradients of the parts that train; 0 disables clipping.
        image_encoder: which blocks of E_V train: none, the last one, all; or auto: none where the
            encoder starts from a checkpoint or vectors are ready, else all.
        text_encoder: which blocks of E_T train.
        reduce: whether the learned maps of the encoders' vectors to D train (`model.reduce`).
        self_attention: whether A_S trains.
        encoder_rate: own learning rate of the encoders (the authors' code: 1e-5 in Module IV).
        reduce_rate: own learning rate of these maps; `encoder_rate` by default.
        attention_rate: own learning rate of A_S and A_C.
        table_rate: own learning rate of the label table (the authors' code: 1e-3).
    """

    rate: float = 2e-4
    warmup: int = 1000
    weight_decay: float = 0.01
    clip: float = 0.0
    image_encoder: TrainingOption = "last"
    text_encoder: TrainingOption = "full"
    reduce: Literal["full", "frozen"] = "full"
    self_attention: Literal["full", "frozen"] = "full"
    encoder_rate: float | None = None
    reduce_rate: float | None = None
    attention_rate: float | None = None
    table_rate: float | None = None

    def __post_init__(self) -> None:
        """Reject rates that cannot train."""
        for name in RATES:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}={value}: expected a positive learning rate, such as 2e-4")
        if self.warmup < 0 or not 0 <= self.weight_decay < 1 or not 0 <= self.clip < float("inf"):
            raise InputError(
                f"warmup={self.warmup}, weight_decay={self.weight_decay}, clip={self.clip}: "
                "expected warmup >= 0, weight_decay in [0, 1) and clip >= 0"
            )

    def scaled(self, factor: float) -> "OptimizerConfig":
        """Return the same with all learning rates multiplied by a factor."""
        rates = {name: getattr(self, name) for name in RATES}
        own = {name: factor * rate for name, rate in rates.items() if rate is not None}
        return dataclasses.replace(self, **own)


def schedule(peak: float, warmup: int, steps: int | Sequence[int]) -> optax.Schedule:
    """Return a linear warm-up from 0, then half a cosine down to 0 at the last step.

    Args:
        peak: the largest rate.
        warmup: steps until then.
        steps: of the training; several numbers for trainings that follow each other, each of which
            has its own warm-up and cosine.
    """
    if not isinstance(steps, int):
        first, *later = (schedule(peak, warmup, some) for some in steps)
        ends = [*itertools.accumulate(steps)]
        return optax.join_schedules([first, *later], ends[:-1]) if later else first
    warmup = min(warmup, steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))


def trains(config: OptimizerConfig, depths: dict[str, int], cross: bool) -> nnx.filterlib.Filter:
    """Return the filter of the parameters that train in a stage.

    Args:
        config: modes of the two encoders.
        depths: number of blocks of "image_encoder" and "text_encoder".
        cross: whether A_C takes part in the stage.
    """

    def keep(path: tuple, _: object) -> bool:
        part, rest = path[0], path[1:]
        if part in ("image_encoder", "text_encoder"):
            return trainable(rest, getattr(config, part), depths[part])
        if part in ("image_reduce", "text_reduce"):
            return config.reduce == "full" and rest[0] != MEAN
        if part == "self_attention" and config.self_attention == "frozen":
            return False
        return cross or part != "cross_attention"

    return keep


def describes(train: dict) -> bool:
    """Return whether any of the parameters that train changes the descriptor vectors."""
    return any(train.get(part) for part in _DESCRIBING)


def check_trains(train: dict, stage: str) -> None:
    """Reject a stage in which nothing trains: its steps would not change the model."""
    if not jax.tree.leaves(train):
        raise InputError(
            f"{stage}: both encoders are frozen and no attention block trains, so there is nothing "
            f"to learn; let one of them train, such as --{stage}.optimizer.text-encoder=full"
            + (", or say --pretrain.epochs=0" if stage == "pretrain" else "")
        )


def by_part(
    config: OptimizerConfig, steps: int | Sequence[int], train: Collection[str] = ()
) -> optax.GradientTransformation:
    """Return the optimizer of the model: one AdamW per named part, on the parts that train.

    Args:
        config: the rates.
        steps: of the stage, for the `schedule`.
        train: names of what trains; "temperature" and "prototypes" get an optimizer only if they
            are among them.
    """

    def adamw(rate: float | None) -> optax.GradientTransformation:
        return optax.adamw(
            schedule(rate or config.rate, config.warmup, steps),
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda array: array.ndim > 1, params),
        )

    rates = {
        "image_encoder": config.encoder_rate,
        "text_encoder": config.encoder_rate,
        "image_reduce": config.reduce_rate or config.encoder_rate,
        "text_reduce": config.reduce_rate or config.encoder_rate,
        "self_attention": config.attention_rate,
        "cross_attention": config.attention_rate,
    }
    rates |= dict.fromkeys({temperature.PART, prototypes.PART} & set(train))
    parts = optax.partition(
        {part: adamw(rate) for part, rate in rates.items()},
        lambda params: {
            part: jax.tree.map(lambda _, part=part: part, tree) for part, tree in params.items()
        },
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), parts) if config.clip else parts
