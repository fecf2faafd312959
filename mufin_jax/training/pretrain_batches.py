"""The batches of Module I: anchors, positives of each, and its negatives in the batch.

In the paper the anchors are labels. For each label l of a batch, P_l holds 2 hard positives, drawn
by the embeddings of the last refresh. N_l is chosen in the step, among the datapoints drawn for the
other labels of the global batch.

Batches over datapoints swap the two sides: labels are drawn for each datapoint. On both kinds, the
batch may get more items to compare with: mined ones, which the last refresh has near an anchor, and
random ones.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import EXPECTED, Loader, SideRows
from mufin_jax.runtime.distributed.padding import spare_rows
from mufin_jax.runtime.draws import Draw, generator
from mufin_jax.training import mining
from mufin_jax.training.epoch_batches import EpochBatches
from mufin_jax.training.own import sampled
from mufin_jax.training.pretrain_config import PretrainConfig
from mufin_jax.training.teacher import Teacher

Search = Callable[[Float[np.ndarray, "e d"], Float[np.ndarray, "q d"], int], Int[np.ndarray, "q w"]]
"""Returns the numbers of the so many entries nearest to each query, best first."""


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Labels and datapoints: the anchors of one side, and the items drawn for them of the other.

    In batches over labels there are c labels, and c * |P_l| datapoints drawn for them (those of a
    label are neighbours), then mined and random ones.

    Attributes:
        pool: the distinct descriptors of all of them, or their vectors if these are known.
        labels: their bags.
        points: the datapoints' bags.
        positives: which of the other side's items are positives of an anchor. For the hinge they
            are those drawn for it, for the softmax all of the batch that are relevant to it.
        negatives: which of the other side's items may serve as negatives of an anchor.
        teacher: the teacher's vectors of the labels and of the points, if there is a teacher. They
            are zero for items without one, and for all but the first place of an item.
    """

    pool: Pool
    labels: Bags
    points: Bags
    positives: Bool[Any, "a o"]
    negatives: Bool[Any, "a o"]
    teacher: tuple[Any, Any] | None = None


