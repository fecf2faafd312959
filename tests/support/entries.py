"""Entries of labels, for tests of the index: a few hundred labels, one to six entries each."""

import numpy as np
import pytest

from mufin_jax.retrieval import scann
from mufin_jax.retrieval.config import IndexConfig

EXACT = IndexConfig(backend="exact")
SHARDED = IndexConfig(backend="sharded")
APPROXIMATE = IndexConfig(backend="sharded_approx")
EVERYTHING = IndexConfig(backend="scann", leaves_searched=1.0, reorder=1_000)

needs_scann = pytest.mark.skipif(not scann.importable(), reason="no ScaNN on this platform")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def catalogue(seed=0, labels=400, dimensions=12):
    """Return vectors and labels of shuffled entries, 1 to 6 a label; and seven queries."""
    rng = np.random.default_rng(seed)
    carried = np.repeat(np.arange(labels), rng.integers(1, 7, labels))
    centres = rng.normal(size=(labels, dimensions))
    vectors = unit(centres[carried] + 0.7 * rng.normal(size=(len(carried), dimensions)))
    order = rng.permutation(len(carried))
    return vectors[order], carried[order], unit(rng.normal(size=(7, dimensions)))
