"""Choosing the validation part: training points that are held out and scored like test points.

The choice depends on the points' ids alone. The same point is therefore held out in every
preparation, whatever the order of the catalogue.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int64

from mufin_jax.data.own_labels import own_labels, warm_points
from mufin_jax.data.preparation.overlap import own_pairs, reversed_pairs
from mufin_jax.data.readers.catalogue import SIDES
from mufin_jax.data.sparse import load_csr, without
from mufin_jax.data.strings import Strings
from mufin_jax.data.validation import HELD_OUT, Validation
from mufin_jax.runtime.errors import InputError

COLD_SHARE = 0.5
"""The share of the validation points with a label of their own whose label is hidden."""
_log = logging.getLogger(__name__)

Csr = scipy.sparse.csr_matrix


def save_validation(folder: Path, share: float, outfits: bool = False) -> dict[str, int]:
    """Write the validation part of a folder that has ids, relevance and filters.

    Args:
        folder: gets `train_held_out.npz`, `validation.npz` and `validation_filter.npz`.
        share: of the training points.
        outfits: whether points are outfits without one item, named `<outfit>_<place>`. All points
            of an outfit are then held out together, because each one names the others' labels.

    Returns:
        The numbers of validation points, of cold ones and of held-out pairs, for the report.

    Raises:
        InputError: if there is no validation point, or nothing is left to train on.
    """
    ids = {name: Strings.load(folder / f"{name}_ids.npz") for name in SIDES}
    relevance, filters = (
        {name: load_csr(folder / f"{name}_{kind}.npz", len(ids[name])) for name in SIDES[:2]}
        for kind in ("relevance", "filter")
    )
    hashed = (uid.rpartition("_")[0] for uid in ids["train"]) if outfits else ids["train"]
    chosen = below(share, "validation", hashed) & (np.diff(relevance["train"].indptr) > 0)
    cold = chosen & below(COLD_SHARE, "cold", ids["train"])
    try:
        held_out, validation = hold_out(chosen, cold, ids, relevance, filters)
    except InputError as error:
        raise InputError(f"validation_share is {share}: {error}") from None
    scipy.sparse.save_npz(folder / HELD_OUT, held_out)
    validation.save(folder)
    counts = {
        "validation": len(validation),
        "validation_cold": int(validation.cold.sum()),
        "train_held_out": int(held_out.nnz),
    }
    _log.info(
        "validation: %d of %d training points, %d of them cold; %d of %d pairs do not train",
        counts["validation"], len(chosen), counts["validation_cold"], counts["train_held_out"],
        relevance["train"].nnz,
    )  # fmt: skip
    return counts


def below(share: float, purpose: str, ids: Iterable[str]) -> Bool[np.ndarray, " n"]:
    """Return which ids have a hash below a share of all hashes; each purpose has its own hash."""
    digests = (hashlib.sha1(f"{purpose}:{uid}".encode()).hexdigest() for uid in ids)
    return np.array([int(digest[:8], 16) / 2**32 < share for digest in digests], bool)


def hold_out(
    chosen: Bool[np.ndarray, " n"],
    cold: Bool[np.ndarray, " n"],
    ids: Mapping[str, Strings],
    relevance: Mapping[str, Csr],
    filters: Mapping[str, Csr],
) -> tuple[Csr, Validation]:
    """Hold out some training points.

    All pairs of a validation point are held out. Some validation points are made cold: all pairs of
    their own label are held out as well. A point is also cold if its item is no label, or if no
    other point keeps a pair of its own label.

    The validation filter must leave out what the test filter leaves out. Otherwise a score that
    remembers reversed pairs looks better in validation than it is in the test. It has the points'
    rows of the training filter, and two kinds of pairs:

    - own pairs: a point and the label that is the same item;
    - reversed pairs: relevant pairs (b, a) where (a, b) still trains.

    A kind is left out if the test filter has at least half of the test points' pairs of this kind,
    or if test points have none: then the test does not score such pairs either. This holds for
    filter files as for `self` and `reciprocal`.

    Args:
        chosen: which training points to hold out.
        cold: which of them to make cold.
        ids: of "train", "test" and "label".
        relevance: of "train" and "test", points x labels.
        filters: the overlap filters of "train" and "test".

    Returns:
        The held-out pairs, training points x labels, and the validation part.

    Raises:
        InputError: if no point is chosen, or no pair is left to train on.
    """
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise InputError("no training point is held out; expected a larger share, or 0 for none")
    own = own_labels(ids["train"], ids["label"])
    hidden = np.zeros(len(ids["label"]), bool)
    hidden[own[chosen & cold & (own >= 0)]] = True
    held_out = _held_out(relevance["train"], chosen, hidden)
    trained = without(without(relevance["train"], filters["train"]), held_out)
    if not trained.nnz:
        raise InputError("no pair is left to train on; expected a smaller share, or 0 for none")
    cold = ~warm_points(own[rows], trained)
    test_own = own_labels(ids["test"], ids["label"])
    filter = _validation_filter(rows, (own, test_own), len(hidden), trained, relevance, filters)
    return held_out, Validation(rows, cold, filter, relevance["train"][rows])


def _held_out(
    relevance: Csr, chosen: Bool[np.ndarray, " n"], hidden: Bool[np.ndarray, " labels"]
) -> Csr:
    """Return the relevant pairs of chosen points, and those of hidden labels."""
    pairs = relevance.tocoo()
    apart = chosen[pairs.row] | hidden[pairs.col]
    ones = np.ones(int(apart.sum()), np.float32)
    return Csr((ones, (pairs.row[apart], pairs.col[apart])), relevance.shape)


def _validation_filter(
    rows: Int64[np.ndarray, " v"],
    own: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " b"]],
    num_labels: int,
    trained: Csr,
    relevance: Mapping[str, Csr],
    filters: Mapping[str, Csr],
) -> Csr:
    """Return the pairs of validation points that are not scored: see `hold_out`.

    `own` has the labels that the training points and the test points are themselves.
    """
    train_own, test_own = own
    likes, test_likes = relevance["train"], relevance["test"]
    own_of_test = own_pairs(test_own, num_labels)
    reversed_of_test = reversed_pairs(likes, train_own, test_likes, test_own, num_labels)
    filter = Csr(filters["train"][rows], dtype=bool)
    if _leaves_out(filters["test"], own_of_test):
        filter = filter + Csr(own_pairs(train_own[rows], num_labels), dtype=bool)
    if _leaves_out(filters["test"], without(reversed_of_test, own_of_test)):
        found = reversed_pairs(trained, train_own, likes[rows], train_own[rows], num_labels)
        filter = filter + Csr(found, dtype=bool)
    filter = Csr(filter, dtype=np.float32)
    filter.sort_indices()
    return filter


def _leaves_out(filter: Csr, pairs: Csr) -> bool:
    """Return whether a filter has at least half of some pairs; true if there are none."""
    return 2 * without(pairs, filter).nnz <= pairs.nnz
