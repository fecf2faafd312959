"""What a run leaves for prediction: the labels' index, their bags and classifiers, and settings."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mufin_jax.data.dataset import Dataset
from mufin_jax.model import label_table
from mufin_jax.model.embed_side import embed_once
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import new_loader
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.label_cache import cache_writer
from mufin_jax.retrieval.build import build_label_index
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.storage.files import save_sealed


def build_predictor(
    folder: Path,
    model: Mufin,
    rows: label_table.Rows | None,
    dataset: Dataset,
    vectors: Float[np.ndarray, "p d"],
    config: PredictConfig,
    index: IndexConfig,
    pooled: bool = False,
) -> None:
    """Embed the labels once, and write `index/`, `labels/` and, last, `predictor.json`.

    Every process must call this function.

    Args:
        folder: made again.
        model: the encoders and attention blocks that Module IV leaves.
        rows: eta and alpha of all labels, split over the devices; None for classifiers w = z.
        dataset: the prepared folder.
        vectors: the descriptor vectors of the dataset under this model (`describe_once`).
        config: recorded, for those who load the predictor.
        index: how the index searches.
        pooled: index one vector a label, as Module II did.
    """
    heads = model.heads()
    processes.once("a new label side", lambda: shutil.rmtree(folder, ignore_errors=True))
    loader = new_loader(model.config, dataset, model.mesh)
    x = embed_once(heads, loader, vectors, dataset.train, folder / "x.npy")
    with cache_writer(folder / "labels", rows, model.dim, model.mesh) as add:
        build_label_index(folder / "index", heads, loader, vectors, x, index, pooled, add)
    processes.once("a label side", (folder / "x.npy").unlink)
    facts = dataclasses.asdict(config)
    processes.once("a predictor", lambda: save_sealed(folder / "predictor.json", facts))
