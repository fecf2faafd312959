"""Module I of the paper: Siamese pre-training of the encoders and of A_S.

A batch is drawn over labels. For each label l, P_l holds 2 hard positives, N_l the 3 most similar
datapoints drawn for other labels of the global batch; the loss is the hinge of `losses.hinge_loss`.

Reads: a prepared folder. Writes: `model/` (all weights), `refresh-<step>/` (`z.npy`, float32
(L, D), and `x.npy`, float32 (N, D), by which positives are mined), `checkpoints/`, `metrics.jsonl`,
TensorBoard events; `vectors.npy` (float32 (p, D), the descriptor vectors) where no encoder trains.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import EXPECTED, Items, Loader
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import new_model, save_model
from mufin_jax.runtime.distributed.mesh import by_row, put, replicated
from mufin_jax.runtime.distributed.padding import spare_rows
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages.context import StageContext
from mufin_jax.training import losses, mining
from mufin_jax.training.frozen_features import precompute
from mufin_jax.training.loop import FitConfig, fit
from mufin_jax.training.nonfinite import gradient_norm, kept_unless_finite
from mufin_jax.training.optimizer import OptimizerConfig, by_part, check_trains, describes, trains
from mufin_jax.training.refresh import Refreshes

STAGE = 1
"""Address of this stage's random draws, beside the seed and the step."""


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Module I; the defaults are the paper's (Tab. 5, App. D).

    Attributes:
        epochs: passes over the labels that have a training point; 0 leaves the model as it begins,
            which is what ready vectors want.
        batch_size: labels a step.
        positives: |P_l|, datapoints drawn for each label.
        negatives: |N_l|, in-batch negatives of each label.
        hard_negatives: whether these are the most similar ones; else a uniform draw.
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
        """Reject counts below 1 and a margin that is none."""
        if self.epochs < 0:
            raise InputError(f"pretrain.epochs={self.epochs}: expected a number >= 0")
        for name in ("positives", "negatives", "refresh_epochs", "cluster_size"):
            if getattr(self, name) < 1:
                raise InputError(f"pretrain.{name}={getattr(self, name)}: expected a number >= 1")
        if self.batch_size < 2:
            raise InputError(
                f"pretrain.batch_size={self.batch_size}: expected at least 2 labels, as a label's "
                "negatives are drawn for the batch's other labels"
            )
        if not 0 < self.margin < 2:
            raise InputError(f"pretrain.margin={self.margin}: expected a number between 0 and 2")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """c labels, and c * |P_l| datapoints drawn for them (those of a label are neighbours)."""

    pool: Pool | Any  # or Float (p, d): the descriptor vectors, where they are known
    labels: Bags
    points: Bags
    positives: Any  # Bool (c, b): drawn for this label
    negatives: Any  # Bool (c, b): may serve as its negative


