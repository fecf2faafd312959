"""Module I of the paper: Siamese pre-training of the encoders and of A_S.

A batch is drawn over labels. For each label l, P_l holds 2 hard positives, N_l the 3 most similar
datapoints drawn for other labels of the global batch; the loss is the hinge of `losses.hinge_loss`.
With the option `loss=softmax` it is `losses.softmax_loss`, over all negatives of the batch.

Reads: a prepared folder. Writes: `model/` (all weights), `refresh-<step>/` (`z.npy`, float32
(L, D), and `x.npy`, float32 (N, D), by which positives are mined), `checkpoints/`, `metrics.jsonl`,
TensorBoard events; `vectors.npy` (float32 (p, D), the descriptor vectors) where no encoder trains;
`teacher.npy` and `teacher_rows.npy`, the teacher's vectors (`training/teacher.py`), if any.
"""

from pathlib import Path

import numpy as np

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.validation import ByVectors
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.reduction import MEAN
from mufin_jax.model.saved import new_loader, save_model
from mufin_jax.retrieval.sharded import MeshSearch
from mufin_jax.runtime.distributed.mesh import by_row, put, replicated
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages.context import StageContext
from mufin_jax.stages.start import first_model
from mufin_jax.training.centring import means
from mufin_jax.training.early_stopping import Validate
from mufin_jax.training.loop import fit
from mufin_jax.training.pretrain_batches import Batches
from mufin_jax.training.pretrain_config import PretrainConfig
from mufin_jax.training.pretrain_step import make_step
from mufin_jax.training.refresh import Refreshes
from mufin_jax.training.setup import Setup, TrainState, set_up
from mufin_jax.training.teacher import Teacher


def pretrain(config: PretrainConfig, context: StageContext) -> None:
    """Train the encoders and A_S (Module I), and write the model.

    What frozen parts of the encoders make is computed once, to the folder `kept`.

    Raises:
        InputError: if the data cannot fill a batch.
        Stopped: after a signal; the same call resumes.
    """
    dataset, model_config, out = context.dataset(), context.model, context.out
    mesh, seed = context.mesh, context.seed
    if not config.epochs:
        save_model(first_model(model_config, dataset, context), out / "model")
        return
    loader = new_loader(model_config, dataset, mesh)
    teacher = Teacher.load(Path(config.teacher), dataset, out) if config.teacher else None
    batches = Batches(config, dataset, loader, seed, teacher)
    lengths, rates = context.lengths(config, batches), context.rates(config.optimizer)
    model = first_model(model_config, dataset, context)
    setup = set_up(
        model, loader, rates, lengths, "pretrain", out, context.kept, config.fit.cache_gb,
        temperature=config.temperature if config.learn_temperature else None,
    )  # fmt: skip
    batches.read_from(setup.loader)
    if setup.learns_to_describe and context.start is None:  # else learned maps have theirs
        _set_means(model, setup)
    step = make_step(config, setup.graphdef, setup.optimizer, seed)

    def refresh(at: int, state: TrainState) -> None:
        if at == 0:  # nothing is learned yet: all positives count as hard
            return
        vectors = Refreshes(out).at(at, lambda: setup.model(state), setup.loader, at - every)
        batches.refresh(*vectors, nearest)

    def nearest(entries: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
        return MeshSearch.build(entries, mesh).search(queries, count)[0]

    every = config.refresh_epochs * batches.per_epoch
    state = fit(
        setup.state(),
        lambda state, batch: step(state, setup.frozen, batch),
        batches,
        lambda batch: put(batch, by_row(mesh)),
        name="pretrain",
        steps=context.steps("pretrain", sum(lengths)),
        config=config.fit,
        checkpoints=Checkpoints(out / "checkpoints"),
        writer=MetricsWriter(out),
        ids=batches.ids,
        refresh=refresh if config.mines else None,
        refresh_every=every if config.mines else None,
        plateau=batches.plateau(),
        validate=_validate(config, context, dataset, setup),
        callbacks=context.callbacks,
    )
    save_model(setup.model(state), out / "model")


def _set_means(model: Mufin, setup: Setup) -> None:
    """Set the means that learned maps remove from what the encoders make before they train."""
    for name, mean in means(model, setup.loader).items():
        setup.frozen[name][MEAN] = put(mean, replicated(setup.mesh))


def _validate(
    config: PretrainConfig, context: StageContext, dataset: Dataset, setup: Setup
) -> Validate[TrainState] | None:
    """Return how states are compared on validation points; None where they are not."""
    if not config.validate.every or context.refit is not None:
        return None
    measure = ByVectors(dataset, setup.loader, config.validate, context.seed)

    def objective(state: TrainState) -> float:
        return measure(setup.model(state))

    return Validate(config.validate, objective)
