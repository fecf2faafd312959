"""A made-up label side in the shape that a trained model leaves: entries, label after label.

A label has a kind and a theme, and shares each of them with many others. The labels nearest to a
datapoint therefore lie in several directions, as in a catalogue, and not in one cluster that an
index finds as a whole. The entries of a label lie around it: 1 to 16, 6 on average, like the
pictures of products. A datapoint lies around a label that is relevant to it.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int64

from mufin_jax.runtime.blocks import cut

DIM = 192
ALIKE = 60
"""Labels of the same kind and theme: fewer than a shortlist holds."""
_BLOCK = 1 << 16
_LABEL, _ENTRY, _POINT = 1.0, 1.2, 0.8
"""How far a label lies from its kind and theme, and entries and datapoints from their label."""


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Labels to draw entries and datapoints around."""

    labels: Float32[np.ndarray, "l d"]
    offsets: Int64[np.ndarray, "l1"]

    @classmethod
    def draw(cls, num_labels: int, seed: int = 0, dim: int = DIM) -> "Catalogue":
        """Return so many labels, and where the entries of each begin."""
        rng = np.random.default_rng([seed, num_labels])
        count = max(round((num_labels / ALIKE) ** 0.5), 2)
        kinds, themes = normal(rng, count, dim), normal(rng, count, dim)
        labels = np.empty((num_labels, dim), np.float32)
        for rows in cut(num_labels, _BLOCK):
            kind, theme = rng.integers(count, size=(2, rows.stop - rows.start))
            near = kinds[kind] + themes[theme]
            labels[rows] = unit(near + _LABEL * normal(rng, *near.shape))
        counts = 1 + rng.binomial(15, 1 / 3, num_labels)
        return cls(labels, np.concatenate([[0], np.cumsum(counts)]))

    def entries(self, seed: int = 1) -> Float32[np.ndarray, "e d"]:
        """Return the entries, label after label."""
        rng = np.random.default_rng([seed, len(self.labels)])
        vectors = np.empty((self.offsets[-1], self.labels.shape[1]), np.float32)
        owners = np.repeat(np.arange(len(self.labels)), np.diff(self.offsets))
        for rows in cut(len(vectors), _BLOCK):
            near = self.labels[owners[rows]]
            vectors[rows] = unit(near + _ENTRY * normal(rng, *near.shape))
        return vectors

    def points(self, count: int, seed: int = 2) -> Float32[np.ndarray, "b d"]:
        """Return datapoints, each near a label."""
        rng = np.random.default_rng([seed, len(self.labels)])
        near = self.labels[rng.integers(len(self.labels), size=count)]
        return unit(near + _POINT * normal(rng, *near.shape))


def normal(rng: np.random.Generator, count: int, dim: int) -> Float32[np.ndarray, "b d"]:
    """Return vectors of length about 1 in any direction."""
    return rng.standard_normal((count, dim), np.float32) / np.float32(dim**0.5)


def unit(vectors: Float32[np.ndarray, "b d"]) -> Float32[np.ndarray, "b d"]:
    """Sphere-normalise."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
