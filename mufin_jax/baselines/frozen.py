"""The floor `frozen_neighbours`: kNN on the vectors that the model has before any training.

The 20 training points nearest to a test point vote for their labels. Vectors are x1 of the model
that Module I starts from: encoders with the weights of their checkpoints, or random ones.
"""

from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from scipy.sparse import csr_matrix

from mufin_jax.baselines.untrained import NEIGHBOURS, completed, most_popular
from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.metrics import DEPTH
from mufin_jax.evaluation.rankings import spare_places
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.embed_side import describe_once, embed_blocks, embed_once
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import new_loader, new_model
from mufin_jax.retrieval.build import build_vector_index
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex, shortlist_points
from mufin_jax.retrieval.sparse_scores import softmax_rows
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import discard
from mufin_jax.training.centring import centre
from mufin_jax.training.frozen_features import use_precomputed

TEMPERATURE = 0.03
"""Of the votes. Vectors of untrained encoders are similar: most cosines are above 0.9."""
_ROWS = 1 << 16
"""Points that are indexed at once."""


def frozen_neighbours(
    dataset: Dataset,
    config: ModelConfig,
    mesh: Mesh,
    seed: int,
    index: IndexConfig,
    kept: Path,
    described: Path,
    scratch: Path,
) -> Int[np.ndarray, "b k"]:
    """Return the ranking of the test points by the votes of their neighbours, after filtering.

    Every process must call this function. What frozen parts of the encoders computed is read, not
    computed again.

    Args:
        dataset: the prepared folder.
        config: of the model, with its checkpoints.
        mesh: the devices.
        seed: of the random weights.
        index: how neighbours are searched.
        kept: the run's folder of precomputed arrays.
        described: the descriptor vectors of the untrained model, if an earlier stage left them.
        scratch: a folder for intermediate files, deleted at the end.

    Raises:
        InputError: if a checkpoint cannot be read.
        DiskError: if a file cannot be written.
        Stopped: after a signal.
    """
    model = _untrained(config, dataset, mesh, seed)
    loader = use_precomputed(model, new_loader(model.config, dataset, mesh), kept)
    own = scratch / "vectors.npy"
    known = processes.decide(described.exists)
    if not known:
        centre(model, loader)
    vectors = describe_once(model, loader, described if known else own)
    x = embed_once(model, loader, vectors, dataset.train, scratch / "x.npy")
    if not processes.decide((scratch / "index" / "index.json").exists):
        blocks = (np.asarray(x[rows]) for rows in cut(len(x), _ROWS))
        build_vector_index(scratch / "index", blocks, model.dim, index, mesh)
    points = LabelIndex.load(scratch / "index", mesh)
    popular = most_popular(dataset.train.pairs)
    wanted, rankings = min(DEPTH, len(popular)), []
    pairs = metrics.relevant_pairs(dataset.train.pairs)
    tested = embed_blocks(model, loader, vectors, dataset.test)
    for rows, part in until_stopped(tested, "the floors"):
        near = shortlist_points(points, part.vector, min(NEIGHBOURS, len(x)))
        dropped = dataset.test.filter[rows] if dataset.test.filter is not None else None
        reach = min(wanted + spare_places(dropped), len(popular))
        votes = csr_matrix(softmax_rows(near, TEMPERATURE, len(x)) @ pairs)
        draft = metrics.rank(votes, reach)
        rankings.append(completed(draft, popular, dropped, wanted))
    processes.once("the untrained vectors are deleted", lambda: discard(scratch))
    return np.concatenate(rankings)


def _untrained(config: ModelConfig, dataset: Dataset, mesh: Mesh, seed: int) -> Mufin:
    """Return the model before Module I; its checkpoints must be at hand."""
    try:
        return new_model(config, dataset, mesh, seed)
    except InputError as error:
        raise InputError(
            f"{error}; without the floor frozen_neighbours, the untrained model is not needed: "
            "--evaluate.no-frozen-neighbours"
        ) from error
