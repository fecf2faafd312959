"""How good a model in training is on validation points: the objective of early stopping.

It is the objective that the weights of a score's parts are fitted by (selection.py): the mean of
P@1, nDCG@5 and R@10 over validation points, filtered as test points are. Module I is measured by
x1·z_l among a sample of the labels, Module IV by its scores of the shortlists of Module II.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Float, Int

from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.loader import Loader, SideRows, prefetch
from mufin_jax.data.validation import Validation
from mufin_jax.evaluation import metrics
from mufin_jax.evaluation.metrics import Csr
from mufin_jax.evaluation.rankings import drop, spare_places
from mufin_jax.model.label_table import padded_rows
from mufin_jax.model.mufin import Mufin
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed.mesh import by_row, fetch, put
from mufin_jax.runtime.distributed.padding import next_multiple, usual_size
from mufin_jax.runtime.draws import Draw, generator
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.training.early_stopping import ValidateConfig
from mufin_jax.training.finetune_batches import Batch, pad_labels

PLACES = 10
"""Places of a ranking that the objective reads."""
BLOCK = 256
"""Items that are embedded together."""
POINTS = 32
"""Points whose shortlists are scored together."""

_embed = jax.jit(lambda model, pool, bags: model.embed(model.describe(pool), bags).vector)


def objective(ranking: Int[np.ndarray, "b k"], relevance: Csr, filter: Csr) -> float:
    """Return the mean of P@1, nDCG@5 and R@10 in percent, over points with a positive.

    Args:
        ranking: labels of each point, best first, -1 in free places; longer than `PLACES` by as
            many labels as the filter can remove.
        relevance: of these points, unfiltered.
        filter: the pairs of these points that are not scored.
    """
    kept, wanted, _ = drop(ranking, relevance, filter)
    scored = np.diff(wanted.indptr) > 0
    kept, wanted = kept[scored], wanted[scored]
    values = (
        metrics.precision(kept, wanted, 1),
        metrics.ndcg(kept, wanted, 5),
        metrics.recall(kept, wanted, PLACES),
    )
    return sum(values) / len(values)


def chosen_points(dataset: Dataset, config: ValidateConfig, seed: int) -> Validation:
    """Return the validation points that count, or a draw of them: those with a positive.

    Raises:
        InputError: if there are none.
    """
    validation = dataset.validation
    if validation is None or not len(validation):
        raise InputError(
            f"{dataset.path}: found no validation points to choose the best step by; prepare with "
            "--prepare.validation-share=0.1, or leave out validate.every"
        )
    nothing = np.zeros((len(validation), 0), np.int32)
    _, wanted, _ = drop(nothing, validation.relevance, validation.filter)
    some = np.flatnonzero(np.diff(wanted.indptr))
    if not len(some):
        raise InputError(
            f"{dataset.path}: no validation point has a relevant label after overlap filtering; "
            "expected some to choose the best step by; leave out validate.every"
        )
    some = np.sort(generator(seed, Draw.VALIDATION_POINTS).permutation(some)[: config.points])
    return dataclasses.replace(
        validation,
        rows=validation.rows[some],
        cold=validation.cold[some],
        filter=validation.filter[some],
        relevance=validation.relevance[some],
    )


class ByVectors:
    """Measures Module I: validation points rank labels by x1·z_l.

    Where there are many labels, they rank the labels relevant to them and a draw of the others. The
    figure is then better than among all labels, but states compare in the same way.

    Args:
        dataset: the prepared folder.
        loader: reads its descriptors.
        config: how many points and labels are scored.
        seed: of the draws.

    Raises:
        InputError: if there are no validation points.
    """

    def __init__(self, dataset: Dataset, loader: Loader, config: ValidateConfig, seed: int):
        points = chosen_points(dataset, config, seed)
        relevant = np.unique(points.relevance.indices)
        others = np.setdiff1d(np.arange(dataset.num_labels), relevant)
        drawn = generator(seed, Draw.VALIDATION_LABELS).permutation(others)
        labels = np.sort(np.concatenate([relevant, drawn[: max(config.labels - len(relevant), 0)]]))
        self.relevance, self.filter = points.relevance[:, labels], points.filter[:, labels]
        self._points = _Embedder(loader, dataset.train, points.rows)
        self._labels = _Embedder(loader, dataset.labels, labels)

    def __call__(self, model: Mufin) -> float:
        """Return the objective of a model; every process must call this."""
        x, z = self._points(model), self._labels(model)
        k = PLACES + spare_places(self.filter)
        blocks = cut(len(x), max(1, metrics.BLOCK_CELLS // len(z)))
        ranking = np.concatenate([_first(x[rows] @ z.T, k) for rows in blocks])
        return objective(ranking, self.relevance, self.filter)


class ByShortlists:
    """Measures Module IV: it ranks the Module II shortlists of validation points.

    Validation points are training points, which have shortlists. A score is that of prediction,
    s = mix * c + (1 - mix) * a, with Module I's similarities a.

    Args:
        dataset: the prepared folder.
        loader: reads its descriptors.
        lists: the shortlists of all training points.
        mix: the weight of c.
        config: how many points are scored.
        seed: of the draw of points.

    Raises:
        InputError: if there are no validation points.
    """

    def __init__(
        self,
        dataset: Dataset,
        loader: Loader,
        lists: Shortlist,
        mix: float,
        config: ValidateConfig,
        seed: int,
    ):
        self._points, self._mix = chosen_points(dataset, config, seed), mix
        rows = self._points.rows
        self._lists = Shortlist(lists.labels[rows], lists.similarities[rows])
        size = next_multiple(min(POINTS, len(rows)), loader.mesh_size)
        # The last block repeats its last point: all blocks have one shape.
        wide = np.pad(
            np.arange(len(rows)), (0, next_multiple(len(rows), size) - len(rows)), mode="edge"
        )
        self._blocks, self._table = wide.reshape(-1, size), padded_rows(dataset.num_labels)
        self._dataset = dataset
        labels = [self._labels_of(block) for block in self._blocks]
        self._usual = usual_size([len(some) for some in labels], loader.mesh_size)
        self._loader = loader.padded_to(loader.usual_sizes(map(self._shown, self._blocks, labels)))

    def __call__(self, scores: Callable[[Batch], Float[np.ndarray, "b c"]]) -> float:
        """Return the objective; every process must call this.

        Args:
            scores: returns c of a batch, as `finetune_step.make_scores` makes it.
        """
        made = prefetch(self._batch, 0, len(self._blocks))
        c = np.concatenate([scores(batch) for batch in until_stopped(made, "validation")])
        lists = self._lists
        real = lists.labels >= 0
        total = self._mix * c[: len(real)] + (1 - self._mix) * np.where(real, lists.similarities, 0)
        order = np.argsort(-np.where(real, total, -np.inf), axis=1, kind="stable")
        ranking = np.take_along_axis(lists.labels, order, 1)
        return objective(ranking, self._points.relevance, self._points.filter)

    def _labels_of(self, block: Int[np.ndarray, " b"]) -> Int[np.ndarray, " u"]:
        listed = self._lists.labels[block]
        return np.unique(listed[listed >= 0])

    def _shown(self, block: Int[np.ndarray, " b"], labels: Int[np.ndarray, " u"]) -> list[SideRows]:
        points = self._points.rows[block]
        return [(self._dataset.train, points), (self._dataset.labels, labels)]

    def _batch(self, number: int) -> Batch:
        block = self._blocks[number]
        listed, labels = self._lists.labels[block], self._labels_of(block)
        real = listed >= 0
        chosen = np.where(real, np.searchsorted(labels, listed), 0).astype(np.int32)
        ids, rows = pad_labels(labels, self._table, self._loader.mesh_size, self._usual)
        pool, (points, bags) = self._loader.batch(self._shown(block, rows))
        return Batch(pool, points, bags, ids, chosen, real, ~real)


class _Embedder:
    """Embeds the same items of a side with one model after another."""

    def __init__(self, loader: Loader, side: Side, rows: Int[np.ndarray, " b"]):
        self.count, size = len(rows), next_multiple(min(BLOCK, len(rows)), loader.mesh_size)
        # The last block repeats its last item: all blocks have one shape.
        wide = np.pad(rows, (0, next_multiple(len(rows), size) - len(rows)), mode="edge")
        self._blocks = [[(side, some)] for some in wide.reshape(-1, size)]
        self._loader = loader.padded_to(loader.usual_sizes(self._blocks))

    def __call__(self, model: Mufin) -> Float[np.ndarray, "b d"]:
        place = by_row(model.mesh)
        found = []
        for pool, (bags,) in until_stopped(_batches(self._loader, self._blocks), "validation"):
            found.append(fetch(_embed(model, put(pool, place), put(bags, place))))
        return np.concatenate(found)[: self.count]


def _batches(loader: Loader, blocks: list[list[SideRows]]) -> Iterator:
    return prefetch(lambda number: loader.batch(blocks[number]), 0, len(blocks))


def _first(scores: Float[np.ndarray, "b l"], k: int) -> Int[np.ndarray, "b k"]:
    """Return the labels of the k largest scores of each row, best first."""
    if scores.shape[1] > k:
        some = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    else:
        some = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)
