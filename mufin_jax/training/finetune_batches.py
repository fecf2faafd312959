"""The batches of Module IV: datapoints, random positives of each, and hard negatives from R_i.

Each distinct label that a batch names is encoded once, and its row of the label table is gathered,
differentiated and updated once.
"""

import dataclasses
from typing import Annotated, Any, Literal, no_type_check

import jax
import numpy as np
import tyro
from jaxtyping import Bool, Int, Int32

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import EXPECTED, Loader, SideRows
from mufin_jax.model.label_table import padded_rows
from mufin_jax.runtime.distributed.padding import padded_size, usual_size
from mufin_jax.runtime.draws import Draw
from mufin_jax.runtime.errors import InputError
from mufin_jax.training import mining
from mufin_jax.training.early_stopping import ValidateConfig
from mufin_jax.training.epoch_batches import EpochBatches, check_counts, check_more
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.modality_dropout import check_probability
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.own import check_own_loss

PAPER_DEPTH = 100
"""Places of a shortlist that the paper draws negatives from: all of them."""


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Module IV; the defaults are the paper's (Tab. 5, App. D).

    Attributes:
        epochs: passes over the training points.
        least_steps: steps at least; a small catalogue is passed over more often.
        more_epochs: passes that are added to the finished training; several numbers for several
            additions. Each starts from the last state, with the rate's rise and fall anew.
        batch_size: datapoints a step.
        positives: relevant labels drawn for each datapoint.
        negatives: labels drawn for each datapoint from its shortlist.
        negatives_from: places of the shortlist, without its relevant labels, that negatives are
            drawn from. The paper's 100 places are 0.03% of its labels. In a small catalogue they
            hold many labels that are not hard.
        loss: the paper's cosine embedding loss, or softmax: positives against the labels drawn from
            the shortlist, and against the batch's other labels, those drawn for other datapoints.
        margin: gamma of the cosine embedding loss.
        temperature: of the softmax; scores are divided by it.
        drop_best: never draw the best-scored negative of a shortlist (the authors' code).
        modality_dropout: probability that an item of a batch loses all its pictures, or all its
            texts; an item with one modality keeps it.
        classifiers: "table"; "labels" for w = z without a table (the paper's alpha = 1), for labels
            never seen in training, where labels without a training point are never negatives; "sum"
            for w = unit(z + eta) (SiameseXML).
        prototypes: for classifiers "sum", z goes through a block that also reads the label's
            centroid (`prototypes.py`); what makes x1 must be frozen.
        own_loss: name of a user's own loss instead of the softmax; `fit` gives it.
        optimizer: rates, and which parts train.
        validate: when the model is validated, and when training ends early.
        fit: logs and checkpoints.
    """

    epochs: int = 20
    least_steps: int = 0
    more_epochs: tuple[int, ...] = ()
    batch_size: int = 200
    positives: int = 2
    negatives: int = 12
    negatives_from: int = PAPER_DEPTH
    loss: Literal["cosine", "softmax"] = "cosine"
    margin: float = 0.5
    temperature: float = 0.07
    drop_best: bool = False
    modality_dropout: float = 0.0
    classifiers: Literal["table", "labels", "sum"] = "table"
    prototypes: bool = False
    own_loss: Annotated[str | None, tyro.conf.Suppress] = None
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(rate=5e-5)
    )
    validate: ValidateConfig = dataclasses.field(default_factory=ValidateConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        """Reject counts below 1 and invalid margins."""
        counts = ("epochs", "batch_size", "positives", "negatives", "negatives_from")
        check_counts("finetune", self, *counts)
        check_own_loss("finetune", self.own_loss, self.loss)
        check_more("finetune", self.more_epochs)
        if self.prototypes and self.classifiers != "sum":
            raise InputError(
                f"finetune.prototypes with finetune.classifiers={self.classifiers}: expected "
                "--finetune.classifiers=sum"
            )
        if self.least_steps < 0:
            raise InputError(f"finetune.least_steps={self.least_steps}: expected a number >= 0")
        check_probability("finetune", self.modality_dropout)
        if not -1 < self.margin < 1:
            raise InputError(f"finetune.margin={self.margin}: expected a cosine between -1 and 1")
        if not 0.001 <= self.temperature <= 10:
            raise InputError(
                f"finetune.temperature={self.temperature}: expected a number from 0.001 to 10"
            )


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """b datapoints and the u distinct labels drawn for them.

    Attributes:
        pool: the distinct descriptors of all of them, or their vectors if these are known.
        points: the datapoints' bags.
        labels: the labels' bags.
        ids: distinct label ids; pads lie beyond the table.
        chosen: rows of `ids` drawn for each datapoint.
        positives: which of these are relevant to it.
        negatives: which of these were drawn from its shortlist.
        others: which of the u labels were drawn for other datapoints alone and are not related to
            it: further negatives of the softmax; None for the cosine loss.
    """

    pool: Pool
    points: Bags
    labels: Bags
    ids: Int[Any, "u"]
    chosen: Int[Any, "b c"]
    positives: Bool[Any, "b c"]
    negatives: Bool[Any, "b c"]
    others: Bool[Any, "b u"] | None = None


def check_depth(config: FinetuneConfig, places: int, num_labels: int) -> None:
    """Reject negatives from more places than the shortlists have.

    The default, the paper's whole shortlist, stands for all places of a shorter one. So does any
    number where the shortlists hold all labels.

    Args:
        config: asks for so many places.
        places: the length of a shortlist.
        num_labels: the labels that exist.

    Raises:
        InputError: if negatives would silently come from fewer places than the settings say.
    """
    if config.negatives_from > max(places, PAPER_DEPTH) and places < num_labels:
        raise InputError(
            f"finetune.negatives_from={config.negatives_from}: the shortlists have {places} "
            f"places; use --retrieve.shortlist={config.negatives_from}, or "
            f"--finetune.negatives-from={max(places, PAPER_DEPTH)}"
        )


class Batches(EpochBatches):
    """Makes batch i of Module IV; a pure function of (seed, i)."""

    order_draw, batch_draw = Draw.FINETUNE_ORDER, Draw.FINETUNE_BATCH
    modalities_draw = Draw.FINETUNE_MODALITIES
    fewest, items = 1, "datapoints"

    def __init__(
        self,
        config: FinetuneConfig,
        dataset: Dataset,
        loader: Loader,
        shortlists: Int32[np.ndarray, "n k"],
        seed: int,
    ):
        check_depth(config, shortlists.shape[1], dataset.num_labels)
        self.config, self.shortlists = config, shortlists
        self.relevance, self.blocked = training_pairs(dataset.train)
        self.unseen: np.ndarray | None = None
        if config.classifiers == "labels":
            self.unseen = np.ones(dataset.num_labels, bool)
            self.unseen[self.relevance.indices] = False
        self.table_size = padded_rows(dataset.num_labels)
        usable = np.flatnonzero(np.diff(self.relevance.indptr))
        super().__init__(dataset, loader, seed, usable, config.batch_size, config.modality_dropout)
        first = [self._draw(step) for step in range(EXPECTED)]
        labels = [np.unique(drawn[drawn >= 0]) for _, drawn in first]
        self.usual_labels = usual_size([len(some) for some in labels], loader.mesh_size)
        expected = (
            self._shown(points, some) for (points, _), some in zip(first, labels, strict=True)
        )
        self.loader = loader.padded_to(loader.usual_sizes(expected))

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, as numpy arrays."""
        points, drawn = self._draw(step)
        real = drawn >= 0
        labels = np.unique(drawn[real])
        chosen = np.where(real, np.searchsorted(labels, drawn), 0)
        ids, rows = pad_labels(labels, self.table_size, self.loader.mesh_size, self.usual_labels)
        pool, (point_bags, label_bags) = self._read(step, self._shown(points, rows))
        first = np.arange(real.shape[1]) < self.config.positives
        others = None
        if self.config.loss == "softmax":
            others = np.zeros((len(points), len(ids)), bool)
            others[:, : len(labels)] = self._others(points, drawn, labels)
        return Batch(
            pool, point_bags, label_bags, ids, chosen.astype(np.int32), real & first, real & ~first,
            others,
        )  # fmt: skip

    def ids(self, step: int) -> dict[str, list[str]]:
        """Return the ids of the datapoints and labels that the batch of a step is drawn from."""
        points, drawn = self._draw(step)
        return {
            "points": self.dataset.train.ids.at(np.unique(points)),
            "labels": self.dataset.labels.ids.at(np.unique(drawn[drawn >= 0])),
        }

    def _draw(self, step: int) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b c"]]:
        """Return points, and the labels drawn for each: positives, then negatives, -1 for none."""
        config, points, rng = self.config, self._items(step), self._step_draws(step)
        shape = (self.size + self.spare, config.positives + config.negatives)
        drawn = np.full(shape, -1, np.int64)
        for row, point in enumerate(points):
            likes = mining.draw(mining.row(self.relevance, point), config.positives, rng)
            listed, blocked = self.shortlists[point], mining.row(self.blocked, point)
            if self.unseen is not None:
                listed = listed[(listed < 0) | ~self.unseen[listed]]
            others = mining.candidates(listed, blocked, config.drop_best)
            others = mining.draw(others[: config.negatives_from], config.negatives, rng)
            drawn[row, : len(likes)] = likes
            drawn[row, config.positives : config.positives + len(others)] = others
        return np.pad(points, (0, self.spare), mode="edge"), drawn

    def _others(
        self,
        points: Int[np.ndarray, "b"],
        drawn: Int[np.ndarray, "b c"],
        labels: Int[np.ndarray, "k"],
    ) -> Bool[np.ndarray, "b k"]:
        """Return which labels of a batch are neither related to a datapoint nor drawn for it."""
        others = self.blocked[points][:, labels].toarray() == 0
        rows, places = np.nonzero(drawn >= 0)
        others[rows, np.searchsorted(labels, drawn[rows, places])] = False
        others[self.size :] = False
        return others

    def _shown(self, points: Int[np.ndarray, "b"], labels: Int[np.ndarray, "u"]) -> list[SideRows]:
        return [(self.dataset.train, points), (self.dataset.labels, labels)]


def pad_labels(
    labels: Int[np.ndarray, "c"], table_size: int, mesh_size: int = 1, usual: int = 0
) -> tuple[Int32[np.ndarray, "u"], Int[np.ndarray, "u"]]:
    """Pad the distinct labels of a batch to the usual size or to a bucket.

    Args:
        labels: ascending.
        table_size: rows of the label table.
        mesh_size: number of devices that the labels are split over.
        usual: labels of most batches.

    Returns:
        Ids of rows of the table, whose pads lie beyond it; and labels to show, whose pads repeat
        the first.
    """
    pads = np.arange(padded_size(len(labels), mesh_size, usual) - len(labels))
    ids = np.concatenate([labels, table_size + pads]).astype(np.int32)
    return ids, np.concatenate([labels, np.full(len(pads), labels[0])])
