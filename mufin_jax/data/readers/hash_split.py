"""The split of an unsplit catalogue by a hash of each product's id: points, test points, labels.

If no relation is left, the error tells why.
"""

import hashlib
from collections.abc import Iterable, Sequence

from mufin_jax.data.readers.products import Product
from mufin_jax.data.readers.relations import (
    ProductFile,
    quoted,
    tell_relations,
    unread_relations,
)
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError

TEST_SHARE = 0.2
"""The share of the products of an unsplit catalogue that become test points."""


def is_test(asin: str, share: float = TEST_SHARE) -> bool:
    """Return whether a product of an unsplit catalogue is a test point, by a hash of its id."""
    number = int(hashlib.sha1(asin.encode("utf-8", "replace")).hexdigest()[:8], 16)
    return (number % 5 + number // 5 % 1000 / 1000) / 5 < share  # by default one in five


def split_by_hash(
    file: ProductFile, tally: Tally, share: float = TEST_SHARE
) -> dict[str, ProductFile]:
    """Split into sides: points have a label; labels are bought with a training point.

    Products whose relations match nothing are counted: they become neither point nor label.

    Raises:
        InputError: if no product has a relation to another one; the message tells why.
    """
    products = [item for item in file.items if item.kept]
    uids = {item.uid for item in products}
    tell_relations(tally, [file], uids)
    related = [item for item in products if item.relevant]
    matched = [item for item in related if not uids.isdisjoint(item.relevant or ())]
    if not matched:
        tally.check()
        raise InputError(_no_relation(file, products, related))
    similar = uids  # are looked through once: every further search would take as long
    for item in related:
        if uids.isdisjoint(item.relevant or ()):
            reason = f"none of its {len(item.relevant or ())} related ids is a product: "
            reason, similar = reason + _first(item, similar), set[str]()
            tally.count("product without a match", file.name, item.row, reason)
    test = [item for item in matched if is_test(item.uid, share)]
    train = [item for item in matched if not is_test(item.uid, share)]
    bought = {uid for item in train for uid in item.relevant or ()}
    labels = [item for item in products if item.uid in bought]
    kept = [item for item in test if not bought.isdisjoint(item.relevant or ())]
    for item in test:
        if bought.isdisjoint(item.relevant or ()):
            reason = f"what {item.uid} relates to is bought with no training product"
            tally.count("test product without a label", file.name, item.row, reason)
    rule = (
        f"of {len(matched):,} products with a relation to another product, {share:.0%} are test "
        "points, by a hash of their ids; expected more products, or a file for each side"
    )
    why = {
        "train": f"no product falls into the training part: {rule}",
        "test": f"no product falls into the test part: {rule}" if not test else _no_label(test),
    }
    parts = {"train": train, "test": kept, "label": labels}
    return {
        name: ProductFile(
            file.name, items, file.fields, why.get(name, why["train"]), name == "test" and not share
        )
        for name, items in parts.items()
    }


def _no_label(test: Sequence[Product]) -> str:
    """Return why none of the products of the test part has a label."""
    none = f"none of the {len(test):,} products of the test part has a label"
    if all(set(item.relevant or ()) == {item.uid} for item in test):
        return f"{none}: each of them relates to itself alone; expected the ids of other products"
    return (
        f"{none}: nothing that they relate to is bought with a training product; expected more "
        "relations, or a file for each side"
    )


def _no_relation(file: ProductFile, products: Sequence[Product], related: Sequence[Product]) -> str:
    """Return why no product of a file has a relation to another one."""
    if not products:
        return f"{file.name}: none of its {len(file.items):,} lines is a usable product"
    if not related:
        return (
            f"{file.name}: none of the {len(products):,} products has ids in `also_buy`; found the "
            f"fields {file.fields.shown()}{unread_relations(file)}"
        )
    number = sum(len(item.relevant or ()) for item in related)
    first = _first(related[0], [item.uid for item in products])
    return (
        f"{file.name}: none of the {number:,} ids in `also_buy` is the id of a product; the first, "
        f"in line {related[0].row}, is {first}; the first product's id is {products[0].uid[:60]!r}"
    )


def _first(item: Product, uids: Iterable[str]) -> str:
    return quoted((item.relevant or [""])[0], uids)
