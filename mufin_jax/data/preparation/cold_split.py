"""The cold split: the labels that are test products are left out, so that no test point is warm.

In product-to-product data, a test product is usually a label of training too, and whoever
remembers its co-purchases needs no content. Without these labels, a test point is a product that
training has never seen, to be ranked by its text and pictures alone.
"""

import logging
from typing import Literal

import numpy as np

from mufin_jax.data.preparation.items import compact_pairs
from mufin_jax.data.readers.catalogue import SIDES, Catalogue
from mufin_jax.runtime.errors import InputError

Split = Literal["given", "cold"]
_log = logging.getLogger(__name__)


def drop_test_products(catalogue: Catalogue) -> dict[str, dict[str, int]]:
    """Mark the labels that are test products as not kept, and log how many these are.

    Two items are the same if their whole ids are equal.

    Returns:
        "cold" -> the numbers of labels, and of training and test pairs, that are left out, and of
        test points that have no relevant label any more, for the report of preparation.

    Raises:
        InputError: if the test points are questions, or no label is left.
    """
    if catalogue.questions is not None:
        raise InputError(
            "split=cold: the test points are questions with given answers, expected points that "
            "rank all labels: use split=given"
        )
    test, label = catalogue.sides["test"], catalogue.sides["label"]
    before = {name: compact_pairs(catalogue, catalogue.relevance[name], name) for name in SIDES[:2]}
    products = {uid for uid, kept in zip(test.ids, test.kept, strict=True) if kept}
    tested = np.array([uid in products for uid in label.ids], bool)
    dropped = int(np.count_nonzero(label.kept & tested))
    label.kept &= ~tested
    if not label.kept.any():
        raise InputError(
            f"split=cold: all {dropped:,} labels are test products, expected labels that are not: "
            "use split=given, or hold out fewer products"
        )
    after = {name: compact_pairs(catalogue, catalogue.relevance[name], name) for name in SIDES[:2]}
    scored, left = (np.diff(pairs["test"].indptr) > 0 for pairs in (before, after))
    found = {
        "labels_left_out": dropped,
        "train_pairs_left_out": before["train"].nnz - after["train"].nnz,
        "test_pairs_left_out": before["test"].nnz - after["test"].nnz,
        "test_points_without_a_label_now": int(np.count_nonzero(scored & ~left)),
    }
    _log.info(
        "cold split: %d of %d labels are test products and left out, with %d training pairs and "
        "%d test pairs; %d test points have no relevant label any more",
        dropped, len(label), *list(found.values())[1:],
    )  # fmt: skip
    return {"cold": found}
