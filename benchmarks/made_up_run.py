"""A finished run without training: a made-up label side (catalogue.py) and random weights."""

import dataclasses
from pathlib import Path

import numpy as np
from catalogue import DIM, Catalogue
from flax import nnx
from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.strings import Strings
from mufin_jax.data.synthetic.catalogue import MiniatureConfig, write_miniature
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.embed_side import SideEmbedding
from mufin_jax.model.mufin import Mufin
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.label_cache import cache_writer
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.storage.files import save_json


def predictor_of(folder: Path, num_labels: int, small: bool, shortlist: int) -> Predictor:
    """Return a predictor over a made-up label side; write that to the folder if it is missing.

    Args:
        folder: holds index, bags and classifiers, like the folder of a run.
        num_labels: L.
        small: use tiny encoders.
        shortlist: labels scored for a query.
    """
    if not (folder / "prepared" / "manifest.json").exists():
        few = MiniatureConfig(labels=60, points=120, test_points=40, picture=64)
        write_miniature(few, folder / "raw")
        size = 16 if small else 224
        prepare(PrepareConfig(image_size=size, records=False), folder / "raw", folder / "prepared")
    dataset = with_labels(Dataset.load(folder / "prepared"), num_labels)
    model, mesh = new_model(dataset, small), make_mesh()
    if not (folder / "predictor.json").exists():
        write_predictor(folder, num_labels, mesh)
    return Predictor.load_parts(folder, model, dataset, PredictConfig(shortlist=shortlist))


def with_labels(dataset: Dataset, count: int) -> Dataset:
    """Return the data set with this many labels, each with an id and a title."""
    names = Strings.pack(f"label {i}" for i in range(count))
    none = np.zeros(count + 1, np.int64)
    labels = Side("label", names, names, np.full(count, -1, np.int32), none, none[:0])
    return dataclasses.replace(dataset, labels=labels)


def new_model(dataset: Dataset, small: bool) -> Mufin:
    """Return a model with random weights, as large as the paper's, or tiny."""
    config = ModelConfig(image=ViTConfig.base_32(), text=DistilBertConfig.base())
    vocab = config.text.vocab
    if small:
        vocab = dataset.tokenizer.vocab_size
        config = ModelConfig(
            image=ViTConfig(width=192, depth=1, heads=2, mlp=32, patch=8, image_size=16),
            text=DistilBertConfig(width=192, depth=1, heads=2, mlp=32, max_positions=64),
        )
    return Mufin(
        config, vocab=vocab, vector_width=None, processing=dataset.processing,
        mesh=make_mesh(), rngs=nnx.Rngs(0),
    )  # fmt: skip


def write_predictor(folder: Path, num_labels: int, mesh: Mesh) -> None:
    """Write index, bags and classifiers like a run, without encoding any label."""
    catalogue = Catalogue.draw(num_labels)
    entries = catalogue.entries()
    LabelIndex.build_grouped(LabelEntries(entries, catalogue.offsets), IndexConfig(), mesh).save(
        folder / "index"
    )
    counts = np.diff(catalogue.offsets)
    with cache_writer(folder / "labels", None, DIM, mesh) as append:
        for start in range(0, num_labels, 4096):
            rows = np.arange(start, min(start + 4096, num_labels))
            mask = np.arange(counts.max()) < counts[rows][:, None]
            bag = np.zeros((*mask.shape, DIM), np.float32)
            bag[mask] = entries[catalogue.offsets[start] : catalogue.offsets[rows[-1] + 1]]
            bag *= DIM**0.5  # as a LayerNorm leaves them
            append(rows, SideEmbedding(catalogue.labels[rows], bag, mask))
    save_json(folder / "predictor.json", {})
