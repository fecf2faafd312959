"""The batches of Module I: labels, hard positives of each, and its negatives in the batch.

For each label l of a batch, P_l holds 2 hard positives, drawn by the embeddings of the last
refresh. N_l is chosen in the step, among the datapoints drawn for the other labels of the global
batch.
"""

import dataclasses
from typing import Any, Literal, no_type_check

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import EXPECTED, Loader, SideRows
from mufin_jax.runtime.errors import InputError
from mufin_jax.training import mining
from mufin_jax.training.epoch_batches import EpochBatches, check_counts
from mufin_jax.training.loop import FitConfig
from mufin_jax.training.optimizer import OptimizerConfig

STAGE = 1
"""Address of this stage's random draws, next to the seed and the step."""


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Module I; the defaults are the paper's (Tab. 5, App. D).

    Attributes:
        epochs: passes over the labels that have a training point. With 0 the model keeps its
            initial weights, as ready vectors require.
        batch_size: labels a step.
        positives: |P_l|, datapoints drawn for each label.
        negatives: |N_l|, in-batch negatives of each label.
        hard_negatives: whether these are the most similar ones; otherwise a uniform draw.
        margin: gamma of the hinge.
        hard_limit: largest cosine of a hard positive; 1 draws among all positives.
        refresh_epochs: epochs between two refreshes of the embeddings that positives are mined by.
        batches: labels of a batch drawn uniformly, or as whole clusters of alike labels.
        cluster_size: labels in a cluster, for clustered batches.
        optimizer: rates, and which parts train.
        fit: logs and checkpoints.
    """

    epochs: int = 200
    batch_size: int = 1024
    positives: int = 2
    negatives: int = 3
    hard_negatives: bool = True
    margin: float = 0.2
    hard_limit: float = 0.9
    refresh_epochs: int = 5
    batches: Literal["uniform", "clustered"] = "uniform"
    cluster_size: int = 16
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        """Reject counts below 1 and invalid margins."""
        if self.epochs < 0:
            raise InputError(f"pretrain.epochs={self.epochs}: expected a number >= 0")
        counts = ("positives", "negatives", "refresh_epochs", "cluster_size")
        check_counts("pretrain", self, *counts)
        if self.batch_size < 2:
            raise InputError(
                f"pretrain.batch_size={self.batch_size}: expected at least 2 labels, as a label's "
                "negatives are drawn for the batch's other labels"
            )
        if not 0 < self.margin < 2:
            raise InputError(f"pretrain.margin={self.margin}: expected a number between 0 and 2")


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """c labels, and c * |P_l| datapoints drawn for them (those of a label are neighbours).

    Attributes:
        pool: the distinct descriptors of all of them, or their vectors if these are known.
        labels: their bags.
        points: the datapoints' bags.
        positives: which datapoints were drawn for a label.
        negatives: which datapoints may serve as negatives of a label.
    """

    pool: Pool
    labels: Bags
    points: Bags
    positives: Bool[Any, "c b"]
    negatives: Bool[Any, "c b"]


class Batches(EpochBatches):
    """Makes batch i of Module I; a pure function of (seed, i) and of the last refresh.

    Attributes:
        z: label vectors of the last refresh; None before the first.
        x: datapoint vectors of the last refresh; None before the first.
    """

    stage, fewest, items = STAGE, 2, "labels"

    def __init__(self, config: PretrainConfig, dataset: Dataset, loader: Loader, seed: int):
        self.config = config
        self.z: Float[np.ndarray, "l d"] | None = None
        self.x: Float[np.ndarray, "p d"] | None = None
        relevance, blocked = training_pairs(dataset.train)
        self.points_of, self.related = relevance.T.tocsr(), blocked.T.tocsr()  # labels x datapoints
        usable = np.flatnonzero(np.diff(self.points_of.indptr))
        super().__init__(dataset, loader, seed, usable, config.batch_size)
        expected = (self._shown(*self._draw(step)[:2]) for step in range(EXPECTED))
        self.loader = loader.padded_to(loader.usual_sizes(expected))

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, as numpy arrays."""
        labels, points, real = self._draw(step)
        row = np.arange(len(labels))[:, None]
        own = (np.repeat(row, self.config.positives) == row) & real
        related = self.related[labels][:, points].toarray() != 0
        # A datapoint drawn for two labels is one candidate, not two.
        first = np.zeros(len(points), bool)
        first[np.unique(np.where(real, points, -1), return_index=True)[1]] = True
        pool, (label_bags, point_bags) = self.loader.batch(self._shown(labels, points))
        candidates = ~related & real & first & (row < self.size)
        if not self.config.hard_negatives:
            rng = np.random.default_rng([self.seed, STAGE, step, 1])
            candidates = mining.thinned(candidates, self.config.negatives, rng)
        return Batch(pool, label_bags, point_bags, own, candidates)

    def ids(self, step: int) -> dict[str, list[str]]:
        """Return the ids of the labels and datapoints that the batch of a step is drawn from."""
        labels, points, real = self._draw(step)
        return {
            "labels": self.dataset.labels.ids.at(np.unique(labels)),
            "points": self.dataset.train.ids.at(np.unique(points[real])),
        }

    def _draw(
        self, step: int
    ) -> tuple[Int[np.ndarray, "c"], Int[np.ndarray, "b"], Bool[np.ndarray, "b"]]:
        """Return labels, c * |P_l| points drawn for them, and which of these are real."""
        labels = self._items(step)
        points, real = mining.draw_positives(
            self.points_of, labels, self.config.positives, self._step_draws(step), self.z, self.x,
            self.config.hard_limit,
        )  # fmt: skip
        labels = np.pad(labels, (0, self.spare), mode="edge")
        points = np.pad(points, ((0, self.spare), (0, 0)), mode="edge").reshape(-1)
        return labels, points, np.pad(real, ((0, self.spare), (0, 0))).reshape(-1)

    def _shown(self, labels: Int[np.ndarray, "c"], points: Int[np.ndarray, "b"]) -> list[SideRows]:
        return [(self.dataset.labels, labels), (self.dataset.train, points)]

    def _make_order(self, epoch: int) -> Int[np.ndarray, "k"]:
        if self.config.batches == "clustered" and self.z is not None:
            z = self.z[self.usable]
            order = mining.clustered_order(z, self.config.cluster_size, self._epoch_draws(epoch))
            return self.usable[order]
        return super()._make_order(epoch)
