"""The time plan: about how long the training stages of a run will take, before it begins.

A step costs the multiplications of the encoders and attention blocks: those of a forward pass for
what is only computed, three times as many for what trains. A part that is frozen is computed once
for each descriptor, before the first step. The rate is that of a matrix product on this machine,
measured for a fraction of a second; a training reaches a share of it, `EFFICIENCY`.

The plan is meant to be right within a factor of two; docs/performance.md compares it with real
runs. It leaves out preparation, the indices, selection and evaluation.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset, Side, training_pairs
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.padding import divide_up
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_config import PretrainConfig

log = logging.getLogger(__name__)

EFFICIENCY = 0.2
"""The share of the rate of a large matrix product that a training step reaches."""
STEP_SECONDS = 0.004
"""What a step costs at least: its launch, and the batch's way to the device."""
START_SECONDS = 12.0
"""Compiling the programs of a training stage."""
TRIALS = 5
"""Matrix products that the rate is measured by; the fastest counts."""
PIXELS_A_POSITION = 20
"""The side of the square of pixels for which a convolutional network uses each weight once: between
the 32 of its last maps and the 4 of its first ones."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """Operations of one forward pass.

    Attributes:
        text: of a text through E_T.
        image: of a picture through E_V.
        slot: of a descriptor through A_S.
        pair: of a datapoint and a label through A_C, in addition to what A_C makes of each alone.
        depths: the blocks of E_T and of E_V.
    """

    text: float
    image: float
    slot: float
    pair: float
    depths: tuple[int, int] = (1, 1)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """How long a training stage will take.

    Attributes:
        name: "Module I" or "Module IV".
        steps: how many, at most.
        operations: of all steps and validations, and of one pass over all items.
    """

    name: str
    steps: int
    operations: float

    def seconds(self, rate: float) -> float:
        """Return how long the stage takes on a machine that multiplies at this rate."""
        return START_SECONDS + max(self.operations / (EFFICIENCY * rate), self.steps * STEP_SECONDS)


def log_time_plan(
    pretrain: PretrainConfig | None,
    finetune: FinetuneConfig | None,
    model: Mufin,
    dataset: Dataset,
    mesh: Mesh,
    share: float = 1.0,
) -> None:
    """Log how long the training stages ahead will take, about.

    Args:
        pretrain: Module I, if it is ahead.
        finetune: Module IV, if it is ahead.
        model: its weights may be shapes alone.
        dataset: the prepared folder.
        mesh: all devices.
        share: of the steps that a run from nothing takes.
    """
    costs, plans = costs_of(model, dataset), []
    if pretrain is not None and pretrain.epochs:
        plans.append(plan_pretrain(pretrain, costs, dataset, share))
    if finetune is not None:
        plans.append(plan_finetune(finetune, costs, dataset, share))
    if plans:
        log.info("%s", in_words(plans, processes.decide(lambda: operations_a_second(mesh))))


def in_words(plans: Sequence[StagePlan], rate: float) -> str:
    """Return the plans in one line."""
    parts = [f"{plan.name} {_about(plan.seconds(rate))} for {plan.steps:,} steps" for plan in plans]
    total = _about(sum(plan.seconds(rate) for plan in plans))
    return (
        f"time plan: training takes about {total} ({'; '.join(parts)}), within a factor of two; "
        f"this machine multiplies at {rate / 1e9:,.0f} GFLOP/s"
    )


def _about(seconds: float) -> str:
    """Return a duration with as many digits as an estimate deserves."""
    if seconds < 90:
        return f"{max(10 * round(seconds / 10), 10)} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 10 * 3600 else f"{seconds / 3600:,.0f} h"


@functools.cache
def operations_a_second(mesh: Mesh) -> float:
    """Return the operations a second of matrix products on all devices, measured in a moment.

    Virtual devices of a CPU share its cores; other devices add up.
    """
    device = mesh.local_devices[0]
    cpu = device.platform == "cpu"
    size, dtype = (1024, jnp.float32) if cpu else (8192, jnp.bfloat16)
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    multiply = jax.jit(lambda a: a @ a)
    best = float("inf")
    multiply(matrix).block_until_ready()
    for _ in range(TRIALS):
        start = time.perf_counter()
        multiply(matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best * (1 if cpu else mesh.size)


def costs_of(model: Mufin, dataset: Dataset) -> Costs:
    """Return the operations of a model's forward pass on the items of a data set.

    Args:
        model: its weights may be shapes alone.
        dataset: gives the length of a text and the size of a picture.
    """
    tokens = float(np.mean(dataset.text_lengths)) if len(dataset.text_lengths) else 1.0
    positions, image = 1.0, model.image_encoder
    if image is not None and not isinstance(image, ReadyVectors):
        patch = getattr(image.config, "patch", PIXELS_A_POSITION)
        positions = (dataset.processing.size / patch) ** 2
    depths = model.depths()
    return Costs(
        text=2 * _weights(model.text_encoder) * tokens,
        image=2 * _weights(image) * positions,
        slot=2 * _weights(model.self_attention),
        # Queries, keys and values are made once an item; the fourth map is of a pair.
        pair=2 * _weights(model.cross_attention) / 4 * max(sum(_bag(dataset.train)), 1),
        depths=(depths.get("text_encoder", 1), depths.get("image_encoder", 1)),
    )


def plan_pretrain(
    config: PretrainConfig, costs: Costs, dataset: Dataset, share: float = 1.0
) -> StagePlan:
    """Return the plan of Module I."""
    pairs, _ = training_pairs(dataset.train)
    over_labels = config.batches_over == "labels"
    usable = len(np.unique(pairs.indices)) if over_labels else _nonempty(pairs)
    size = min(config.batch_size, usable)
    steps = _steps(config, usable, size, share)
    labels, points = config.shapes(size)
    step = _step(costs, dataset, (points, labels), config.optimizer)
    operations = steps * step + _whole(costs, dataset)
    return StagePlan("Module I", steps, operations + _validations(config, costs, dataset, steps))


def plan_finetune(
    config: FinetuneConfig, costs: Costs, dataset: Dataset, share: float = 1.0
) -> StagePlan:
    """Return the plan of Module IV."""
    usable = _nonempty(training_pairs(dataset.train)[0])
    size = min(config.batch_size, usable)
    steps = _steps(config, usable, size, share)
    drawn = size * (config.positives + config.negatives)
    step = _step(costs, dataset, (size, drawn), config.optimizer) + 3 * drawn * costs.pair
    operations = steps * step + _whole(costs, dataset)
    return StagePlan("Module IV", steps, operations + _validations(config, costs, dataset, steps))


def _step(
    costs: Costs, dataset: Dataset, drawn: tuple[int, int], optimizer: OptimizerConfig
) -> float:
    """Return the operations of a step that draws so many datapoints and labels."""
    modes = (optimizer.text_encoder, optimizer.image_encoder)
    trains = [
        {"frozen": 0.0, "last": 3 / depth}.get(mode, 3.0)
        for mode, depth in zip(modes, costs.depths, strict=True)
    ]
    total = 0.0
    for side, draws in zip((dataset.train, dataset.labels), drawn, strict=True):
        items = len(side) * -math.expm1(-draws / max(len(side), 1))  # the distinct ones
        texts, images = _bag(side)
        total += items * (trains[0] * texts * costs.text + trains[1] * images * costs.image)
        total += 3 * items * (texts + images) * costs.slot
    return total


def _whole(costs: Costs, dataset: Dataset) -> float:
    """Return the operations of embedding every item once."""
    return sum(_embedding(costs, side, len(side)) for side in (dataset.train, dataset.labels))


def _validations(
    config: PretrainConfig | FinetuneConfig, costs: Costs, dataset: Dataset, steps: int
) -> float:
    """Return the operations of all validations."""
    validate, held = config.validate, dataset.validation
    if not validate.every or held is None:
        return 0.0
    labels = min(validate.labels, dataset.num_labels)
    once = _embedding(costs, dataset.train, min(validate.points, len(held)))
    once += _embedding(costs, dataset.labels, labels)
    return (steps // validate.every + 2) * once


def _embedding(costs: Costs, side: Side, items: int) -> float:
    texts, images = _bag(side)
    slots = (texts + images) * costs.slot
    return items * (texts * costs.text + images * costs.image + slots)


def _steps(config: PretrainConfig | FinetuneConfig, usable: int, size: int, share: float) -> int:
    epoch = divide_up(usable, max(size, 1))
    first = max(config.epochs * epoch, config.least_steps)
    return max(round(share * first), 1) + sum(config.more_epochs) * epoch


def _bag(side: Side) -> tuple[float, float]:
    """Return the mean numbers of texts and of images of an item."""
    count = max(len(side), 1)
    return float((side.text >= 0).sum()) / count, len(side.image_rows) / count


def _nonempty(pairs: csr_matrix) -> int:
    return int(np.count_nonzero(np.diff(pairs.indptr)))


def _weights(module: Any) -> float:
    """Return how many weights of a module multiply an input; those of embeddings are looked up."""
    if module is None or isinstance(module, ReadyVectors):
        return 0.0
    found = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(module)))
    sizes = (
        leaf.size
        for path, leaf in found
        if leaf.ndim > 1 and "embed" not in jax.tree_util.keystr(path)
    )
    return float(sum(sizes))
