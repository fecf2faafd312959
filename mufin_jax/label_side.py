"""The label side of retrieval: bag vectors Z1_l and centroids mu_l in one index (Module II).

Every label enters with the vectors of its bag and with mu_l, the mean of x1_i over its training
points. All entries are sphere-normalised: the paper leaves them as they are, but a LayerNorm output
has norm ~sqrt(D) and would drown the centroids.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from mufin_jax.data.loader import Loader
from mufin_jax.embedding import SideEmbedding, describe_all, embed_side
from mufin_jax.model import Mufin
from mufin_jax.retrieval import IndexConfig, LabelIndex
from mufin_jax.shortlist import Shortlist


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A dataset under one model: all of it that later steps ask for."""

    train: SideEmbedding
    test: SideEmbedding
    labels: SideEmbedding


def embed_dataset(model: Mufin, loader: Loader) -> Embedded:
    """Describe every descriptor of the dataset once and embed its three sides."""
    dataset = loader.dataset
    vectors = describe_all(model, loader)
    train, test = (embed_side(model, loader, vectors, s) for s in (dataset.train, dataset.test))
    return Embedded(train, test, embed_side(model, loader, vectors, dataset.labels, keep_bags=True))


def centroids(
    relevance: sparse.csr_matrix, x: Float[np.ndarray, "p d"]
) -> tuple[Int[np.ndarray, "c"], Float[np.ndarray, "c d"]]:
    """Return the labels that have a training point, and unit(mean of x1_i) of each."""
    sums = np.asarray(relevance.astype(bool).astype(np.float32).T @ x)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    labels = np.flatnonzero(norms[:, 0] > 1e-6)
    return labels, sums[labels] / norms[labels]


def build_index(
    labels: SideEmbedding,
    relevance: sparse.csr_matrix,
    x: Float[np.ndarray, "p d"],
    config: IndexConfig,
    pooled: bool = False,
) -> LabelIndex:
    """Return the index of all label entries.

    Args:
        labels: label embeddings, with their bags.
        relevance: training datapoints x labels, without the pairs of the overlap filter.
        x: x1 of the training datapoints.
        config: how the index searches.
        pooled: enter one vector z1 a label instead of its bag (the ablation P-I-vec).
    """
    if pooled:
        owners = np.flatnonzero(labels.mask.any(1))
        vectors = labels.vector[owners]
    else:
        assert labels.bag is not None
        owners = np.nonzero(labels.mask)[0]
        vectors = labels.bag[labels.mask]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        central, means = centroids(relevance, x)
        owners, vectors = np.concatenate([owners, central]), np.concatenate([vectors, means])
    return LabelIndex.build(
        np.ascontiguousarray(vectors, np.float32), owners, config, num_labels=len(labels.mask)
    )


def shortlist(index: LabelIndex, x: Float[np.ndarray, "b d"], k: int) -> Shortlist:
    """Return the shortlists of datapoints; one without any descriptor gets an empty list."""
    real = np.linalg.norm(x, axis=1) > 0.5
    labels = np.full((len(x), k), -1, np.int32)
    similarities = np.full((len(x), k), -np.inf, np.float32)
    if real.any():
        found = index.shortlist(x[real], k)
        labels[real], similarities[real] = found.labels, found.similarities
    return Shortlist(labels, similarities)