class Batches:
    """Makes batch i of Module I; a pure function of (seed, i) and of the last refresh."""

    def __init__(self, config: PretrainConfig, dataset: Dataset, loader: Loader, seed: int):
        self.config, self.dataset, self.loader, self.seed = config, dataset, loader, seed
        relevance, blocked = training_pairs(dataset.train)
        self.points_of, self.related = relevance.T.tocsr(), blocked.T.tocsr()  # labels x datapoints
        self.usable = np.flatnonzero(np.diff(self.points_of.indptr))
        self.size = min(config.batch_size, len(self.usable))
        self.spare = spare_rows(self.size, loader.mesh_size)
        if self.size < 2:
            raise InputError(
                f"{dataset.path}: {self.size} label has a training point, and a batch wants at "
                "least 2; bring more data"
            )
        self.per_epoch = -(-len(self.usable) // self.size)
        self.z: np.ndarray | None = None
        self.x: np.ndarray | None = None
        self._order = functools.lru_cache(2)(self._make_order)
        loader.expect(self._shown(*self._draw(step)[:2]) for step in range(EXPECTED))

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
        """What the batch of a step is drawn from, by the ids that the data give it."""
        labels, points, real = self._draw(step)
        return {
            "labels": self.dataset.labels.ids.at(np.unique(labels)),
            "points": self.dataset.train.ids.at(np.unique(points[real])),
        }

    def _draw(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (c,), and points (c * |P_l|,) drawn for them, with those that are real."""
        config = self.config
        epoch, index = divmod(step, self.per_epoch)
        labels = np.take(self._order(epoch), index * self.size + np.arange(self.size), mode="wrap")
        rng = np.random.default_rng([self.seed, STAGE, step])
        points, real = mining.draw_positives(
            self.points_of, labels, config.positives, rng, self.z, self.x, config.hard_limit
        )
        labels = np.pad(labels, (0, self.spare), mode="edge")
        points = np.pad(points, ((0, self.spare), (0, 0)), mode="edge").reshape(-1)
        return labels, points, np.pad(real, ((0, self.spare), (0, 0))).reshape(-1)

    def _shown(self, labels: np.ndarray, points: np.ndarray) -> list[Items]:
        return [(self.dataset.labels, labels), (self.dataset.train, points)]

    def _make_order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, STAGE, epoch, 0])
        if self.config.batches == "clustered" and self.z is not None:
            z = self.z[self.usable]
            return self.usable[mining.clustered_order(z, self.config.cluster_size, rng)]
        return rng.permutation(self.usable)


def pretrain(config: PretrainConfig, context: StageContext) -> None:
    """Module I: train the encoders and A_S, and write the model.

    What frozen parts of the encoders make is computed once, to the folder `kept`.

    Raises:
        InputError: if the data cannot fill a batch.
        Stopped: after a signal; the same call resumes.
    """
    dataset, model_config, out = Dataset.open(context.prepared), context.model, context.out
    mesh, seed, kept = context.mesh, context.seed, context.kept
    if not config.epochs:
        save_model(new_model(model_config, dataset, mesh, seed), out / "model")
        return
    loader = Loader(dataset, model_config.modalities, mesh, model_config.label_images)
    batches = Batches(config, dataset, loader, seed)
    steps = config.epochs * batches.per_epoch
    model = new_model(model_config, dataset, mesh, seed)
    graphdef, train, frozen = nnx.split(
        model, trains(config.optimizer, model.depths(), cross=False), ...
    )
    train, frozen = nnx.to_pure_dict(train), nnx.to_pure_dict(frozen)
    check_trains(train, "pretrain")
    if not describes(train):
        loader.vectors = describe_once(model, loader, out / "vectors.npy")
    else:
        decisions = out / "precomputed.json"
        precompute(model, loader, config.optimizer, kept, decisions, config.fit.cache_gb)
    optimizer = by_part(config.optimizer, steps)
    step = make_step(config, graphdef, optimizer)

    def refresh(at: int, state: dict) -> None:
        if at == 0:  # nothing is learned yet: all positives count as hard
            return
        batches.z, batches.x = Refreshes(out).at(
            at, lambda: nnx.merge(graphdef, state["train"], frozen), loader, at - every
        )

    every = config.refresh_epochs * batches.per_epoch
    mines = config.hard_limit < 1 or config.batches == "clustered"
    state = fit(
        # On the mesh, as steps return it: else the first shape would be compiled once more.
        {"train": train, "opt": put(optimizer.init(train), replicated(mesh))},
        lambda state, batch: step(state, frozen, batch),
        batches,
        lambda batch: put(batch, by_row(mesh)),
        name="pretrain",
        steps=steps,
        config=config.fit,
        checkpoints=Checkpoints(out / "checkpoints"),
        writer=MetricsWriter(out),
        ids=batches.ids,
        refresh=refresh if mines else None,
        refresh_every=every if mines else None,
        plateau=config.margin
        * config.positives
        * min(config.negatives, config.positives * (batches.size - 1)),
    )
    save_model(nnx.merge(graphdef, state["train"], frozen), out / "model")


def make_step(config: PretrainConfig, graphdef: Any, optimizer: Any) -> Any:
    """Return the jitted step of Module I: (state, frozen, batch) -> (state, metrics)."""

    def loss_of(train: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model: Mufin = nnx.merge(graphdef, train, frozen)
        vectors = model.describe(batch.pool) if isinstance(batch.pool, Pool) else batch.pool
        z = model.embed(vectors, batch.labels).vector
        x = model.embed(vectors, batch.points).vector
        similarities = z @ x.T  # over the global batch, whatever the number of devices
        hardest = min(config.negatives, similarities.shape[1])
        loss = losses.hinge_loss(
            similarities, batch.positives, batch.negatives, hardest, config.margin
        )
        cosine = jnp.where(batch.negatives, similarities, 0).sum() / batch.negatives.sum().clip(1)
        # Rows that only fill the devices have no positive: the mean is over the labels drawn.
        return loss.sum() / batch.positives.any(1).sum(), cosine

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: dict, frozen: Any, batch: Batch) -> tuple[dict, dict[str, jax.Array]]:
        (loss, cosine), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state["train"], frozen, batch
        )
        metrics = {"loss": loss, "cosine": cosine, "gradient": gradient_norm(gradients)}
        updates, opt = optimizer.update(gradients, state["opt"], state["train"])
        new = {"train": jax.tree.map(jnp.add, state["train"], updates), "opt": opt}
        return kept_unless_finite(metrics, new, state), metrics

    return step
