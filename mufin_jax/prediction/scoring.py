"""Scores of shortlists: s = 0.7 c + 0.3 a, c_l = x2_l·w_l (paper, section 3).

x2_l is the datapoint as label l sees it, so each pair of a datapoint and a label of its shortlist
has a cross-attention of its own, over the label's bag. On a CPU, datapoints are scored one after
the other in one program: the bags of one shortlist fit its cache, and their memory is used again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.prediction.label_cache import LabelCache, gather
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import fetch, replicated
from mufin_jax.runtime.distributed.padding import divide_up, grown

TOGETHER = {"cpu": 1}
"""Datapoints that a device scores together, by platform: it bounds the memory of their bags ..."""
_ELSEWHERE = 32
"""... and on accelerators keeps them busy."""


def score(
    heads: Heads, points: Embedding, cache: LabelCache, lists: Shortlist, mix: float
) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    """Return the labels of shortlists and their scores, best first; -inf for no label.

    Args:
        heads: where A_C comes from.
        points: the datapoints.
        cache: bags and classifiers of all labels.
        lists: the shortlists of the first datapoints; the other datapoints are padding.
        mix: weight of c.
    """
    labels, slots, groups, together = _shapes(heads, points, cache, lists.labels)
    found = (labels, grown(lists.similarities, len(labels), -np.inf), slots)
    return fetch(_score(heads, points, cache.arrays, found, groups, together=together, mix=mix))


def classify(
    heads: Heads, points: Embedding, cache: LabelCache, labels: Int32[np.ndarray, "b c"]
) -> Float32[np.ndarray, "b c"]:
    """Return c_l = x2_l·w_l of each datapoint with each of its labels; 0 for label -1.

    Args:
        heads: where A_C comes from.
        points: the datapoints.
        cache: bags and classifiers of all labels.
        labels: of the first datapoints; the other datapoints are padding.
    """
    wide, slots, groups, together = _shapes(heads, points, cache, labels)
    c = _classify(heads, points, cache.arrays, wide, slots, groups, together=together)
    return fetch(c)[: len(labels)]


def _shapes(
    heads: Heads, points: Embedding, cache: LabelCache, labels: Int[np.ndarray, "b c"]
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return labels for all datapoints, their slots, and how many groups of how many count."""
    size, devices = len(points.mask), heads.mesh.devices
    together = min(TOGETHER.get(devices.flat[0].platform, _ELSEWHERE) * devices.size, size)
    wide = grown(labels, size, -1)
    return wide, cache.slots(wide), divide_up(len(labels), together), together


@functools.partial(jax.jit, static_argnames=("together", "mix"))
def _score(
    heads: Heads, points: Embedding, arrays: Any, found: Any, groups: Any, together: int, mix: float
) -> tuple[jax.Array, jax.Array]:
    """Return the labels and scores of shortlists, best first; -inf for no label."""
    labels, a, slots = found
    c = _classified(heads, points, arrays, labels, slots, groups, together)
    real = labels >= 0
    scores = jnp.where(real, mix * c + (1 - mix) * jnp.where(real, a, 0), -jnp.inf)
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jnp.take_along_axis(labels, order, -1), jnp.take_along_axis(scores, order, -1)


def _classified(
    heads: Heads, points: Embedding, arrays: Any, labels: Any, slots: Any, groups: Any,
    together: int,
) -> jax.Array:  # fmt: skip
    """Return c of datapoints with their labels.

    Datapoints are scored in groups of `together`; those after the last group are padding.
    """
    whole = (points, labels, slots)
    whole = jax.lax.with_sharding_constraint(whole, replicated(heads.mesh))

    def group(number: Any, c: jax.Array) -> jax.Array:
        # A slice that would reach over the end starts earlier: some rows are then computed twice.
        points, labels, slots = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, number * together, together), whole
        )
        memory, w = gather(arrays, labels, slots, heads.mesh)
        own = jnp.einsum("bcd,bcd->bc", heads.adapt(points, memory), w)
        return jax.lax.dynamic_update_slice_in_dim(c, own, number * together, 0)

    return jax.lax.fori_loop(0, groups, group, jnp.zeros(labels.shape))


_classify = jax.jit(_classified, static_argnames="together")
