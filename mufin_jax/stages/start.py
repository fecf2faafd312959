"""A warm start: a run on new data begins with what another run has learned.

Module I starts at the other run's encoders, reduction maps and A_S, Modules III and IV at its A_C
and at the rows of its label table, by the ids of the labels.
"""

import dataclasses
from pathlib import Path

import numpy as np

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.own_labels import own_labels
from mufin_jax.model.carried_rows import carry_rows
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.label_table import LabelTable
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import ModelSizes, load_model, new_model
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, save_json
from mufin_jax.stages.context import StageContext, Start

_FACTS = "start.json"
"""What Module III tells of the rows that it has carried over."""


def first_model(config: ModelConfig, dataset: Dataset, context: StageContext) -> Mufin:
    """Return the model that Module I starts from: a new one, or that of the run to start from.

    Raises:
        InputError: a checkpoint cannot be used, or the data are prepared in another way than those
            of the run to start from.
    """
    if context.start is None:
        return new_model(config, dataset, context.mesh, context.seed)
    model = load_model(context.start.model, context.mesh)
    _check_sizes(model, ModelSizes.of(model.config, dataset), context.start, dataset)
    return model


def first_table(table: LabelTable, dataset: Dataset, context: StageContext) -> LabelTable:
    """Return the label table that Module IV starts from: with the rows of the run to start from.

    Labels that both runs know keep their rows and what the optimizer remembers of them; other rows
    stay as they are.
    """
    start = context.start
    if start is None or not processes.decide(start.table.is_dir):
        return table
    known = Dataset.load(start.prepared, to_answer=True).labels.ids
    numbers = own_labels(dataset.labels.ids, known)
    table, steps = carry_rows(table, start.table, numbers, context.mesh)
    kept = int(np.count_nonzero(numbers >= 0))
    facts = {
        "steps": steps, "kept": kept, "new": len(numbers) - kept,
        "gone": len(known) - len(np.unique(numbers[numbers >= 0])),
    }  # fmt: skip
    processes.once("rows are carried over", lambda: save_json(context.out / _FACTS, facts))
    return table


def steps_before(initialized: Path) -> int:
    """Return the steps that the optimizer of the label table had made before Module IV."""
    path = initialized / _FACTS
    return load_json(path)["steps"] if processes.decide(path.is_file) else 0


def _check_sizes(model: Mufin, found: ModelSizes, start: Start, dataset: Dataset) -> None:
    """Reject data whose texts or pictures the model cannot read."""
    seen: list[tuple[str, object, object]] = []
    if model.text_encoder is not None:
        seen += [
            ("tokens of the tokenizer", found.vocab, model.vocab),
            ("ready vectors of titles", found.text_vector_width, model.text_vector_width),
        ]
    if model.image_encoder is not None:
        seen.append(("ready vectors of pictures", found.vector_width, model.vector_width))
        if model.vector_width is None:
            seen.append(("pictures", found.processing, model.processing))
    for name, here, there in seen:
        if here != there:
            raise InputError(
                f"{dataset.path}: {name}: found {here}, expected {there}, as {start.run} was "
                "trained on; prepare the data in the same way, by --redo=prepare"
            )


@dataclasses.dataclass(frozen=True)
class StartConfig:
    """How long, and at which rates, a run trains that starts from another one.

    Attributes:
        steps: share of the steps that a run from nothing takes, in Modules I and IV.
        rate: what all learning rates are multiplied by.
    """

    steps: float = 0.3
    rate: float = 1.0

    def __post_init__(self) -> None:
        """Reject shares that train nothing."""
        if not 0 < self.steps <= 1:
            raise InputError(f"start.steps={self.steps}: expected a share above 0, at most 1")
        if not 0 < self.rate < float("inf"):
            raise InputError(f"start.rate={self.rate}: expected a number above 0, such as 0.3")
