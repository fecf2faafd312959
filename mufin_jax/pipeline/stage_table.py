"""The table of all stages, in their order, with the settings that decide what each one writes.

    prepare -> pretrain (I) -> retrieve (II) -> initialize (III) -> finetune (IV)
            -> select -> evaluate -> report

Each stage reads the folders of those before it and writes its own, `<workdir>/<stage>/`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from jax.sharding import Mesh

from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.refit import chosen_steps, chosen_weights, refit_of
from mufin_jax.pipeline.start import start_of, started
from mufin_jax.stages.context import StageContext
from mufin_jax.stages.evaluate import evaluate
from mufin_jax.stages.finetune import finetune
from mufin_jax.stages.initialize import initialize
from mufin_jax.stages.prepare import prepare, with_tokenizer
from mufin_jax.stages.pretrain import pretrain
from mufin_jax.stages.report import report
from mufin_jax.stages.retrieve import retrieve
from mufin_jax.stages.select import select
from mufin_jax.training.follower import Callback

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Stage(Generic[Config]):
    """A stage of an experiment.

    Attributes:
        make: writes the stage's folder.
        config: gives the stage's own settings.
        reads: gives the settings of other parts that decide what the stage writes, under the names
            that they have in the stage's settings.json. What an earlier stage records is left out.
        ignores: fields of `config` that change no result.
        draws: whether the stage records the seed.
        wanted: whether an experiment has this stage.
        needs: the stages whose folders it reads, where the experiment has them.
    """

    make: Callable[[Config, StageContext], None]
    config: Callable[[Experiment], Config]
    reads: Callable[[Experiment], dict[str, Any]] = lambda experiment: {}
    ignores: tuple[str, ...] = ()
    draws: bool = False
    wanted: Callable[[Experiment], bool] = lambda experiment: True
    needs: tuple[str, ...] = ()

    def run(self, experiment: Experiment, context: StageContext) -> None:
        """Run the stage."""
        self.make(self.config(experiment), context)

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """Return the part of the experiment that decides what the stage writes."""
        config: Any = self.config(experiment)
        own = dataclasses.asdict(config)
        for name in self.ignores:
            own.pop(name)
        return own | ({"seed": experiment.seed} if self.draws else {}) | self.reads(experiment)


def _data_and_checkpoints(experiment: Experiment) -> dict[str, Any]:
    """Return what preparation reads; the text checkpoint stands in its `tokenizer`."""
    if experiment.data is not None:
        data: dict[str, Any] = {"data": str(experiment.data.resolve())}
    else:
        data = {"data": None, "miniature": dataclasses.asdict(experiment.miniature)}
    return data | {"image_checkpoint": experiment.model.image_checkpoint}


def _model(experiment: Experiment) -> dict[str, Any]:
    """Return the model's settings but for its cross-attention, which Module III makes."""
    model = dataclasses.asdict(experiment.model)
    model.pop("cross_attention")
    return {"model": model}


def _cross_attention(experiment: Experiment) -> dict[str, Any]:
    return {"cross_attention": experiment.model.cross_attention}


def _scores(experiment: Experiment) -> dict[str, Any]:
    """Return how scores are made; runs without parts record no parts, as in older versions."""
    parts = {"parts": list(experiment.select.parts)} if experiment.select.parts else {}
    return {"predict": dataclasses.asdict(experiment.predict)} | parts


def _has_parts(experiment: Experiment) -> bool:
    """Return whether the score has parts whose weights are fitted."""
    return bool(experiment.select.parts)


STAGES: dict[str, Stage[Any]] = {
    "prepare": Stage(
        prepare, lambda e: with_tokenizer(e.prepare, e.model),
        reads=_data_and_checkpoints, ignores=("beam_runner", "beam_options"),
    ),
    "pretrain": Stage(
        pretrain, lambda e: e.pretrain,
        reads=lambda e: _model(e) | chosen_steps(e, "pretrain") | started(e, "pretrain"),
        ignores=("fit",), draws=True, needs=("prepare",),
    ),
    "retrieve": Stage(retrieve, lambda e: e.retrieve, needs=("prepare", "pretrain")),
    "initialize": Stage(
        initialize, lambda e: e.initialize,
        reads=lambda e: _cross_attention(e) | started(e, "initialize"), draws=True,
        needs=("prepare", "pretrain"),
    ),
    "finetune": Stage(
        finetune, lambda e: e.finetune,
        reads=lambda e: chosen_steps(e, "finetune") | started(e, "finetune"),
        ignores=("fit",), draws=True, needs=("prepare", "retrieve", "initialize"),
    ),
    "select": Stage(
        select, lambda e: e.select, reads=chosen_weights, draws=True, wanted=_has_parts,
        needs=("prepare", "finetune"),
    ),
    "evaluate": Stage(
        evaluate, lambda e: e.evaluate, reads=_scores,
        needs=("prepare", "retrieve", "finetune", "select"),
    ),
    "report": Stage(
        report, lambda e: e.report, reads=_scores,
        needs=("prepare", "retrieve", "finetune", "select", "evaluate"),
    ),
}  # fmt: skip


def stages_of(experiment: Experiment) -> list[str]:
    """Return the names of the stages of an experiment, in their order."""
    return [name for name, stage in STAGES.items() if stage.wanted(experiment)]


def option_of(experiment: Experiment, stage: str, name: str) -> str:
    """Return the option of a setting that a stage records, such as "--pretrain.crop"; "" if none.

    Args:
        experiment: which has the options.
        stage: the stage.
        name: of the setting, nested ones joined by dots.
    """
    for path in (f"{stage}.{name}", name, f"model.{name}", f"select.{name}"):
        value: Any = experiment
        for part in path.split("."):
            value = getattr(value, part, None) if dataclasses.is_dataclass(value) else None
            if value is None:
                break
        else:
            return "--" + path.replace("_", "-")
    return ""


def context(
    experiment: Experiment, stage: str, mesh: Mesh, callbacks: Sequence[Callback] = ()
) -> StageContext:
    """Return what a stage of an experiment is given in addition to its own settings."""
    folders = {name: experiment.folder / name for name in STAGES}
    return StageContext(
        workdir=experiment.folder,
        folders=folders,
        out=folders[stage],
        mesh=mesh,
        seed=experiment.seed,
        model=experiment.model,
        index=experiment.retrieve.index,
        pooled=experiment.retrieve.pooled,
        predict=experiment.predict,
        source=experiment.miniature if experiment.data is None else experiment.data,
        refit=refit_of(experiment),
        callbacks=callbacks,
        start=start_of(experiment),
    )
