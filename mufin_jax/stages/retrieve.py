"""Module II of the paper: augmented retrieval.

One index over all label bag vectors and label centroids; every datapoint asks with its vector
embedding and keeps its first 100 distinct labels, R_i, with their exact similarities a_il.

Reads: a prepared folder and Module I's model. Writes: `index/`, `train.npz` and `test.npz`
(Shortlist: int32 labels (N, k), -1 where there is none, and float32 similarities (N, k)).
"""

import dataclasses
import logging
from pathlib import Path

from jax.sharding import Mesh

from mufin_jax.artefacts import load_model
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.errors import InputError
from mufin_jax.evaluation import spare_places
from mufin_jax.label_side import build_index, embed_dataset, shortlist
from mufin_jax.mining import training_pairs
from mufin_jax.retrieval import IndexConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    """Module II; the defaults are the paper's.

    Attributes:
        shortlist: labels a datapoint keeps, at most; the lists are longer by as many as
            its overlap filter can remove.
        pooled: index one vector a label instead of its bag and centroid (the ablation P-I-vec).
        index: how the index searches.
    """

    shortlist: int = 100
    pooled: bool = False
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        """Refuse an empty shortlist."""
        if self.shortlist < 1:
            raise InputError(f"retrieve.shortlist={self.shortlist}: wanted at least 1")


def retrieve(
    config: RetrieveConfig, prepared: Path, pretrained: Path, out: Path, mesh: Mesh
) -> None:
    """Module II: write the index and every datapoint's shortlist to `out`."""
    dataset = Dataset.open(prepared)
    model = load_model(pretrained / "model", mesh)
    embedded = embed_dataset(model, Loader(dataset, model.config.modalities, mesh.size))
    relevance, _ = training_pairs(dataset.train)
    index = build_index(
        embedded.labels, relevance, embedded.train.vector, config.index, config.pooled
    )
    log.info("index: %d entries of %d labels", len(index.entries.vectors), dataset.num_labels)
    index.save(out / "index")
    for side, part in ((dataset.train, embedded.train), (dataset.test, embedded.test)):
        shortlist(index, part.vector, config.shortlist + spare_places(side.filter)).save(
            out / f"{side.name}.npz"
        )
