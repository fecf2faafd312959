"""The world behind the generated outfits: the items of a split, and what is worn together.

Every split has the same number of copies of each sort of item. A sort is a theme, a style and a
kind. The items of an outfit have its theme and style, except for the few that stray.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mufin_jax.data.synthetic.catalogue_world import NUM_HUES, NUM_KINDS, NUM_STYLES, NUM_TEXTURES

SIZES = (4, 5, 6)
"""Numbers of items of an outfit, all equally likely."""
_HUES = NUM_HUES // NUM_STYLES


class OutfitItem(NamedTuple):
    """A place on the shelf of a split, and whether the item strays from its outfit."""

    number: int
    strays: bool


class Outfit(NamedTuple):
    """Items of one theme and style and of different kinds."""

    theme: int
    style: int
    items: list[OutfitItem]


@dataclass
class Shelf:
    """All items of a split: `copies` items of each sort (theme, style, kind), sort after sort.

    Attributes:
        themes: how many there are.
        copies: items of each sort.
        stray: share of the items that do not have their outfit's theme and style.
        rng: draws outfits and questions.
        first: item id of the first item.
        theme, style, kind, hue, texture: of each item.
    """

    themes: int
    copies: int
    stray: float
    rng: np.random.Generator
    first: int
    theme: Int[np.ndarray, " items"]
    style: Int[np.ndarray, " items"]
    kind: Int[np.ndarray, " items"]
    hue: Int[np.ndarray, " items"]
    texture: Int[np.ndarray, " items"]

    def id(self, number: int) -> str:
        """Return an item's id."""
        return str(self.first + number)

    def pick(self, theme: int, style: int, kind: int) -> int:
        """Draw an item of a sort."""
        sort = (theme * NUM_STYLES + style) * NUM_KINDS + kind
        return int(sort * self.copies + self.rng.integers(self.copies))

    def near(self, theme: int, style: int) -> list[tuple[int, int]]:
        """Draw the (theme, style) of what strays: the theme kept, the style kept, neither."""
        t, u = (self._other(theme, self.themes) for _ in range(2))
        s, v = (self._other(style, NUM_STYLES) for _ in range(2))
        return [(theme, s), (t, style), (u, v)]

    def _other(self, value: int, count: int) -> int:
        """Draw a different value below `count`."""
        return int((value + 1 + self.rng.integers(count - 1)) % count)

    def outfits(self, count: int) -> Iterator[Outfit]:
        """Draw outfits."""
        for _ in range(count):
            theme = int(self.rng.integers(self.themes))
            style = int(self.rng.integers(NUM_STYLES))
            items = []
            kinds = self.rng.permutation(NUM_KINDS)[: self.rng.choice(SIZES)]
            for kind in kinds.tolist():
                strays = bool(self.rng.random() < self.stray)
                sort = theme, style
                if strays:
                    sort = self.near(theme, style)[self.rng.integers(3)]
                items.append(OutfitItem(self.pick(*sort, kind), strays))
            yield Outfit(theme, style, items)


def make_shelf(
    themes: int,
    copies: int,
    stray: float,
    first: int,
    rng: np.random.Generator,
    outfits_rng: np.random.Generator,
) -> Shelf:
    """Draw the looks of all items of a split.

    Args:
        themes: how many there are.
        copies: items of each sort.
        stray: share of the items that do not have their outfit's theme and style.
        first: item id of the first item.
        rng: draws the items.
        outfits_rng: draws the outfits, later.
    """
    sorts = np.arange(themes * NUM_STYLES * NUM_KINDS).repeat(copies)
    style = sorts // NUM_KINDS % NUM_STYLES
    return Shelf(
        themes,
        copies,
        stray,
        outfits_rng,
        first,
        theme=sorts // (NUM_KINDS * NUM_STYLES),
        style=style,
        kind=sorts % NUM_KINDS,
        hue=_HUES * style + rng.integers(_HUES, size=len(sorts)),
        texture=rng.integers(NUM_TEXTURES, size=len(sorts)),
    )
