"""Cross-attention between datapoints and labels: its weights, x2 and w (the paper's figure 5).

The model computes a sample of test points again, block after block, so memory does not grow with
the data. All processes of a run must call these functions together.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.loader import Loader
from mufin_jax.evaluation.outfits import rank_answers, score_answers
from mufin_jax.evaluation.rankings import spare_places
from mufin_jax.model.attention import AttentionBlock
from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.prediction.label_cache import gather
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report.panel import Missing
from mufin_jax.runtime.distributed.mesh import fetch, replicated
from mufin_jax.runtime.distributed.padding import grown
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import until_stopped


@dataclasses.dataclass(frozen=True)
class Meetings:
    """Datapoints and c labels for each, on the host.

    Attributes:
        x1: of the datapoints.
        x2: the datapoints adapted to each label.
        w: the labels' classifiers.
        weights: attention from each of a datapoint's n descriptors to each of a label's m, a mean
            over heads; 0 for padding. None if the model has no cross-attention.
    """

    x1: Float[np.ndarray, "b d"]
    x2: Float[np.ndarray, "b c d"]
    w: Float[np.ndarray, "b c d"]
    weights: Float[np.ndarray, "b c n m"] | None


def meet(
    predictor: Predictor, rows: Int[np.ndarray, " b"], labels: Int[np.ndarray, "b c"]
) -> Iterator[Meetings]:
    """Yield the meetings of some test points with the labels given for each, block after block.

    Args:
        predictor: a trained model with its label side.
        rows: test points.
        labels: labels for each of them; -1 for none, whose x2 has no meaning.
    """
    cache = predictor.cache
    for block, pool, bags in _read(predictor, predictor.loader, rows, "attend"):
        points = predictor.embed(pool, bags)
        named = grown(labels[block].astype(np.int32), len(points.mask), -1)
        heads = predictor.model.heads()
        met = _meet(heads, points, cache.arrays, named, cache.slots(named), heads.mesh)
        x1, x2, w, weights = fetch(met)
        real = slice(len(block))  # the rest is padding
        weights = None if weights is None else weights[real]
        yield Meetings(x1[real], x2[real], w[real], weights)


@functools.partial(jax.jit, static_argnames="mesh")
def _meet(heads: Heads, points: Embedding, arrays: Any, labels: Any, slots: Any, mesh: Mesh) -> Any:
    whole = jax.lax.with_sharding_constraint((points, labels, slots), replicated(mesh))
    points, labels, slots = whole
    memory, w = gather(arrays, labels, slots, mesh)
    weights = None
    if isinstance(heads.cross_attention, AttentionBlock):
        weights = heads.cross_attention.weights(points.bag[:, None], memory).mean(-3)
    return points.vector, heads.adapt(points, memory), w, weights


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Attention from each descriptor of a test point to each descriptor of a label.

    Attributes:
        point, label: their numbers.
        rows, columns: the numbers of their descriptors in the loader's order: texts first.
        weights: each row sums to one.
    """

    point: int
    label: int
    rows: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, "n m"]

    @property
    def shares(self) -> Float[np.ndarray, "n m"]:
        """The share of each of the point's descriptors in what a label's descriptor receives.

        These are the weights divided by the sums of their columns. A label's title receives much
        from most descriptors, so weights of different columns are not comparable.
        """
        return self.weights / np.maximum(self.weights.sum(0), np.finfo(np.float32).tiny)


def heat_map(
    predictor: Predictor, point: int, label: int, weights: Float[np.ndarray, "_n _m"]
) -> HeatMap:
    """Return the weights of a meeting without their padding."""
    loader, dataset = predictor.loader, predictor.dataset
    rows, real = (part[0] for part in loader.slots(dataset.test, np.array([point])))
    columns, there = (part[0] for part in loader.slots(dataset.labels, np.array([label])))
    grid = weights[np.flatnonzero(real), : there.sum()]  # a label's descriptors have no gaps
    return HeatMap(point, label, rows[real], columns[there], grid)


def ask(
    predictor: Predictor, rows: Int[np.ndarray, " b"], by: Literal["text", "images"]
) -> Int[np.ndarray, "b k"]:
    """Return the labels of some test points, best first, seen only by their texts or images.

    The model is the same trained model, and labels keep both modalities. Where the score has parts,
    these know which label a point is, but not the title of a point seen by its images. A point
    without the modality gets an empty list. If test points are questions, their given answers are
    ranked.

    Raises:
        Missing: if the model, or the data, have only one modality, or the model fuses both into one
            descriptor.
    """
    dataset, seen = predictor.dataset, predictor.model.config
    if seen.modalities == "joint":
        raise Missing("the model makes one descriptor of a title and its pictures (joint)")
    if seen.modalities != "both":
        raise Missing(f"the model sees one modality alone ({seen.modalities})")
    try:
        loader = Loader(dataset, by, label_images=seen.label_images, padded=False)
    except InputError:
        raise Missing(f"no item has {'a title' if by == 'text' else 'pictures'}") from None
    extra, questions = spare_places(dataset.test.filter), dataset.questions
    width = predictor.config.shortlist + extra
    if questions is not None:
        width = questions.answers.shape[1]
    labels = np.full((len(rows), width), -1, np.int32)
    _, real = loader.slots(dataset.test, rows)
    asked = np.flatnonzero(real.any(1))
    for block, pool, bags in _read(predictor, loader, rows[asked], by):
        shown = rows[asked[block]]
        if questions is not None:
            given = questions.answers[shown]
            found, _ = rank_answers(given, score_answers(predictor, pool, bags, given))
        else:
            known = predictor.ranking and predictor.ranking.known_of(dataset.test, shown)
            if known and by == "images":
                known = known._replace(titles=[""] * len(block))
            found, _ = predictor.rank(pool, bags, len(block), extra, known=known)
        labels[asked[block], : found.shape[1]] = found
    return labels


def _read(
    predictor: Predictor, loader: Loader, rows: Int[np.ndarray, " b"], what: str
) -> Iterator[tuple[Int[np.ndarray, " b"], Pool, Bags]]:
    """Yield some test points, block after block, and show the progress."""
    blocks = predictor.read(predictor.dataset.test, rows, loader)
    with progress(total=len(rows), desc=f"report: {what}", unit="point", leave=False) as bar:
        for block, pool, bags in until_stopped(blocks, "report"):
            yield block, pool, bags
            bar.update(len(block))
