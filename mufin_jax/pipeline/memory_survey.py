"""The `RunSizes` of a data set and a configuration, from which the memory plan is computed."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.checks import how_computed
from mufin_jax.encoders.pretrained import load_config
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.label_table import TableConfig
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import ModelSizes, load_sizes
from mufin_jax.pipeline.memory_parts import ScoreSizes
from mufin_jax.pipeline.memory_plan import RunSizes, check, plan, plan_table
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.machine import available
from mufin_jax.stages.select import SelectConfig
from mufin_jax.training.optimizer import OptimizerConfig, trains

log = logging.getLogger(__name__)

HOLDS = {
    "pretrain": ("pretrain",),
    "retrieve": ("retrieve",),
    "initialize": ("initialize",),
    "finetune": ("restore", "finetune", "index"),
    "select": ("select",),
    "evaluate": ("predict", "floors"),
    "report": ("predict",),
}
"""The phases of the memory plan that each stage of an experiment goes through."""


def foresee(sizes: RunSizes, stages: Sequence[str], mesh: Mesh) -> None:
    """Log the memory plan of a run, and reject a run that cannot fit.

    Args:
        sizes: of the data and the configuration.
        stages: keys of HOLDS, the stages that will run; other stages need not fit.
        mesh: all devices.

    Raises:
        InputError: if a stage cannot fit; one line that names what would fit.
    """
    planned, room = plan(sizes), available(mesh)
    for line in plan_table(planned, room).splitlines():
        log.info("%s", line)
    check(planned, room, [phase for stage in stages for phase in HOLDS[stage]])


def sizes_of(
    dataset: Dataset,
    model: ModelConfig,
    table: TableConfig,
    mesh: Mesh,
    *,
    pretrain: tuple[int, int],
    finetune: tuple[int, int],
    optimizers: tuple[OptimizerConfig, OptimizerConfig],
    index: IndexConfig,
    frozen_neighbours: bool = False,
    mined_side: str | None = None,
    teacher: int = 0,
    prototypes: bool = False,
    mufin: Mufin | None = None,
    select: SelectConfig | None = None,
) -> RunSizes:
    """Return the sizes that a memory plan is computed from.

    Args:
        dataset: the prepared folder.
        model: sizes and kinds of the encoders.
        table: number format and optimizer of the label table.
        mesh: all devices.
        pretrain: number of labels and of datapoints of a step of Module I.
        finetune: the same of Module IV; a number above that of the data set is cut to it.
        optimizers: of Module I and of Module IV.
        index: how labels are searched.
        frozen_neighbours: whether evaluate also indexes the training points.
        mined_side: the side that Module I mines negatives from: "labels", "points" or None.
        teacher: width of the vectors of Module I's teacher; 0 without one.
        prototypes: whether Module IV trains label prototypes.
        mufin: the `abstract_model`, if it is at hand.
        select: the parts of the score; none by default.
    """
    labels, train = dataset.labels, dataset.train
    mufin = mufin or abstract_model(dataset, model, mesh)
    descriptors = _descriptors(labels, model)
    entries = descriptors + len(np.unique(train.pairs.indices))
    steps = [(min(c, len(labels)), min(b, len(train))) for c, b in (pretrain, finetune)]
    label, point = (_item(dataset, side, mufin, optimizers) for side in (labels, train))
    more = (4 * teacher, 0)  # of Module I and of Module IV, an item
    batch = max(
        c * (label + extra) + b * (point + extra) for (c, b), extra in zip(steps, more, strict=True)
    )
    parameters, trained = _parameters(mufin, optimizers)
    points = len(train) if frozen_neighbours and dataset.questions is None else 0
    return RunSizes(
        num_labels=dataset.num_labels,
        dim=model.dim,
        table=table,
        devices=mesh.size,
        local_devices=len(mesh.local_devices),
        parameters=parameters,
        trained=trained,
        descriptors=descriptors,
        entries=entries,
        batch=int(batch),
        prototypes=prototypes,
        taught=(len(train) + len(labels)) * bool(teacher),
        rows=steps[1][0],
        search=index.search_over(entries, model.dim, mesh),
        points=points,
        points_search=index.search_over(points, model.dim, mesh),
        mined={"labels": len(labels), "points": len(train), None: 0}[mined_side],
        score=_score(dataset, select or SelectConfig(), model.dim, index, mesh),
    )


def _score(
    dataset: Dataset, select: SelectConfig, dim: int, index: IndexConfig, mesh: Mesh
) -> ScoreSizes:
    """Return the sizes of the parts of a score; questions are ranked without them."""
    if not select.parts or dataset.questions is not None:
        return ScoreSizes()
    labels, train = dataset.labels, dataset.train
    read = {"t", "tv"} & set(select.parts)
    words = {side.name: _words(side) if read else 0 for side in (labels, train)}
    return ScoreSizes(
        names=select.parts,
        labels=len(labels),
        trained=len(np.unique(train.pairs.indices)),
        points=len(train),
        pairs=train.pairs.nnz,
        words=sum(words.values()),
        label_words=words[labels.name],
        fitted=min(select.points, len(dataset.validation or ())),
        candidates=select.candidates,
        stand_ins=select.part.stand_ins,
        search=index.search_over(len(labels), dim, mesh),
        points_search=index.search_over(len(train), dim, mesh),
    )


def _words(side: Side) -> int:
    """Return how many words the titles of a side have, about."""
    return len(side) + int(np.count_nonzero(side.titles.blob == ord(" ")))


def _descriptors(side: Side, model: ModelConfig) -> int:
    """Return how many descriptors a model computes of all items of a side."""
    if model.modalities == "joint":
        return len(side)
    texts = int((side.text >= 0).sum()) if model.modalities != "images" else 0
    return texts + (len(side.image_rows) if model.modalities != "text" else 0)


def _item(
    dataset: Dataset, side: Side, model: Mufin, optimizers: tuple[OptimizerConfig, ...]
) -> float:
    """Return the mean bytes of an item in a batch: its descriptors, and the slots of its bag."""
    text, image = 8 * dataset.texts.shape[1], 3 * dataset.processing.size**2
    encoder, pixels = model.image_encoder, (1, dataset.processing.size, dataset.processing.size, 3)
    kept = "last" in {optimizer.image_encoder for optimizer in optimizers}
    if kept and not isinstance(encoder, ReadyVectors | None):
        # the output of the blocks before the last one
        below = jax.eval_shape(
            lambda encoder, images: encoder.trunk(images),
            encoder, jax.ShapeDtypeStruct(pixels, np.float32),
        )  # fmt: skip
        image = max(image, below.size * below.dtype.itemsize)
    if dataset.text_vectors is not None:
        text = 4 * dataset.text_vectors.shape[1]
    if dataset.image_vectors is not None:
        image = 4 * dataset.image_vectors.shape[1]
    texts, images = model.text_encoder is not None, model.image_encoder is not None
    # A batch holds a descriptor once, even if several items share it.
    distinct = texts * text * len(np.unique(side.text[side.text >= 0]))
    distinct += images * image * len(np.unique(side.image_rows))
    slots = texts * side.text[:1].size + images * int(np.diff(side.image_offsets).max(initial=0))
    return distinct / max(len(side), 1) + 5 * slots


def _as_named(config: ModelConfig, dataset: Dataset) -> ModelConfig:
    """Return the config with the sizes of the checkpoints that it names."""
    if config.image_checkpoint and dataset.image_vectors is None and config.modalities != "text":
        image = load_config(config.image_checkpoint, "image", **how_computed(config.image))
        config = dataclasses.replace(config, image=image)
    if config.text_checkpoint and dataset.text_vectors is None and config.modalities != "images":
        joint = config.modalities == "joint"
        text = load_config(config.text_checkpoint, "text", joint, **how_computed(config.text))
        config = dataclasses.replace(config, text=text)
    return config


def abstract_model(
    dataset: Dataset, config: ModelConfig, mesh: Mesh, pretrained: Path | None = None
) -> Mufin:
    """Return the model with the shapes of its weights, and no memory behind them.

    Args:
        dataset: the prepared folder.
        config: of the model.
        mesh: the devices.
        pretrained: Module I's folder once it is finished; checkpoints are then not read.
    """
    if pretrained is not None:
        sizes, _ = load_sizes(pretrained / "model")
        config = dataclasses.replace(sizes.config, cross_attention=config.cross_attention)
        sizes = dataclasses.replace(sizes, config=config)
    else:
        sizes = ModelSizes.of(_as_named(config, dataset), dataset)
    return abstract_module(lambda rngs: sizes.build(mesh, rngs))


def _parameters(model: Mufin, optimizers: tuple[OptimizerConfig, ...]) -> tuple[int, int]:
    """Return the number of weights, and the most of them that train in one stage."""
    trained = [
        _count(nnx.split(model, trains(optimizer, model.depths(), cross=bool(stage)), ...)[1])
        for stage, optimizer in enumerate(optimizers)
    ]
    return _count(nnx.state(model)), max(trained)


def _count(state: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))
