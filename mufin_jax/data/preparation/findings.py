"""What is odd about a catalogue as a whole: no pictures, no titles, titles that are cut."""

from collections.abc import Mapping

import numpy as np

from mufin_jax.data.preparation.items import Items
from mufin_jax.data.readers.catalogue import Catalogue, RawSide
from mufin_jax.data.readers.tally import Fact, Tally

CUT_SHARE = 0.05
"""A larger share of cut titles is a warning."""


def warn_of(
    catalogue: Catalogue,
    items: Mapping[str, Items],
    counts: Mapping[str, int],
    cut: Fact,
    max_tokens: int,
    tally: Tally,
) -> None:
    """Add warnings about the catalogue as a whole to the tally.

    Args:
        catalogue: what was read.
        items: the kept items, by side.
        counts: the numbers of texts, images, and pairs of each matrix.
        cut: how many distinct texts are longer than `max_tokens`, of how many.
        max_tokens: the most tokens of a text.
        tally: takes the warnings.
    """
    lacking: dict[str, dict[str, list[str]]] = {}
    for name, side in catalogue.sides.items():
        if side.may_lack and not len(side):
            continue
        for kind in lacking_kinds(side, items[name], counts.get(f"{name}_relevance", 1)):
            alike = side.fields.alike(kind) if side.fields else {}
            hint = _hint(alike, side.fields.items) if side.fields and alike else ""
            lacking.setdefault(kind, {}).setdefault(hint, []).append(name)
    for kind, sides in lacking.items():
        for hint, names in sides.items():
            there = [side for side in SIDES_OF[kind] if len(catalogue.sides[side])]
            everywhere = sum(map(len, sides.values())) == len(there)
            # Queries often have no pictures, and photos no titles; points always have labels.
            if hint or everywhere or kind == "relations":
                what = f"no {' or '.join(names)} item has {NOUNS[kind]}"
                urls = tally.counts["image by URL"] if kind == "images" else 0
                given = f": {urls:,} are given as URLs, which are not downloaded" if urls else ""
                tally.warnings.append(f"{what}{given}{hint}")
    tally.warnings += _alike(catalogue, items, counts)
    if cut.share > CUT_SHARE:
        tally.warnings.append(
            f"{cut.number:,} of {cut.of:,} titles ({cut.share:.0%}) are longer than max_tokens="
            f"{max_tokens} and lose their end; raise --prepare.max-tokens"
        )


def _alike(
    catalogue: Catalogue, items: Mapping[str, Items], counts: Mapping[str, int]
) -> list[str]:
    """Return warnings of one title, or one picture, that all products have."""
    number, found = len({uid for name in items for uid in items[name].ids}), []
    if number < 2 or catalogue.questions is not None:
        return []
    titles = {name: own.titles for name, own in items.items()}
    first = next((title for own in titles.values() for title in own if title), "")
    if counts["texts"] == 1 and first and all(t == first for own in titles.values() for t in own):
        found.append(f"all {number:,} products have one title, {first[:40]!r}")
    if counts["images"] == 1 and all((np.diff(o.image_offsets) > 0).all() for o in items.values()):
        found.append(f"all {number:,} products have one picture")
    return found


SIDES_OF = {
    "title": ("train", "test", "label"),
    "images": ("train", "test", "label"),
    "relations": ("train", "test"),
}
NOUNS = {"title": "a title", "images": "a picture", "relations": "a relevant label"}


def lacking_kinds(side: RawSide, items: Items, pairs: int) -> list[str]:
    """Return what no kept item of a side has: "title", "images", "relations"."""
    found = []
    if not any(side.texts_of(int(i)) for i in np.flatnonzero(side.kept)):
        found.append("title")
    if not len(items.image_rows):
        found.append("images")
    return found + ["relations"] * (not pairs)


def _hint(alike: Mapping[str, int], number: int) -> str:
    shown = ", ".join(f"{name[:40]} (in {count:,} of {number:,})" for name, count in alike.items())
    return f"; unread fields that look alike: {shown:.200}"
