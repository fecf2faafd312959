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

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.validation import ByShortlists
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.label_table import LabelTable, Rows, as_combined, load_table, save_table
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import load_model, new_loader, save_model
from mufin_jax.prediction.build import build_predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages.context import StageContext
from mufin_jax.training.early_stopping import Validate
from mufin_jax.training.finetune_batches import Batches, FinetuneConfig
from mufin_jax.training.finetune_step import make_scores, make_step, place
from mufin_jax.training.loop import fit
from mufin_jax.training.setup import Setup, TrainState, set_up


def finetune(config: FinetuneConfig, context: StageContext) -> None:
    """Train cross-attention and classifiers (Module IV), and write model and table.

    What frozen parts of the encoders make is computed once, to the folder `kept`.

    Raises:
        InputError: if the data cannot fill a batch.
        Stopped: after a signal; the same call resumes.
    """
    dataset, out, mesh = Dataset.load(context.prepared), context.out, context.mesh
    initialized = context.folders["initialize"]
    model = load_model(initialized / "model", mesh)
    loader = new_loader(model.config, dataset, mesh)
    lists = Shortlist.load(context.folders["retrieve"] / "train")
    batches = Batches(config, dataset, loader, lists.labels, context.seed)
    steps = batches.steps(config.epochs, config.least_steps)
    setup = set_up(
        model, loader, config.optimizer, steps, "finetune", out, context.kept, config.fit.cache_gb,
        has_table=config.classifiers != "labels",
    )  # fmt: skip
    loader = setup.loader
    batches.read_from(loader)
    step = make_step(config, setup.graphdef, setup.optimizer, steps, mesh)
    validate = _validate(config, context, dataset, setup, lists)
    state = fit(
        # Only the loop holds the initial state, and drops it when it resumes.
        setup.state(_load_table(config, initialized / "table", dataset, model)),
        lambda state, batch: step(state, setup.frozen, batch),
        batches,
        lambda batch: place(batch, mesh),
        name="finetune",
        steps=steps,
        config=config.fit,
        checkpoints=Checkpoints(out / "checkpoints"),
        writer=MetricsWriter(out),
        ids=batches.ids,
        validate=validate,
    )
    model = setup.model(state)
    save_model(model, out / "model")
    rows = _save_table(config, state.table, out / "table")
    learns_to_describe = setup.learns_to_describe
    del state, setup, batches  # the moments of all parameters make room for the label side
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
    lists: Shortlist,
) -> Validate[TrainState] | None:
    """Return how states are compared on validation points; None where they are not."""
    if not config.validate.every:
        return None
    measure = ByShortlists(
        dataset, setup.loader, lists, context.predict.mix, config.validate, context.seed
    )
    scores = make_scores(config, setup.graphdef, setup.mesh)

    def objective(state: TrainState) -> float:
        return measure(lambda batch: fetch(scores(state, setup.frozen, place(batch, setup.mesh))))

    return Validate(config.validate, objective)


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
