"""What every stage is given in addition to its own settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.synthetic.builtin import BuiltIn
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.training.epoch_batches import EpochBatches
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.follower import Callback
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class Refit:
    """What a refit on all training points takes from the run that held some out.

    Attributes:
        steps: after which a training stage ends, by its name; None after all.
        selected: the folder of the run's stage select.
    """

    steps: Mapping[str, int | None]
    selected: Path


@dataclasses.dataclass(frozen=True)
class Start:
    """What a warm start takes from another run, and how it trains from there.

    Attributes:
        run: the other run's folder.
        steps: share of the steps of Modules I and IV.
        rate: what their learning rates are multiplied by.
    """

    run: Path
    steps: float
    rate: float

    @property
    def model(self) -> Path:
        """The folder of the model that Module IV left."""
        return self.run / "finetune" / "model"

    @property
    def table(self) -> Path:
        """The folder of the label table; absent if classifiers are the labels' embeddings."""
        return self.run / "finetune" / "table"

    @property
    def prepared(self) -> Path:
        """The folder of the prepared data, which has the labels' ids and the tokenizer."""
        return self.run / "prepare"


@dataclasses.dataclass(frozen=True)
class StageContext:
    """Where a stage reads and writes, and the settings of other parts that it reads.

    The fields after `seed` are settings of the whole experiment or of another stage. A stage reads
    them here and nowhere else. `pipeline.stage_table` shows which stage records which of them.

    Attributes:
        workdir: the run's folder.
        folders: the folder of every stage, by name; a stage reads those of the stages before it.
        out: the folder that the stage writes.
        mesh: all devices.
        seed: of every random draw.
        model: kinds and sizes of the encoders and attention blocks. Read by prepare (the
            checkpoints decide the tokenizer and the size of a picture), pretrain, initialize and
            evaluate (the untrained model).
        index: how the index searches, `retrieve.index`. Read by finetune, select and evaluate.
        pooled: one vector a label in the index, `retrieve.pooled`. Read by finetune.
        predict: how scores are made. Read by evaluate and report. Finetune notes it for those who
            load its predictor before evaluate has recorded what it measured with.
        source: the raw data folder, or built-in data. Read by prepare and report.
        refit: for a refit on all training points, what was chosen before.
        callbacks: called while training stages run.
        start: for a warm start, the run to start from.
    """

    workdir: Path
    folders: Mapping[str, Path]
    out: Path
    mesh: Mesh
    seed: int = 0
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    pooled: bool = False
    predict: PredictConfig = dataclasses.field(default_factory=PredictConfig)
    source: Path | BuiltIn = dataclasses.field(default_factory=MiniatureConfig)
    refit: Refit | None = None
    callbacks: Sequence[Callback] = ()
    start: Start | None = None

    def dataset(self) -> Dataset:
        """Load the prepared data, with validation points held out unless it is a refit."""
        return Dataset.load(self.prepared, hold_out=self.refit is None)

    def steps(self, stage: str, steps: int) -> int:
        """Return after how many of the steps of a stage it ends."""
        chosen = self.refit.steps[stage] if self.refit is not None else None
        return steps if chosen is None else min(chosen, steps)

    def lengths(
        self, config: PretrainConfig | FinetuneConfig, batches: EpochBatches
    ) -> tuple[int, ...]:
        """Return the steps of a training, and of each one that is added to it (`more_epochs`)."""
        first = batches.steps(config.epochs, config.least_steps)
        if self.start is not None:
            first = max(round(self.start.steps * first), 1)
        return (first, *(more * batches.per_epoch for more in config.more_epochs))

    def rates(self, optimizer: OptimizerConfig) -> OptimizerConfig:
        """Return the optimizer of a stage with the rates that it trains at."""
        return optimizer if self.start is None else optimizer.scaled(self.start.rate)

    @property
    def prepared(self) -> Path:
        """The folder of the prepared data."""
        return self.folders["prepare"]

    @property
    def kept(self) -> Path:
        """The folder where stages keep what frozen parts of the encoders compute."""
        return self.workdir / "precomputed"

    @property
    def invented(self) -> Path:
        """The folder of the built-in raw data."""
        return self.workdir / "miniature"
