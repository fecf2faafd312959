"""The story of a preparation on one screen: what was read, kept and lost, and what is odd.

Each line is a `Fact`: a number, what it is a part of, its share and the first example. The report
has all of them, the log too, and what exceeds a stated share is a warning.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse

from mufin_jax.data.preparation.items import Items, compact_pairs
from mufin_jax.data.readers.catalogue import SIDES, Catalogue
from mufin_jax.data.readers.tally import Fact, Tally
from mufin_jax.data.sparse import without

WARN_ABOVE = {
    "relations that match nothing": 0.5,
    "products without a match": 0.5,
    "labels without a training pair": 0.1,
    "test points without a label to score": 0.1,
    "pictures given as URLs": 0.5,
    "test pairs that training has": 0.1,
}
"""A larger share than this is a warning."""
_KINDS = {
    "product without a match": "products without a match",
    "image by URL": "pictures given as URLs",
}
_LONGEST = 60

Pairs = Mapping[str, scipy.sparse.csr_matrix]


def facts_of(
    catalogue: Catalogue, items: Mapping[str, Items], counts: Mapping[str, int], tally: Tally
) -> list[Fact]:
    """Return what happened to items, pictures and rows; readers have told about relations.

    Args:
        catalogue: what was read.
        items: the kept items, by side.
        counts: the numbers of texts, images, and pairs of each matrix.
        tally: has the facts of the readers, and what was dropped.
    """
    facts = []
    for name in SIDES:
        side, kept = catalogue.sides[name], items[name]
        facts.append(Fact(f"{name} items kept", len(kept), len(side)))
    titled = [(name, np.array([bool(t) for t in items[name].titles], bool)) for name in SIDES]
    pictured = [(name, np.diff(items[name].image_offsets) > 0) for name in SIDES]
    facts.append(_lacking("items without a title", titled, items))
    facts.append(_lacking("items without a picture", pictured, items))
    facts += _several_texts(catalogue)
    facts += tally.facts
    read = sum(matrix.nnz for matrix in catalogue.relevance.values())
    facts.append(
        Fact("relevant pairs kept", counts["train_relevance"] + counts["test_relevance"], read)
    )
    seen = tally.seen_of("images")
    if seen:
        facts.append(Fact("distinct pictures kept", counts["images"], seen))
    sizes = {"image by URL": seen + tally.counts["image by URL"], "product without a match": 0}
    rows = tally.seen_of("lines")
    for kind, number in sorted(tally.counts.items()):
        of = sizes.get(kind) or (seen if "image" in kind else rows)
        facts.append(Fact(_KINDS.get(kind, kind), number, of, tally.first(kind)))
    for name in dict.fromkeys(side.file for side in catalogue.sides.values()):
        facts += _unread(catalogue, name)
    return facts


def pair_facts(catalogue: Catalogue, items: Mapping[str, Items], filters: Pairs) -> list[Fact]:
    """Return the labels that training never sees, and the test points with nothing to score."""
    left = {
        name: without(
            compact_pairs(catalogue, catalogue.relevance[name], name),
            compact_pairs(catalogue, filters[name], name),
        )
        for name in SIDES[:2]
    }
    trained = np.diff(left["train"].tocsc().indptr) > 0
    known = _known_pairs(items, left) if catalogue.questions is None else []
    scored = np.diff(left["test"].indptr) > 0
    return [
        _lacking("labels without a training pair", [("label", trained)], items),
        _lacking("test points without a label to score", [("test", scored)], items),
        *known,
    ]


def _known_pairs(items: Mapping[str, Items], pairs: Pairs) -> list[Fact]:
    """Return how many of the test pairs that are scored training has with the same item."""
    numbers = {uid: i for i, uid in enumerate(items["train"].ids) if uid}
    same = [(i, numbers[uid]) for i, uid in enumerate(items["test"].ids) if uid in numbers]
    if not same:
        return []
    test, train = np.array(same, np.int64).T
    common = pairs["test"][test].multiply(pairs["train"][train]).tocsr()
    rows = common.nonzero()[0]
    first = f"test {items['test'].ids[int(test[rows[0]])]!r}" if len(rows) else ""
    return [Fact("test pairs that training has", common.nnz, pairs["test"].nnz, first)]


def warnings_of(facts: list[Fact], questions: bool) -> list[str]:
    """Return a sentence for each fact whose share is larger than stated.

    Args:
        facts: all facts.
        questions: whether test points are questions: their items are often new labels.
    """
    found = []
    for fact in facts:
        most = WARN_ABOVE.get(fact.what)
        if questions and fact.what == "labels without a training pair":
            continue
        if most is not None and fact.share > most:
            first = f"; the first: {fact.first}" if fact.first else ""
            found.append(f"{fact.what}: {fact.number:,} of {fact.of:,} ({fact.share:.0%}){first}")
    return found


def as_rows(facts: list[Fact]) -> list[dict[str, Any]]:
    """Return the facts for the report's JSON file."""
    return [dataclasses.asdict(fact) | {"share": round(fact.share, 6)} for fact in facts]


def screen(facts: list[Fact]) -> list[str]:
    """Return the facts as lines of a table; those of number 0 are left out."""
    shown = [fact for fact in facts if fact.number or fact.what.endswith("kept")]
    wide = max((len(fact.what) for fact in shown), default=0)
    lines = []
    for fact in shown:
        part = f"{fact.number:>11,}"
        if fact.of:
            part += f" of {fact.of:>11,}  {fact.share:>6.1%}"
        first = f"  {fact.first[:_LONGEST]}" if fact.first else ""
        lines.append(f"{fact.what:<{wide}}{part}{first}".rstrip())
    return lines


def _lacking(what: str, sides: list[tuple[str, np.ndarray]], items: Mapping[str, Items]) -> Fact:
    """Return how many items do not have something; `sides` tells which have it."""
    number = sum(int(np.count_nonzero(~has)) for _, has in sides)
    first = ""
    for name, has in sides:
        if not first and not has.all():
            first = f"{name} {items[name].ids[int(np.argmin(has))]!r}"
    return Fact(what, number, sum(len(has) for _, has in sides), first)


def _several_texts(catalogue: Catalogue) -> list[Fact]:
    """Return how many kept products have more than a title, if the user named further texts."""
    sides = [side for side in catalogue.sides.values() if side.texts is not None]
    if catalogue.questions is not None or not sides:
        return []
    counts = [len(side.texts_of(int(i))) for side in sides for i in np.flatnonzero(side.kept)]
    number, most = sum(count > 1 for count in counts), max(counts, default=0)
    return [Fact("items with several texts", number, len(counts), f"at most {most} texts")]


def _unread(catalogue: Catalogue, file: str) -> list[Fact]:
    """Return the fields of a file that are not read and look like those that are."""
    side = next(side for side in catalogue.sides.values() if side.file == file)
    if side.fields is None:
        return []
    return [
        Fact(f"unread field {name[:40]} (looks like {kind})", number, side.fields.items, file)
        for kind in ("title", "images", "relations")
        for name, number in list(side.fields.alike(kind).items())[:3]
    ]
