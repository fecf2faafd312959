"""The settings of Module I; the defaults are the paper's (Tab. 5, App. D)."""

import dataclasses
from typing import Annotated, Literal

import tyro

from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import settle_paths
from mufin_jax.training.early_stopping import ValidateConfig
from mufin_jax.training.epoch_batches import check_counts, check_more
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.modality_dropout import check_probability
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.own import check_own_loss
from mufin_jax.training.temperature import LOWEST


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Module I; the defaults are the paper's (Tab. 5, App. D).

    Attributes:
        epochs: passes over the labels (or datapoints) that have a training pair. With 0 the model
            keeps its initial weights, as ready vectors require.
        least_steps: steps at least; a small catalogue is passed over more often.
        more_epochs: passes that are added to the finished training; several numbers for several
            additions. Each starts from the last state, with the rate's rise and fall anew.
        batch_size: labels a step, or datapoints in batches over datapoints.
        positives: |P_l|, datapoints drawn for each label (or labels drawn for each datapoint).
        loss: the paper's hinge, or softmax: the contrastive loss (InfoNCE) over all negatives of
            the batch, in which all relevant pairs of the batch are positives.
        negatives: |N_l|, in-batch negatives of each label; of the hinge.
        hard_negatives: whether these are the most similar ones; otherwise a uniform draw.
        margin: gamma of the hinge.
        temperature: of the softmax; cosines are divided by it.
        learn_temperature: whether the temperature is learned, from `temperature` on.
        both_ways: whether the softmax also takes the other side's items as anchors; the loss is the
            mean of both directions.
        hard_limit: largest cosine of a hard positive; 1 draws among all positives.
        refresh_epochs: epochs between two refreshes of the embeddings that positives and mined
            negatives are drawn by.
        batches: a batch's labels (or datapoints) drawn uniformly, or as whole clusters of alike
            ones.
        batches_over: the side that a batch is drawn over; the other side's items are drawn for it.
        mined_negatives: further items drawn for each label (or datapoint): some of those nearest to
            it in the last refresh that are not related to it. Random ones before the first refresh.
        random_others: further items of the other side in each batch, drawn uniformly.
        cluster_size: labels (or datapoints) in a cluster, for clustered batches.
        modality_dropout: probability that an item of a batch loses all its pictures, or all its
            texts; an item with one modality keeps it.
        crop: a step shows random crops of its pictures, half of them mirrored; a crop leaves out
            this share of the height and width at most. 0 shows pictures as they are.
        dropout: share of the entries of the encoders' vectors that a step sets to zero, before they
            are reduced to D.
        teacher: ready vectors by item id (docs/data.md) whose relations the student's vectors take
            over: a folder, or one npy file with its ids next to it.
        teacher_weight: what the teacher's loss is multiplied by before it is added.
        own_loss: name of a user's own loss instead of the softmax; `fit` gives it.
        own_sampler: name of a user's own order of the items of an epoch; `fit` gives it.
        optimizer: rates, and which parts train.
        validate: when the model is validated, and when training ends early.
        fit: logs and checkpoints.
    """

    epochs: int = 200
    least_steps: int = 0
    more_epochs: tuple[int, ...] = ()
    batch_size: int = 1024
    positives: int = 2
    loss: Literal["hinge", "softmax"] = "hinge"
    negatives: int = 3
    hard_negatives: bool = True
    margin: float = 0.2
    temperature: float = 0.07
    learn_temperature: bool = False
    both_ways: bool = True
    hard_limit: float = 0.9
    refresh_epochs: int = 5
    batches: Literal["uniform", "clustered"] = "uniform"
    batches_over: Literal["labels", "points"] = "labels"
    mined_negatives: int = 0
    random_others: int = 0
    cluster_size: int = 16
    modality_dropout: float = 0.0
    crop: float = 0.0
    dropout: float = 0.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    own_loss: Annotated[str | None, tyro.conf.Suppress] = None
    own_sampler: Annotated[str | None, tyro.conf.Suppress] = None
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    validate: ValidateConfig = dataclasses.field(default_factory=ValidateConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        """Reject counts below 1, invalid margins and options that the loss does not have."""
        settle_paths(self, "pretrain.", names=True, fields=["teacher"])
        for name in ("epochs", "least_steps", "mined_negatives", "random_others"):
            if (found := getattr(self, name)) < 0:
                raise InputError(f"pretrain.{name}={found}: expected a number >= 0")
        counts = ("positives", "negatives", "refresh_epochs", "cluster_size")
        check_counts("pretrain", self, *counts)
        check_more("pretrain", self.more_epochs)
        if self.batch_size < 2:
            raise InputError(
                f"pretrain.batch_size={self.batch_size}: expected at least 2 labels, as a label's "
                "negatives are drawn for the batch's other labels"
            )
        check_probability("pretrain", self.modality_dropout)
        if not 0 < self.margin < 2:
            raise InputError(f"pretrain.margin={self.margin}: expected a number between 0 and 2")
        for name in ("dropout", "crop"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise InputError(f"pretrain.{name}={share}: expected a share from 0 to below 1")
        if not 0.001 <= self.temperature <= 10:
            raise InputError(
                f"pretrain.temperature={self.temperature}: expected a number from 0.001 to 10"
            )
        check_own_loss("pretrain", self.own_loss, self.loss)
        if self.own_loss is not None and self.learn_temperature:
            raise InputError(
                "pretrain.learn_temperature with a loss of one's own: only the softmax has a "
                "temperature; leave one of the two out"
            )
        if self.learn_temperature and self.loss != "softmax":
            raise InputError(
                f"pretrain.learn_temperature with pretrain.loss={self.loss}: the hinge has no "
                "temperature; choose --pretrain.loss=softmax"
            )
        if self.learn_temperature and self.temperature <= LOWEST:
            raise InputError(
                f"pretrain.temperature={self.temperature} with pretrain.learn_temperature: a "
                f"learned temperature stays above {LOWEST}; expected a larger one to start from"
            )

        if self.teacher_weight <= 0:
            raise InputError(
                f"pretrain.teacher_weight={self.teacher_weight}: expected a number above 0"
            )
        if self.teacher is not None and not self.epochs:
            raise InputError(
                f"pretrain.teacher={self.teacher} with pretrain.epochs=0: nothing trains; leave "
                "one of the two out"
            )

    @property
    def mines(self) -> bool:
        """Whether batches depend on the embeddings of the last refresh."""
        ordered = self.batches == "clustered" or self.own_sampler is not None
        return self.hard_limit < 1 or ordered or self.mined_negatives > 0

    @property
    def mined_side(self) -> str | None:
        """The side whose items are mined as negatives: "labels", "points", or None."""
        if not self.mined_negatives:
            return None
        return "points" if self.batches_over == "labels" else "labels"

    def shapes(self, anchors: int) -> tuple[int, int]:
        """Return the labels and the datapoints of a step with so many anchors."""
        others = anchors * (self.positives + self.mined_negatives) + self.random_others
        return (anchors, others) if self.batches_over == "labels" else (others, anchors)
