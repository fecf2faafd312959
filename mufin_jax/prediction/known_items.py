"""Items of the run's own data, asked for by their ids: the prepared folder holds what they bring.

A query may mix them with items that bring titles and pictures; each kind is read its own way.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.loader import Loader
from mufin_jax.data.manifest import WITHOUT_ITEMS
from mufin_jax.data.own_labels import LabelFinder
from mufin_jax.prediction.items import Item
from mufin_jax.prediction.queries import read_items, seen
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.errors import InputError


class Asked(NamedTuple):
    """Some items of a query, read.

    Attributes:
        places: where they stand in the query.
        items: known ones with their first title.
        pool, bags: what the model sees of them.
    """

    places: Sequence[int]
    items: list[Item]
    pool: Pool
    bags: Bags


class KnownItems:
    """The training points, test points and labels of a run, by their ids.

    Args:
        dataset: the prepared folder.
        loader: reads its items for the model.
    """

    def __init__(self, dataset: Dataset, loader: Loader):
        self.dataset, self._loader = dataset, loader
        self._sides = (dataset.train, dataset.test, dataset.labels)

    @functools.cached_property
    def _finders(self) -> list[LabelFinder]:
        return [LabelFinder(side.ids, np.arange(len(side))) for side in self._sides]

    def find(self, uid: str) -> tuple[Side, int] | None:
        """Return the side and the row of an item of which the model sees something, or None."""
        for side, finder in zip(self._sides, self._finders, strict=True):
            row = finder.find(uid)
            if row >= 0 and self._loader.slots(side, np.array([row]))[1].any():
                return side, row
        return None

    def training_points(self, ids: Iterable[str]) -> Int64[np.ndarray, " n"]:
        """Return the rows of the training points with any of these ids, ascending."""
        found = {row for uid in ids for row in self._finders[0].all_of(uid)}
        return np.array(sorted(found), np.int64)

    def check(self, item: Item) -> None:
        """Reject an item that has nothing to see; no picture of it is read.

        Raises:
            InputError: with the reason.
        """
        if not is_bare(item):
            seen(item, self.dataset, self._loader.descriptors)
        elif self.dataset.manifest.get(WITHOUT_ITEMS):
            raise InputError(
                f"{item.name}: an export has no titles and pictures of the run's products; "
                "expected a title or images, or the folder of the run itself"
            )
        elif self.find(str(item.id)) is None:
            raise InputError(
                f"{item.name}: no product of the run has the id {item.id!r:.80} and something to "
                "see; expected the id of one, or a title or images"
            )

    def blocks(self, query: Sequence[Item], size: int) -> Iterator[Asked]:
        """Yield the items of a query, read: at first those that bring something, in their order.

        Args:
            query: the items.
            size: of a block, at most.

        Raises:
            InputError: if an item has nothing to see.
        """
        bare = {place for place, item in enumerate(query) if is_bare(item)}
        own = [place for place in range(len(query)) if place not in bare]
        for rows in cut(len(own), size):
            items = [query[place] for place in own[rows]]
            descriptors = self._loader.descriptors
            yield Asked(own[rows], items, *read_items(items, self.dataset, descriptors))
        found: dict[str, list[tuple[int, int]]] = {side.name: [] for side in self._sides}
        for place in sorted(bare):
            self.check(query[place])
            side, row = self.find(str(query[place].id)) or (self._sides[0], 0)
            found[side.name].append((place, row))
        for side in self._sides:
            for part in cut(len(found[side.name]), size):
                places, rows = zip(*found[side.name][part], strict=True)
                pool, (bags,) = self._loader.batch([(side, np.array(rows))])
                titles = [side.titles[row] for row in rows]
                items = [
                    dataclasses.replace(query[place], titles=[title] if title else [])
                    for place, title in zip(places, titles, strict=True)
                ]
                yield Asked(places, items, pool, bags)


def is_bare(item: Item) -> bool:
    """Return whether an item brings an id and nothing else."""
    brings = item.titles or item.pictures
    vectors = item.text_vector is not None or item.image_vectors is not None
    return item.id is not None and not brings and not vectors
