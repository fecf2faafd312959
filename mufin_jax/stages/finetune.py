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
from pathlib import Path

import numpy as np
from jaxtyping import Array

from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import Loader
from mufin_jax.evaluation.validation import ByShortlists
from mufin_jax.model.embed_side import describe_once, embed_once
from mufin_jax.model.label_table import (
    ROWS,
    LabelTable,
    Rows,
    as_combined,
    load_table,
    padded_rows,
    save_table,
)
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import load_model, new_loader, save_model
from mufin_jax.prediction.build import build_predictor
from mufin_jax.retrieval.build import centroids
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import fetch, put_rows
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.storage.npy import mapped, whole_npy
from mufin_jax.stages.context import StageContext
from mufin_jax.stages.start import steps_before
from mufin_jax.training.early_stopping import Validate
from mufin_jax.training.finetune_batches import Batches, FinetuneConfig
from mufin_jax.training.finetune_step import make_scores, make_step, place
from mufin_jax.training.loop import fit
from mufin_jax.training.prototypes import CENTROIDS, absorbed, block_of, new_weights
from mufin_jax.training.setup import Setup, TrainState, Weights, set_up


def finetune(config: FinetuneConfig, context: StageContext) -> None:
    """Train cross-attention and classifiers (Module IV), and write model and table.

    What frozen parts of the encoders make is computed once, to the folder `kept`.

    Raises:
        InputError: if the data cannot fill a batch.
        Stopped: after a signal; the same call resumes.
    """
    dataset, out, mesh = context.dataset(), context.out, context.mesh
    initialized = context.folders["initialize"]
    model = load_model(initialized / "model", mesh)
    loader = new_loader(model.config, dataset, mesh)
    lists = Shortlist.load(context.folders["retrieve"] / "train")
    batches = Batches(config, dataset, loader, lists.labels, context.seed)
    steps = context.lengths(config, batches)
    config = dataclasses.replace(config, optimizer=context.rates(config.optimizer))
    setup = set_up(
        model, loader, config.optimizer, steps, "finetune", out, context.kept, config.fit.cache_gb,
        has_table=config.classifiers != "labels",
        prototypes=new_weights(model.dim, context.seed) if config.prototypes else None,
    )  # fmt: skip
    loader, read = setup.loader, setup.frozen
    if config.prototypes:
        read = read | {CENTROIDS: _centroids(setup, model, dataset, out)}
    batches.read_from(loader)
    before = steps_before(initialized)
    step = make_step(config, setup.graphdef, setup.optimizer, steps, mesh, before)
    validate = _validate(config, context, dataset, setup, read, lists)
    state = fit(
        # Only the loop holds the initial state, and drops it when it resumes.
        setup.state(_load_table(config, initialized / "table", dataset, model)),
        lambda state, batch: step(state, read, batch),
        batches,
        lambda batch: place(batch, mesh),
        name="finetune",
        steps=context.steps("finetune", sum(steps)),
        config=config.fit,
        checkpoints=Checkpoints(out / "checkpoints"),
        writer=MetricsWriter(out),
        ids=batches.ids,
        validate=validate,
        callbacks=context.callbacks,
    )
    model = setup.model(state)
    save_model(model, out / "model")
    table = state.table
    if config.prototypes and table is not None:
        table = _absorbed(table, state.train, read[CENTROIDS], model, loader, out)
    rows = _save_table(config, table, out / "table")
    learns_to_describe = setup.learns_to_describe
    # The moments of all parameters make room for the label side.
    del state, setup, batches, read, table
    described = out / "vectors.npy"
    vectors = describe_once(model, loader, described)
    build_predictor(
        out / "predictor", model, rows, dataset, vectors, context.predict, context.index,
        context.pooled,
    )  # fmt: skip
    if learns_to_describe:
        processes.once("finetune is complete", described.unlink)


def _validate(
    config: FinetuneConfig,
    context: StageContext,
    dataset: Dataset,
    setup: Setup,
    read: Weights,
    lists: Shortlist,
) -> Validate[TrainState] | None:
    """Return how states are compared on validation points; None where they are not."""
    if not config.validate.every or context.refit is not None:
        return None
    measure = ByShortlists(
        dataset, setup.loader, lists, context.predict.mix, config.validate, context.seed
    )
    scores = make_scores(config, setup.graphdef, setup.mesh)

    def objective(state: TrainState) -> float:
        return measure(lambda batch: fetch(scores(state, read, place(batch, setup.mesh))))

    return Validate(config.validate, objective)


def _centroids(setup: Setup, model: Mufin, dataset: Dataset, out: Path) -> Array:
    """Return the centroid of each label, 0 without a training pair, split as the table is.

    Raises:
        InputError: if x1 changes while Module IV trains.
    """
    if setup.learns_to_describe or setup.train.get("self_attention"):
        raise InputError(
            "finetune.prototypes: centroids are computed once, and an encoder or A_S trains; "
            "freeze them with --finetune.optimizer.image-encoder=frozen, "
            "--finetune.optimizer.text-encoder=frozen and "
            "--finetune.optimizer.self-attention=frozen"
        )
    path = out / "centroids.npy"
    if not processes.decide(path.exists):
        vectors = describe_once(model, setup.loader, out / "vectors.npy")
        x = embed_once(model, setup.loader, vectors, dataset.train, out / "x.npy")
        points_of = training_pairs(dataset.train)[0].T.tocsr()
        with whole_npy(path, (model.dim,), rows=dataset.num_labels) as writer:
            for some in cut(dataset.num_labels, ROWS):
                mu = np.zeros((some.stop - some.start, model.dim), np.float32)
                labels, means = centroids(points_of[some], x)
                mu[labels] = means
                writer.append(mu)
        processes.once("centroids are complete", (out / "x.npy").unlink)
    return put_rows(mapped(path), model.mesh, padded_rows(dataset.num_labels))


def _absorbed(
    table: LabelTable, train: Weights, mu: Array, model: Mufin, loader: Loader, out: Path
) -> LabelTable:
    """Return the table with what the prototypes' block adds to each label."""
    labels, path = loader.dataset.labels, out / "z.npy"
    vectors = describe_once(model, loader, out / "vectors.npy")
    z = put_rows(embed_once(model, loader, vectors, labels, path), model.mesh, len(mu))
    rows = absorbed(table.rows, block_of(train, model.dim), z, mu, model.mesh)

    def clear() -> None:
        for file in (path, out / "centroids.npy"):
            file.unlink(missing_ok=True)

    processes.once("prototypes are absorbed", clear)
    return dataclasses.replace(table, rows=rows)


def _load_table(
    config: FinetuneConfig, folder: Path, dataset: Dataset, model: Mufin
) -> LabelTable | None:
    """Return the table that Module III left; None where classifiers are the labels' embeddings."""
    if config.classifiers == "labels":
        return None
    return load_table(folder, dataset.num_labels, model.dim, model.mesh)


def _save_table(config: FinetuneConfig, table: LabelTable | None, folder: Path) -> Rows | None:
    """Save the table, and return its rows as those who read it `combine` them with z."""
    if table is None:
        return None
    rows = as_combined(table.rows) if config.classifiers == "sum" else table.rows
    save_table(dataclasses.replace(table, rows=rows), folder)
    return rows
