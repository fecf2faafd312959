"""Baselines for outfit questions that need no training."""

import numpy as np
from jaxtyping import Float, Int

from mufin_jax.baselines.untrained import tfidf
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.outfits import Scorer


def outfit_floors(dataset: Dataset) -> dict[str, Scorer]:
    """Return the scorers without training: popularity, nearest title."""
    frequency = metrics.frequencies(dataset.train.pairs).astype(np.float32)

    def popularity(side: Side, labels: Int[np.ndarray, "b c"]) -> Float[np.ndarray, "b c"]:
        return np.where(labels >= 0, frequency[labels], -np.inf)

    def nearest_title(side: Side, labels: Int[np.ndarray, "b c"]) -> Float[np.ndarray, "b c"]:
        titles = (list(dataset.train.titles), list(side.titles), list(dataset.labels.titles))
        _, points, words = tfidf(*titles)
        columns = [words[np.maximum(column, 0)].multiply(points).sum(axis=1) for column in labels.T]
        return np.where(labels >= 0, np.concatenate(columns, axis=1), -np.inf)

    return {"popularity": popularity, "nearest_title": nearest_title}
