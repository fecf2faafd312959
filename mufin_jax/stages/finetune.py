"""Module IV of the paper: cross-attention and classifiers, on labels sampled from the shortlists.

Per datapoint, 2 random positives and 12 hard negatives from R_i; the cosine embedding loss of
`losses.cosine_margin_loss` over x2_l·w_l. Encoders and A_S are fine-tuned; A_C and the label table
are learned. Each label that a batch names is encoded once, and its row of the table gathered,
differentiated and updated alone.

Reads: a prepared folder, Module II's `train/`, Module III's model and table. Writes: `model/`,
`table/` (absent for classifiers "labels"), `predictor/`, `checkpoints/`, `metrics.jsonl`,
TensorBoard events; `vectors.npy` (float32 (p, D), the descriptor vectors), which stays where no
encoder trains.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int, Int32

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import EXPECTED, Items, Loader
from mufin_jax.model import label_table
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.label_table import load_table
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import load_model, save_model
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import by_row, put, replicated
from mufin_jax.runtime.distributed.padding import padded_size, spare_rows, usual_size
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages.context import StageContext
from mufin_jax.training import losses, mining
from mufin_jax.training.frozen_features import precompute
from mufin_jax.training.loop import FitConfig, fit
from mufin_jax.training.nonfinite import gradient_norm, is_finite, kept_unless_finite
from mufin_jax.training.optimizer import (
    OptimizerConfig,
    by_part,
    check_trains,
    describes,
    schedule,
    trains,
)

STAGE = 4
"""Address of this stage's random draws, beside the seed and the step."""


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Module IV; the defaults are the paper's (Tab. 5, App. D).

    Attributes:
        epochs: passes over the training points.
        batch_size: datapoints a step.
        positives: relevant labels drawn for each datapoint.
        negatives: labels drawn for each datapoint from its shortlist.
        negatives_from: places of the shortlist, its relevant labels left out, that negatives are
            drawn from. The paper's 100 places are 0.03% of its labels; of a small catalogue they
            would hold many labels that are no longer hard.
        margin: gamma of the cosine embedding loss.
        drop_best: never draw the best-scored negative of a shortlist (the authors' code).
        classifiers: "table"; "labels" for w = z without a table (the paper's alpha = 1), which is
            for labels never seen in training: without a training point, none is a negative; "sum"
            for w = unit(z + eta) (SiameseXML).
        optimizer: rates, and which parts train.
        fit: logs and checkpoints.
    """

    epochs: int = 20
    batch_size: int = 200
    positives: int = 2
    negatives: int = 12
    negatives_from: int = 100
    margin: float = 0.5
    drop_best: bool = False
    classifiers: Literal["table", "labels", "sum"] = "table"
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(rate=5e-5)
    )
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        """Reject counts below 1 and margins that are none."""
        for name in ("epochs", "batch_size", "positives", "negatives", "negatives_from"):
            if getattr(self, name) < 1:
                raise InputError(f"finetune.{name}={getattr(self, name)}: expected a number >= 1")
        if not -1 < self.margin < 1:
            raise InputError(f"finetune.margin={self.margin}: expected a cosine between -1 and 1")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """b datapoints and the u distinct labels drawn for them."""

    pool: Pool | Any  # or Float (p, d): the descriptor vectors, where they are known
    points: Bags
    labels: Bags
    ids: Any  # Int (u,): distinct label ids; pads lie beyond the table
    chosen: Any  # Int (b, c): rows of `ids` drawn for each datapoint
    positives: Any  # Bool (b, c)
    negatives: Any  # Bool (b, c)


class Batches:
    """Makes batch i of Module IV; a pure function of (seed, i)."""

    def __init__(
        self, config: FinetuneConfig, dataset: Dataset, loader: Loader, lists: Shortlist, seed: int
    ):
        self.config, self.dataset, self.loader = config, dataset, loader
        self.lists, self.seed = lists, seed
        self.relevance, self.blocked = training_pairs(dataset.train)
        self.usable = np.flatnonzero(np.diff(self.relevance.indptr))
        self.unseen: np.ndarray | None = None
        if config.classifiers == "labels":
            self.unseen = np.ones(dataset.num_labels, bool)
            self.unseen[self.relevance.indices] = False
        self.size = min(config.batch_size, len(self.usable))
        self.spare = spare_rows(self.size, loader.mesh_size)
        self.per_epoch = -(-len(self.usable) // self.size)
        self.table_size = -(-dataset.num_labels // label_table.ROWS) * label_table.ROWS
        self._order = functools.lru_cache(2)(
            lambda epoch: np.random.default_rng([seed, STAGE, epoch, 0]).permutation(self.usable)
        )
        first = [self._draw(step) for step in range(EXPECTED)]
        labels = [np.unique(drawn[drawn >= 0]) for _, drawn in first]
        self.usual_labels = usual_size([len(some) for some in labels], loader.mesh_size)
        loader.expect(
            self._shown(points, some) for (points, _), some in zip(first, labels, strict=True)
        )

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, as numpy arrays."""
        points, drawn = self._draw(step)
        real = drawn >= 0
        labels = np.unique(drawn[real])
        chosen = np.where(real, np.searchsorted(labels, drawn), 0)
        ids, rows = pad_labels(labels, self.table_size, self.loader.mesh_size, self.usual_labels)
        pool, (point_bags, label_bags) = self.loader.batch(self._shown(points, rows))
        first = np.arange(real.shape[1]) < self.config.positives
        return Batch(
            pool, point_bags, label_bags, ids, chosen.astype(np.int32), real & first, real & ~first,
        )  # fmt: skip

    def ids(self, step: int) -> dict[str, list[str]]:
        """What the batch of a step is drawn from, by the ids that the data give it."""
        points, drawn = self._draw(step)
        return {
            "points": self.dataset.train.ids.at(np.unique(points)),
            "labels": self.dataset.labels.ids.at(np.unique(drawn[drawn >= 0])),
        }

    def _draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (b,), and the labels (b, c) drawn for each: positives, then negatives, -1 none."""
        config = self.config
        epoch, index = divmod(step, self.per_epoch)
        points = np.take(self._order(epoch), index * self.size + np.arange(self.size), mode="wrap")
        rng = np.random.default_rng([self.seed, STAGE, step])
        shape = (self.size + self.spare, config.positives + config.negatives)
        drawn = np.full(shape, -1, np.int64)
        for row, point in enumerate(points):
            likes = mining.draw(mining.row(self.relevance, point), config.positives, rng)
            listed, blocked = self.lists.labels[point], mining.row(self.blocked, point)
            if self.unseen is not None:
                listed = listed[(listed < 0) | ~self.unseen[listed]]
            others = mining.candidates(listed, blocked, config.drop_best)
            others = mining.draw(others[: config.negatives_from], config.negatives, rng)
            drawn[row, : len(likes)] = likes
            drawn[row, config.positives : config.positives + len(others)] = others
        return np.pad(points, (0, self.spare), mode="edge"), drawn

    def _shown(self, points: np.ndarray, labels: np.ndarray) -> list[Items]:
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
        ids of rows of the table, whose pads lie beyond it; and labels to show, whose pads repeat
        the first.
    """
    pads = np.arange(padded_size(len(labels), mesh_size, usual) - len(labels))
    ids = np.concatenate([labels, table_size + pads]).astype(np.int32)
    return ids, np.concatenate([labels, np.full(len(pads), labels[0])])


def finetune(config: FinetuneConfig, context: StageContext) -> None:
    """Module IV: train cross-attention and classifiers, and write model and table.

    What frozen parts of the encoders make is computed once, to the folder `kept`.

    Raises:
        InputError: if the data cannot fill a batch.
        Stopped: after a signal; the same call resumes.
    """
    dataset, out, mesh = Dataset.open(context.prepared), context.out, context.mesh
    initialized = context.folders["initialize"]
    model = load_model(initialized / "model", mesh)
    loader = Loader(dataset, model.config.modalities, mesh, model.config.label_images)
    lists = Shortlist.load(context.folders["retrieve"] / "train")
    batches = Batches(config, dataset, loader, lists, context.seed)
    steps = config.epochs * batches.per_epoch
    graphdef, train, frozen = nnx.split(
        model, trains(config.optimizer, model.depths(), cross=True), ...
    )
    train, frozen = nnx.to_pure_dict(train), nnx.to_pure_dict(frozen)
    if config.classifiers == "labels":  # else the table trains
        check_trains(train, "finetune")
    described = out / "vectors.npy"
    learns_to_describe = describes(train)
    if not learns_to_describe:
        loader.vectors = describe_once(model, loader, described)
    else:
        decisions = out / "precomputed.json"
        precompute(model, loader, config.optimizer, context.kept, decisions, config.fit.cache_gb)
    optimizer = by_part(config.optimizer, steps)
    step = make_step(config, graphdef, optimizer, steps, mesh)

    def begin() -> dict:
        """The initial state, which the loop alone holds, and drops when it resumes."""
        # On the mesh, as steps return it: else the first shape would be compiled once more.
        state = {"train": train, "opt": put(optimizer.init(train), replicated(mesh))}
        if config.classifiers != "labels":
            state["table"] = load_table(initialized / "table", dataset.num_labels, model.dim, mesh)
        return state

    state = fit(
        begin(),
        lambda state, batch: step(state, frozen, batch),
        batches,
        lambda batch: place(batch, mesh),
        name="finetune",
        steps=steps,
        config=config.fit,
        checkpoints=Checkpoints(out / "checkpoints"),
        writer=MetricsWriter(out),
        ids=batches.ids,
    )
    model = nnx.merge(graphdef, state["train"], frozen)
    save_model(model, out / "model")
    rows = None
    if "table" in state:
        rows = state["table"].rows
        if config.classifiers == "sum":  # whoever reads the table combines
            rows = label_table.as_combined(rows)
        Checkpoints(out / "table").save(0, dataclasses.replace(state["table"], rows=rows), {})
    del state, train, batches  # the moments of all parameters make room for the label side
    vectors = describe_once(model, loader, described)
    Predictor.write(
        out / "predictor", model, rows, dataset, vectors, context.predict, context.index,
        context.pooled,
    )  # fmt: skip
    if learns_to_describe:
        processes.once("finetune is complete", described.unlink)


def place(batch: Batch, mesh: Mesh) -> Batch:
    """Put a batch on the devices: everything by rows but the label ids, which all devices read."""
    placed = put(dataclasses.replace(batch, ids=None), by_row(mesh))
    return dataclasses.replace(placed, ids=put(batch.ids, replicated(mesh)))


def make_step(config: FinetuneConfig, graphdef: Any, optimizer: Any, steps: int, mesh: Mesh) -> Any:
    """Return the jitted step of Module IV: (state, frozen, batch) -> (state, metrics)."""
    rates = config.optimizer
    table_rate = schedule(rates.table_rate or rates.rate, rates.warmup, steps)
    combine = label_table.add if config.classifiers == "sum" else label_table.combine

    def loss_of(train: Any, rows: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model: Mufin = nnx.merge(graphdef, train, frozen)
        vectors = model.describe(batch.pool) if isinstance(batch.pool, Pool) else batch.pool
        points, labels = model.embed(vectors, batch.points), model.embed(vectors, batch.labels)
        memory, z = jax.lax.with_sharding_constraint(
            (model.memory(labels), labels.vector), replicated(mesh)
        )
        x2 = model.adapt(points, jax.tree.map(lambda leaf: leaf[batch.chosen], memory))
        w = z if rows is None else combine(rows, z)
        similarities = jnp.einsum("bcd,bcd->bc", x2, w[batch.chosen])
        loss = losses.cosine_margin_loss(
            similarities, batch.positives, batch.negatives, config.margin
        )
        cosine = jnp.where(batch.negatives, similarities, 0).sum() / batch.negatives.sum().clip(1)
        # Rows that only fill the devices have no positive: the mean is over the points drawn.
        return loss.sum() / batch.positives.any(1).sum(), cosine

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: dict, frozen: Any, batch: Batch) -> tuple[dict, dict[str, jax.Array]]:
        table = state.get("table")
        rows = None if table is None else label_table.gather(table.rows, batch.ids, mesh)
        (loss, cosine), (gradients, row_gradients) = jax.value_and_grad(
            loss_of, argnums=(0, 1), has_aux=True
        )(state["train"], rows, frozen, batch)
        norm = gradient_norm((gradients, row_gradients))
        metrics = {"loss": loss, "cosine": cosine, "gradient": norm}
        updates, opt = optimizer.update(gradients, state["opt"], state["train"])
        new = {"train": jax.tree.map(jnp.add, state["train"], updates), "opt": opt}
        new = kept_unless_finite(metrics, new, {"train": state["train"], "opt": state["opt"]})
        if table is not None:
            rate, made = jnp.asarray(table_rate(table.steps)), is_finite(metrics)
            new["table"] = label_table.update(
                table, batch.ids, row_gradients, rate, mesh, made=made
            )
        return new, metrics

    return step