class Batches(EpochBatches):
    """Makes batch i of Module I; a pure function of (seed, i) and of the last refresh.

    Attributes:
        over: the side that the anchors are of.
        usable_others: numbers of the other side's items that have a training pair.
        z: label vectors of the last refresh; None before the first.
        x: datapoint vectors of the last refresh; None before the first.
        near: for each usable anchor, places in `usable_others` of the items nearest to it in the
            last refresh, best first; None before the first.
        teacher: of the option `pretrain.teacher`; None without.
    """

    order_draw, batch_draw = Draw.PRETRAIN_ORDER, Draw.PRETRAIN_BATCH
    modalities_draw = Draw.PRETRAIN_MODALITIES
    fewest = 2

    def __init__(
        self,
        config: PretrainConfig,
        dataset: Dataset,
        loader: Loader,
        seed: int,
        teacher: Teacher | None = None,
    ):
        self.config, self.over, self.teacher = config, config.batches_over, teacher
        self.z: Float[np.ndarray, "l d"] | None = None
        self.x: Float[np.ndarray, "p d"] | None = None
        self.near: Int32[np.ndarray, "a w"] | None = None
        relevance, blocked = training_pairs(dataset.train)
        if self.over == "labels":
            relevance, blocked = relevance.T.tocsr(), blocked.T.tocsr()
        self.relevance, self.related = relevance, blocked  # anchors x others
        self.items = "labels" if self.over == "labels" else "datapoints"
        self.usable_others = np.unique(relevance.indices)
        usable = np.flatnonzero(np.diff(relevance.indptr))
        super().__init__(dataset, loader, seed, usable, config.batch_size, config.modality_dropout)
        expected = (self._shown(*self._draw(step)[:2]) for step in range(EXPECTED))
        self.loader = loader.padded_to(loader.usual_sizes(expected))

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, as numpy arrays."""
        anchors, others, real = self._draw(step)
        row = np.arange(len(anchors))[:, None]
        related = self.related[anchors][:, others].toarray() != 0
        # An item drawn for two anchors is one candidate, not two.
        first = np.zeros(len(others), bool)
        first[np.unique(np.where(real, others, -1), return_index=True)[1]] = True
        pool, (labels, points) = self._read(step, self._shown(anchors, others))
        counted = real & first & (row < self.size)
        negatives = ~related & counted
        taught = self._taught((anchors, row[:, 0] < self.size), (others, real & first))
        if self.config.loss == "softmax":
            relevant = self.relevance[anchors][:, others].toarray() != 0
            return Batch(pool, labels, points, relevant & counted, negatives, taught)
        drawn_for = np.full(len(others), -1)
        drawn_for[: len(anchors) * self.config.positives] = np.repeat(row, self.config.positives)
        if not self.config.hard_negatives:
            rng = generator(self.seed, Draw.PRETRAIN_NEGATIVES, step)
            negatives = mining.thinned(negatives, self.config.negatives, rng)
        return Batch(pool, labels, points, (drawn_for == row) & real, negatives, taught)

    def ids(self, step: int) -> dict[str, list[str]]:
        """Return the ids of the labels and datapoints that the batch of a step is drawn from."""
        anchors, others, real = self._draw(step)
        (_, labels), (_, points) = self._shown(np.unique(anchors), np.unique(others[real]))
        return {
            "labels": self.dataset.labels.ids.at(labels),
            "points": self.dataset.train.ids.at(points),
        }

    def refresh(
        self, z: Float[np.ndarray, "l d"], x: Float[np.ndarray, "p d"], search: Search
    ) -> None:
        """Draw by these vectors from now on.

        Args:
            z: of all labels.
            x: of all training points.
            search: finds what lies near an anchor, if negatives are mined.
        """
        self.z, self.x = z, x
        if self.config.mined_negatives:
            own, other = (z, x) if self.over == "labels" else (x, z)
            # Some of the nearest are related to the anchor, and left out when it is drawn.
            count = min(2 * mining.NEAR * self.config.mined_negatives, len(self.usable_others))
            found = search(other[self.usable_others], own[self.usable], count)
            self.near = found.astype(np.int32)

    def plateau(self) -> float | None:
        """Return the loss of a batch when all similarities are equal, about; None if unknown."""
        config = self.config
        if config.own_loss is not None:
            return None
        labels, points = config.shapes(self.size)
        negatives = max(labels, points) - config.positives
        if config.loss == "softmax":
            return float(np.log1p(negatives))
        return config.margin * config.positives * min(config.negatives, negatives)

    def _taught(
        self, *sides: tuple[Int[np.ndarray, "_"], Bool[np.ndarray, "_"]]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the teacher's vectors of a batch's labels and points.

        Args:
            sides: of the anchors and of the others, their numbers, and which of them count.
        """
        if self.teacher is None:
            return None
        labels, points = sides if self.over == "labels" else sides[::-1]
        return self.teacher.of("label", *labels), self.teacher.of("train", *points)

    def _draw(
        self, step: int
    ) -> tuple[Int[np.ndarray, "a"], Int[np.ndarray, "o"], Bool[np.ndarray, "o"]]:
        """Return anchors, the others drawn for them, and which of these are real.

        The first a * |P| others are positives of the anchors in turn; mined ones follow in the same
        order, then random ones.
        """
        anchors, rng = self._items(step), self._step_draws(step)
        own, other = (self.z, self.x) if self.over == "labels" else (self.x, self.z)
        config = self.config
        drawn = [
            mining.draw_positives(
                self.relevance, anchors, config.positives, rng, own, other, config.hard_limit
            )
        ]
        if config.mined_negatives:
            drawn.append(self._draw_mined(anchors, rng))
        pad = ((0, self.spare), (0, 0))
        others = [np.pad(some, pad, mode="edge").reshape(-1) for some, _ in drawn]
        real = [np.pad(some, pad).reshape(-1) for _, some in drawn]
        if count := config.random_others:
            some = mining.draw(self.usable_others, count, rng)
            fill = count - len(some) + spare_rows(count, self.loader.mesh_size)
            others.append(np.pad(some, (0, fill), mode="edge"))
            real.append(np.arange(len(some) + fill) < len(some))
        anchors = np.pad(anchors, (0, self.spare), mode="edge")
        return anchors, np.concatenate(others), np.concatenate(real)

    def _draw_mined(
        self, anchors: Int[np.ndarray, "a"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "a m"], Bool[np.ndarray, "a m"]]:
        """Return others that the last refresh has near the anchors; random ones before the first.

        SideRows related to an anchor are no negatives of it: they are left out.
        """
        count = self.config.mined_negatives
        chosen = np.full((len(anchors), count), self.usable_others[0])
        real = np.zeros(chosen.shape, bool)
        for place, anchor in enumerate(anchors):
            if self.near is None:
                some = rng.choice(self.usable_others, count)
            else:
                near = self.usable_others[self.near[np.searchsorted(self.usable, anchor)]]
                near = near[~np.isin(near, mining.row(self.related, anchor))]
                some = mining.draw(near[: mining.NEAR * count], count, rng)
            chosen[place, : len(some)], real[place, : len(some)] = some, True
        return chosen, real

    def _shown(self, anchors: Int[np.ndarray, "a"], others: Int[np.ndarray, "o"]) -> list[SideRows]:
        labels, points = (anchors, others) if self.over == "labels" else (others, anchors)
        return [(self.dataset.labels, labels), (self.dataset.train, points)]

    def _make_order(self, epoch: int) -> Int[np.ndarray, "k"]:
        vectors = self.z if self.over == "labels" else self.x
        if self.config.own_sampler is not None:
            shown = None if vectors is None else vectors[self.usable]
            return sampled(self.config.own_sampler, self.usable, shown, self._epoch_draws(epoch))
        if self.config.batches == "clustered" and vectors is not None:
            order = mining.clustered_order(
                vectors[self.usable], self.config.cluster_size, self._epoch_draws(epoch)
            )
            return self.usable[order]
        return super()._make_order(epoch)
