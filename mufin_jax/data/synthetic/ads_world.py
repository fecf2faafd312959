"""The world behind the generated ads: queries in clusters, their popularity, and their ads.

A query's vector is its cluster's vector plus noise; a cluster's vector is its topic's plus noise.
The frequency of a query follows Zipf's law. An ad belongs to one query drawn by popularity, and to
up to three more of the same cluster. It shows the mean of its queries, plus what their texts lack.

Each row of random numbers has its own address, so the result does not depend on the size of the
blocks in which rows are made.
"""

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.sparse import csr_matrix

from mufin_jax.data.synthetic.addresses import generator_of
from mufin_jax.runtime.distributed.padding import divide_up
from mufin_jax.runtime.errors import InputError

LABELS_PER_CLUSTER = 50
"""Mean size of a cluster, unless the number of clusters is given."""
CLUSTERS_PER_TOPIC = 40
"""Mean number of clusters around one topic's centre."""
MOST_LABELS = 4
"""The most labels of a datapoint."""
_DRAWN = 1024  # rows drawn from one generator
_HIDDEN = 1024  # distinct vectors of what the queries' texts lack


@dataclasses.dataclass(frozen=True)
class AdsConfig:
    """What to generate. The defaults take a second and 20 MB; 4.5 million labels take 3.5 GB."""

    PREPARED: ClassVar[bool] = True  # `write` makes a prepared folder, not a raw catalogue

    seed: int = 0
    """Address of all randomness."""
    points: int = 6000
    """Datapoints of the training set."""
    test_points: int = 1000
    """Datapoints of the test set."""
    labels: int = 2000
    """Labels."""
    dim: int = 192
    """Width of the vectors."""
    clusters: int | None = None
    """Clusters of labels; one for each 50 labels by default."""
    zipf: float = 1.0
    """Exponent of Zipf's law: the label of rank r is drawn in proportion to r ** -zipf."""
    cluster_zipf: float = 0.5
    """The same for the sizes of the clusters."""
    spread: float = 0.7
    """Distance of a label from the centre of its cluster, and of this centre from that of its
    topic. Both centres have length 1."""
    hidden: float = 0.6
    """Size of the part of a label that its datapoints show and its text lacks."""
    noise: float = 1.2
    """Distance of a title's or a picture's vector from what it shows."""

    def write(self, out: Path) -> None:
        """Write a prepared folder into `out`; see `ads.write_ads`."""
        from mufin_jax.data.synthetic.ads import write_ads  # which imports this file

        write_ads(self, out)

    def __post_init__(self) -> None:
        """Reject impossible sizes with the name of the field."""
        least = {"seed": 0, "points": 1, "test_points": 1, "labels": 2, "dim": 2}
        least |= {"zipf": 0, "cluster_zipf": 0, "spread": 0, "hidden": 0, "noise": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise InputError(f"generated data: {name}={value}, expected at least {low}")
        if self.labels + self.points + self.test_points >= 2**31:
            raise InputError(
                f"generated data: labels={self.labels}, points={self.points} and "
                f"test_points={self.test_points}: expected less than 2,147,483,648 together"
            )
        if self.clusters is not None and not 1 <= self.clusters <= self.labels:
            raise InputError(
                f"generated data: clusters={self.clusters}, expected 1 to {self.labels}, the "
                "number of labels"
            )


class Queries:
    """The labels: clusters, popularity and vectors.

    Attributes:
        config: what to generate.
        starts: the labels of cluster c are `starts[c]` to `starts[c + 1] - 1`.
        reached: cumulative popularity of all labels before label l.
    """

    def __init__(self, config: AdsConfig):
        """Draw the facts about all labels; their vectors are made when needed."""
        self.config = config
        count = config.clusters or divide_up(config.labels, LABELS_PER_CLUSTER)
        self.starts = _shares(config.labels, count, config.cluster_zipf)
        popularity = (1.0 + np.arange(config.labels)) ** -config.zipf
        rank = generator_of(config.seed, "popularity").permutation(config.labels)
        self.reached: Float64[np.ndarray, " l1"] = np.append(0, np.cumsum(popularity[rank]))
        scales = (1.0 + np.arange(config.dim)) ** -0.5
        self._scales = (scales / np.linalg.norm(scales)).astype(np.float32)
        topics = divide_up(count, CLUSTERS_PER_TOPIC)
        centres = _unit(self.noise("topics", 0, topics))[np.arange(count) % topics]
        self._centres = _unit(centres + config.spread * self.noise("centres", 0, count))
        self._hidden = config.hidden * self.noise("hidden", 0, _HIDDEN)

    def draw(self, name: str, count: int) -> csr_matrix:
        """Draw the labels of datapoints: one by popularity, up to three more of its cluster."""
        rng, reached = generator_of(self.config.seed, "pairs", name), self.reached
        at = rng.random(count) * reached[-1]
        first = np.searchsorted(reached[1:-1], at, "right")
        cluster = np.searchsorted(self.starts, first, "right") - 1
        low, high = self.starts[cluster, None], self.starts[cluster + 1, None]
        at = reached[low] + rng.random((count, MOST_LABELS - 1)) * (reached[high] - reached[low])
        # Rounding may move a sum beyond the cluster.
        others = np.searchsorted(reached[1:-1], at, "right").clip(low, high - 1)
        drawn = np.concatenate([first[:, None], others], 1)
        kept = np.arange(MOST_LABELS) <= rng.integers(0, MOST_LABELS, (count, 1))
        pairs = (np.ones(kept.sum(), np.float32), (np.nonzero(kept)[0], drawn[kept]))
        matrix = csr_matrix(pairs, shape=(count, self.config.labels))  # adds up repeated draws
        matrix.data[:] = 1
        matrix.sort_indices()
        return matrix

    def vectors(self, start: int, stop: int) -> Float32[np.ndarray, "r d"]:
        """Return the texts of labels: unit vectors around the centre of their cluster."""
        cluster = np.searchsorted(self.starts, np.arange(start, stop), "right") - 1
        away = self.config.spread * self.noise("labels", start, stop)
        return _unit(self._centres[cluster] + away)

    def shown(
        self, pairs: csr_matrix, label_vectors: Float32[np.ndarray, "l d"]
    ) -> Float32[np.ndarray, "r d"]:
        """Return the mean of the labels of datapoints, plus what the labels' texts lack."""
        labels = pairs.indices
        whole = label_vectors[labels] + self._hidden[labels % _HIDDEN]
        sums = np.add.reduceat(whole, pairs.indptr[:-1])
        return sums / np.diff(pairs.indptr)[:, None].astype(np.float32)

    def view(
        self, shown: Float32[np.ndarray, "r d"], name: str, start: int
    ) -> Float32[np.ndarray, "r d"]:
        """Return the titles, or the pictures, of datapoints from number `start` on."""
        away = self.config.noise * self.noise(name, start, start + len(shown))
        return _unit(shown + away)

    def noise(self, name: str, start: int, stop: int) -> Float32[np.ndarray, "r d"]:
        """Return rows of expected squared norm 1; a row does not depend on the requested range."""
        shape = (_DRAWN, self.config.dim)
        first = start // _DRAWN
        drawn = [
            generator_of(self.config.seed, name, part).standard_normal(shape, np.float32)
            for part in range(first, divide_up(stop, _DRAWN))
        ]
        rows = np.concatenate(drawn)[start - first * _DRAWN : stop - first * _DRAWN]
        return rows * self._scales


def _shares(total: int, parts: int, exponent: float) -> Int64[np.ndarray, " parts_plus_1"]:
    """Split a total into parts of at least one by Zipf's law; return their starts and the end."""
    weights = (1.0 + np.arange(parts)) ** -exponent
    ends = np.floor(np.cumsum(weights) / weights.sum() * (total - parts) + 0.5).astype(np.int64)
    ends[-1] = total - parts
    return np.append(0, ends + np.arange(1, parts + 1))


def _unit(rows: Float32[np.ndarray, "r d"]) -> Float32[np.ndarray, "r d"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
