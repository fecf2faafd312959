"""An experiment: a dataset and one configuration per stage; `run` takes it through the stages."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mufin_jax.data.preparation.prepare import PrepareConfig
from mufin_jax.data.synthetic.ads import AdsConfig
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.data.synthetic.outfits import OutfitsConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.setting_types import reject_other_types
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import settle_paths
from mufin_jax.stages.evaluate import EvaluateConfig
from mufin_jax.stages.finetune import FinetuneConfig
from mufin_jax.stages.initialize import InitializeConfig
from mufin_jax.stages.pretrain import PretrainConfig
from mufin_jax.stages.report import ReportConfig
from mufin_jax.stages.retrieve import RetrieveConfig
from mufin_jax.stages.select import SelectConfig
from mufin_jax.stages.start import StartConfig
from mufin_jax.training.optimizer import OptimizerConfig

StageName = Literal[
    "prepare",
    "pretrain",
    "retrieve",
    "initialize",
    "finetune",
    "select",
    "evaluate",
    "report",
    "all",
]
"""A stage of the table in `stage_table.py`, or all of them in its order."""

NOT_MEASURED = "not measured"
ABOUT = ("cost", "expected")
"""Fields of an experiment that tell of it and are no options."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A dataset and one configuration per stage."""

    name: str = "experiment"
    """Names the run's default folder, runs/NAME."""
    seed: int = 0
    """Of every random draw; their addresses are in `runtime/draws.py`."""
    data: Path | None = None
    """The raw data folder, in any of the forms of docs/data.md; built-in data without."""
    workdir: Path | None = None
    """The run's folder; runs/NAME by default."""
    refit_of: Path | None = None
    """A finished run with held-out validation points: train on them, too, for the steps that it
    chose, and keep its weights of the parts (docs/recipe.md)."""
    start_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A finished run to start from on new data: its encoders, attention blocks and label table
    (docs/training.md)."""
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
    """How long, and at which rates, a run with --from trains."""
    miniature: Annotated[
        MiniatureConfig | AdsConfig | OutfitsConfig, tyro.conf.AvoidSubcommands
    ] = dataclasses.field(default_factory=MiniatureConfig)
    """The built-in data, made where none are given: a catalogue, ads and queries, or outfits."""
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    """Raw data to the prepared folder."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Sizes and kinds of the encoders and attention blocks."""
    pretrain: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    """Module I."""
    retrieve: RetrieveConfig = dataclasses.field(default_factory=RetrieveConfig)
    """Module II."""
    initialize: InitializeConfig = dataclasses.field(default_factory=InitializeConfig)
    """Module III."""
    finetune: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    """Module IV."""
    predict: PredictConfig = dataclasses.field(default_factory=PredictConfig)
    """How scores are made: measured by evaluate, and served by the predictor of finetune."""
    select: SelectConfig = dataclasses.field(default_factory=SelectConfig)
    """The parts of the score, and their weights."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    """The test set's metrics."""
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)
    """The paper's tables and figures, on a page."""
    cost: Annotated[str, tyro.conf.Suppress] = NOT_MEASURED
    """What a run takes, in words; `--help` prints it."""
    expected: Annotated[str, tyro.conf.Suppress] = NOT_MEASURED
    """The score to expect, in words, with the data that it is of; `--help` prints it."""

    def __post_init__(self) -> None:
        """Reject seeds that numpy and JAX cannot both take, and free vectors that cannot learn."""
        settle_paths(self, fields=["data", "workdir", "refit_of", "start_from"])
        reject_other_types(self)
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed={self.seed}: expected a whole number from 0 to 2147483647")
        if self.initialize.eta == "zero" and self.finetune.classifiers == "table":
            # w depends on eta's direction there, which zero does not have.
            raise InputError(
                "initialize.eta=zero with finetune.classifiers=table: free vectors of zero would "
                "stay zero; choose --finetune.classifiers=sum"
            )
        for stage, config in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if config.modality_dropout and self.model.modalities == "joint":
                raise InputError(
                    f"{stage}.modality_dropout={config.modality_dropout} with "
                    "model.modalities=joint: the model makes one descriptor of a title and its "
                    f"pictures; expected --{stage}.modality-dropout=0"
                )

    def __repr__(self) -> str:
        """Return what a notebook shows; `options` has all settings."""
        data = self.data or f"built-in {type(self.miniature).__name__.removesuffix('Config')}"
        return f"Experiment({self.name!r}, data: {data}, run: {self.folder}, seed {self.seed})"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.workdir or Path("runs") / self.name

    def resolved(self) -> "Experiment":
        """Return the experiment with each "auto" replaced by what it means here."""
        model, data = self.model, self.prepare
        sees_checkpoint = {
            "image_encoder": bool(model.image_checkpoint or data.image_vectors),
            "text_encoder": bool(model.text_checkpoint or data.text_vectors),
        }

        def settle(optimizer: OptimizerConfig) -> OptimizerConfig:
            meant: dict[str, Any] = {
                name: "frozen" if given else "full"
                for name, given in sees_checkpoint.items()
                if getattr(optimizer, name) == "auto"
            }
            return dataclasses.replace(optimizer, **meant)

        pretrain = dataclasses.replace(self.pretrain, optimizer=settle(self.pretrain.optimizer))
        finetune = dataclasses.replace(self.finetune, optimizer=settle(self.finetune.optimizer))
        return dataclasses.replace(self, pretrain=pretrain, finetune=finetune)

    def options(self) -> dict[str, Any]:
        """Return all options, for run.json."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if name not in ABOUT
        }
