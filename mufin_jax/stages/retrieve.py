"""Module II of the paper: augmented retrieval.

One index holds all label bag vectors and label centroids. The vector embedding of a datapoint is
its query. Its shortlist R_i is the 100 nearest distinct labels, with their exact similarities a_il.

Reads: a prepared folder, Module I's model and, if no encoder trained, its `vectors.npy`. Writes:
`index/`, `train/` and `test/` (Shortlist: `labels.npy`, int32 (N, k), -1 in empty places,
`similarities.npy`, float32 (N, k), and last their `manifest.json`). Until the stage ends, its
folder also holds `vectors.npy` and `x.npy` (float32 (N, D), x1 of the training points). A resumed
run keeps all parts that were complete.
"""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np

from mufin_jax.evaluation.rankings import spare_places
from mufin_jax.model.embed_side import describe_once, embed_blocks, embed_once
from mufin_jax.model.saved import load_model, new_loader
from mufin_jax.retrieval.build import build_label_index, write_shortlists
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.npy import forget
from mufin_jax.stages.context import StageContext
from mufin_jax.training.frozen_features import use_precomputed

log = logging.getLogger(__name__)

BLOCK = 4096
"""Training points of one search: enough for all of its threads."""


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    """Module II; the defaults are the paper's.

    Attributes:
        shortlist: the most labels of a datapoint. The written lists are longer, by the number of
            labels that overlap filtering can remove.
        pooled: index one vector a label instead of its bag and centroid (the ablation P-I-vec).
        index: how the index searches.
    """

    shortlist: int = 100
    pooled: bool = False
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        """Reject an empty shortlist."""
        if self.shortlist < 1:
            raise InputError(f"retrieve.shortlist={self.shortlist}: expected at least 1")


def retrieve(config: RetrieveConfig, context: StageContext) -> None:
    """Write the index and every datapoint's shortlist (Module II).

    Outputs of frozen encoders that Module I kept in the folder `kept` are not computed again.
    """
    dataset = context.dataset()
    pretrained, out, mesh = context.folders["pretrain"], context.out, context.mesh
    model = load_model(pretrained / "model", mesh)
    loader = new_loader(model.config, dataset, mesh)
    loader = use_precomputed(model, loader, context.kept)
    known, own = pretrained / "vectors.npy", out / "vectors.npy"
    vectors = describe_once(model, loader, known if processes.decide(known.exists) else own)
    x = embed_once(model, loader, vectors, dataset.train, out / "x.npy")
    if not processes.decide((out / "index" / "index.json").exists):
        build_label_index(out / "index", model, loader, vectors, x, config.index, config.pooled)
    index = LabelIndex.load(out / "index", mesh)
    log.info("index: %d entries of %d labels", len(index.entries.vectors), dataset.num_labels)
    tested = (part.vector for _, part in embed_blocks(model, loader, vectors, dataset.test))
    for side, queries in ((dataset.train, _blocks(x)), (dataset.test, tested)):
        if not processes.decide((out / side.name / files.MANIFEST).exists):
            k = config.shortlist + spare_places(side.filter)
            write_shortlists(index, queries, len(side), k, out / side.name)

    def clear() -> None:
        for path in (own, out / "x.npy"):
            path.unlink(missing_ok=True)

    processes.once("retrieve is complete", clear)


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows in blocks, and drop each block's pages after use."""
    for rows in cut(len(x), BLOCK):
        yield np.asarray(x[rows])
        forget(x)
