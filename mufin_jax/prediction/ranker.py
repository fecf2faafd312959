"""Ranking items of a prepared folder: embed, shortlist, classify, mix, top k (paper, section 3).

A datapoint is embedded once. Its shortlist R comes with a_l, the largest cosine of x1 with any
entry of label l. The classifiers give c_l = x2_l·w_l, for the labels of the shortlist only. The
score is 0.7 c + 0.3 a. Label bags, centroids and index are rebuilt with the encoders that Module IV
leaves (`build.py`), so a query passes one encoder once.
"""

import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.loader import Loader, prefetch
from mufin_jax.model.embed_side import embed
from mufin_jax.model.heads import Embedding
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import new_loader
from mufin_jax.prediction import scoring, shapes
from mufin_jax.prediction.added import Added
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.encoding import BlockEncoder
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.parts import Known, Query
from mufin_jax.retrieval.barred import Barred, allowed_points
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed.mesh import by_row, fetch, put, replicated
from mufin_jax.runtime.surroundings import check_precision, check_process

BLOCK = 256
"""Datapoints that are embedded together."""


class Ranker:
    """Ranks labels for embedded items, and for the sides of a prepared folder.

    It knows the labels of training. A `Predictor` also knows the labels that come and go.

    Args:
        model: the encoders and attention blocks that Module IV leaves.
        index: label entries under this model.
        cache: the labels' bags, as A_C sees them, and classifiers.
        dataset: the prepared folder the model was trained on: tokenizer, picture size, titles.
        config: shortlist and mix.
        ranking: the parts and weights that rank instead of the paper's mix of c and a.
    """

    def __init__(
        self,
        model: Mufin,
        index: LabelIndex,
        cache: LabelCache,
        dataset: Dataset,
        config: PredictConfig,
        ranking: PartRanking | None = None,
    ):
        self.model, self.index, self.cache = model, index, cache
        self.dataset, self.config, self.ranking = dataset, config, ranking
        # Every process reads all rows, and no row is padding: a pool is cut into blocks, and each
        # block is spread over the devices on its own.
        self.loader = new_loader(model.config, dataset, padded=False)
        self.encoder = BlockEncoder(model.encoder(), self.loader.descriptors)
        self._heads, self._loaded_by = model.heads(), os.getpid()

    def rank_side(
        self,
        side: Side,
        extra: int = 0,
        lists: Shortlist | None = None,
        loader: Loader | None = None,
    ) -> Iterator[tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]]:
        """Yield labels and scores of a side's items, block after block, best first.

        Args:
            side: the items.
            extra: labels to retrieve beyond the shortlist, as an overlap filter can remove some.
            lists: shortlists to use instead of this predictor's own.
            loader: instead of this predictor's own, for a side of another folder.
        """
        for rows, pool, bags in self.read(side, loader=loader):
            given = None
            if lists is not None:
                given = Shortlist(lists.labels[rows], lists.similarities[rows])
            known = self.ranking and self.ranking.known_of(side, rows)
            yield self.rank(pool, bags, len(rows), extra, given, known)

    def read(
        self, side: Side, rows: Int[np.ndarray, " n"] | None = None, loader: Loader | None = None
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Pool, Bags]]:
        """Yield places among the rows, with what is read of them, block after block.

        Args:
            side: the items; no more pictures of one are read than the loader's dataset has of any
                item of the side's kind.
            rows: those that are read; all by default.
            loader: instead of this predictor's own.
        """
        rows, loader = np.arange(len(side)) if rows is None else rows, loader or self.loader
        blocks = [np.arange(some.start, some.stop) for some in cut(len(rows), BLOCK)]
        made = prefetch(lambda i: self.batch(side, rows[blocks[i]], loader), 0, len(blocks))
        for block, (pool, bags) in zip(blocks, made, strict=True):
            yield block, pool, bags

    def batch(
        self, side: Side, rows: Int[np.ndarray, " b"], loader: Loader | None = None
    ) -> tuple[Pool, Bags]:
        """Return what is read of these items of a side; see `read`."""
        pool, (bags,) = (loader or self.loader).batch([(side, rows)])
        return pool, bags

    def rank(
        self,
        pool: Pool,
        bags: Bags,
        count: int,
        extra: int = 0,
        lists: Shortlist | None = None,
        known: Known | None = None,
        barred: Barred | None = None,
        added: Added | None = None,
    ) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
        """Return the labels of the first `count` bags and their scores, best first.

        Shortlists that are given are scored by the paper's mix. Parts also use what is `known` of
        the datapoints; without it, they have no title and are cold. No other list has labels that
        are `barred`. Labels `added` after training rank with those of training.
        """
        points = self.embed(pool, bags)
        if lists is None:
            x, k = fetch(points.vector)[:count], self.config.shortlist + extra
            if self.ranking is not None:
                known = known or Known([""] * count, np.full(count, -1))
                ranking = added.ranking if added and added.ranking else self.ranking
                return ranking.rank(Query(points, x, known, barred), k)
            if added is not None:
                return added.rank(points, x, k, barred)
            lists = allowed_points(self.index, x, k, barred)
        labels, scores = self.score(points, lists)
        return labels[:count], scores[:count]

    def embed(self, pool: Pool, bags: Bags) -> Embedding:
        """Return the embeddings of the bags, padded to one of few sizes, on the devices.

        Raises:
            InputError: in a fork of the process that loaded the predictor, and where JAX makes
                arrays of 64 bits.
        """
        check_process(self._loaded_by)
        check_precision()
        mesh = self.model.mesh
        none = np.zeros((1, self.model.dim), np.float32)
        vectors = np.concatenate([none, *self.encoder.describe(pool)])
        bags = shapes.padded(bags, mesh.size)
        # Descriptors in the order of the slots: the shape of what is embedded is that of the bags.
        chosen = vectors[np.where(bags.mask, bags.slots + 1, 0).ravel()]
        bags = Bags(np.arange(bags.mask.size, dtype=np.int32).reshape(bags.mask.shape), bags.mask)
        return embed(self._heads, put(chosen, replicated(mesh)), put(bags, by_row(mesh)))

    def score(
        self, points: Embedding, lists: Shortlist
    ) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
        """Return the labels of shortlists and their scores, best first.

        Args:
            points: what `embed` returned.
            lists: the shortlists of the first datapoints; the other datapoints are padding.
        """
        return scoring.score(self._heads, points, self.cache, lists, self.config.mix)
