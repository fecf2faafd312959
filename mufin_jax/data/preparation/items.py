"""From the rows of a raw catalogue to the items that are kept, with new numbers."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Int32, Int64

from mufin_jax.data.preparation.resize import Bag
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.readers.catalogue import SIDES, Catalogue
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.strings import Strings
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import until_stopped


@dataclasses.dataclass
class Items:
    """The kept items of one side; see `dataset.Side` for the arrays."""

    ids: Strings
    titles: Strings
    text: Int32[np.ndarray, "n *texts"]
    image_offsets: Int64[np.ndarray, " n_plus_1"]
    image_rows: Int64[np.ndarray, " images"]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.text)

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>_ids.npz`, `<name>_titles.npz` and `<name>_items.npz`."""
        self.ids.save(folder / f"{name}_ids.npz")
        self.titles.save(folder / f"{name}_titles.npz")
        np.savez(
            folder / f"{name}_items.npz",
            text=self.text,
            image_offsets=self.image_offsets,
            image_rows=self.image_rows,
        )

    @classmethod
    def load(cls, folder: Path, name: str) -> "Items":
        """Read the files that `save` wrote."""
        with np.load(folder / f"{name}_items.npz", allow_pickle=False) as arrays:
            rest = [arrays[key] for key in ("text", "image_offsets", "image_rows")]
        ids, titles = (Strings.load(folder / f"{name}_{part}.npz") for part in ("ids", "titles"))
        return cls(ids, titles, *rest)


class ItemRecords:
    """The items of one saved side with their images, for `write_records`.

    A pickled copy contains no data: it opens the files again in its process.
    """

    def __init__(self, folder: Path, name: str, spool: JpegSpool | None):
        """Open nothing yet.

        Args:
            folder: where `Items.save` wrote the items.
            name: the name of the side.
            spool: contains the images; None if there are none.
        """
        self._folder, self._name = folder, name
        self._spool_folder = spool.folder if spool else None

    @functools.cached_property
    def _items(self) -> Items:
        return Items.load(self._folder, self._name)

    @functools.cached_property
    def _spool(self) -> JpegSpool | None:
        return JpegSpool(self._spool_folder) if self._spool_folder else None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def num_bytes(self) -> int:
        """Return the approximate size of all records."""
        images = self._spool.sizes(self._items.image_rows).sum() if self._spool else 0
        return int(images) + len(self._items.ids.blob) + len(self._items.titles.blob)

    def read(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield the items from `start` to before `stop`."""
        items, spool = self._items, self._spool
        numbers = until_stopped(range(start, stop), "prepare")
        title = f"{self._name} records"
        bar = {"desc": title, "total": len(items), "initial": start, "unit": " items"}
        for i in progress(iterable=numbers, **bar):
            rows = items.image_rows[items.image_offsets[i] : items.image_offsets[i + 1]]
            images = spool.read(rows.tolist()) if spool else []
            yield {"uid": items.ids[i], "title": items.titles[i], "images": images}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is opened."""
        return {key: value for key, value in self.__dict__.items() if key not in self._OPENED}

    _OPENED = ("_items", "_spool")


def drop_empty(
    catalogue: Catalogue,
    bags: dict[str, Bag],
    tally: Tally,
    ready: Mapping[str, Int32[np.ndarray, " n"]] | None = None,
) -> None:
    """Mark the items that have neither text nor image as not kept.

    Args:
        catalogue: the items.
        bags: by side, the images of each.
        tally: takes the empty items.
        ready: by side, the row of each item's ready text vector or -1, instead of titles.

    Raises:
        InputError: if a side has no item left, or training has no relevant pair.
    """
    for name in SIDES:
        side = catalogue.sides[name]
        if not len(side) and side.may_lack:
            continue
        if not len(side):
            reason = side.no_items or f"there is no {name} item: {tally.summary() or 'no entry'}"
            raise InputError(f"{side.file}: {reason}")
        texts = side.titles if side.texts is None else map(any, side.texts)
        titled = np.array([bool(text) for text in texts], bool)
        if ready is not None:
            titled = ready[name] >= 0
        empty = side.kept & ~titled & (bags[name].counts() == 0)
        for item in np.flatnonzero(empty):
            text = "title" if ready is None else "text vector"
            reason = f"{side.ids[item]} has neither a {text} nor a usable image"
            tally.note("empty item", side.file, int(side.rows[item]), reason)
        side.kept &= ~empty
        if not side.kept.any():
            found = f"; found the fields {side.fields.shown()}" if side.fields else ""
            raise InputError(
                f"{side.file}: none of the {len(side):,} {name} items has a title or a usable "
                f"image{f': {tally.summary()}' if tally.counts else ''}{found}"
            )
    if not compact_pairs(catalogue, catalogue.relevance["train"], "train").nnz:
        read = catalogue.relevance["train"].nnz
        reason = f"{read:,} pairs were read, all with items that are left out" if read else ""
        reason = reason or "no relevant pair was read: check the relevance and the label ids"
        raise InputError(f"no training point has a label: {reason}")


def compact_pairs(
    catalogue: Catalogue, pairs: scipy.sparse.csr_matrix, name: str
) -> scipy.sparse.csr_matrix:
    """Return a points x labels matrix without the rows and columns of items not kept."""
    kept = pairs[catalogue.sides[name].kept][:, catalogue.sides["label"].kept]
    kept = scipy.sparse.csr_matrix(kept, dtype=np.float32)
    kept.sort_indices()
    return kept


def save_pairs(
    catalogue: Catalogue, filters: dict[str, scipy.sparse.csr_matrix], out: Path
) -> dict[str, int]:
    """Save relevance and filter of both sides; return the number of pairs of each."""
    counts = {}
    for kind, matrices in (("relevance", catalogue.relevance), ("filter", filters)):
        for name, matrix in matrices.items():
            pairs = compact_pairs(catalogue, matrix, name)
            scipy.sparse.save_npz(out / f"{name}_{kind}.npz", pairs)
            counts[f"{name}_{kind}"] = pairs.nnz
    return counts


def distinct_texts(
    catalogue: Catalogue,
) -> tuple[list[str], dict[str, Int32[np.ndarray, "n *texts"]]]:
    """Return the distinct texts in order of first mention, and by side the text numbers of items.

    A missing text has the number -1. If items can have several texts, there are as many columns as
    the most texts of an item.
    """
    rows: dict[str, int] = {}
    text = {}
    for name in SIDES:
        side = catalogue.sides[name]
        if side.texts is None:
            titles = zip(side.titles, side.kept, strict=True)
            known = [rows.setdefault(t, len(rows)) if t and kept else -1 for t, kept in titles]
            text[name] = np.array(known, np.int32)
            continue
        text[name] = np.full((len(side), max([1, *map(len, side.texts)])), -1, np.int32)
        for i in np.flatnonzero(side.kept):
            own = [rows.setdefault(t, len(rows)) for t in side.texts_of(int(i))]
            text[name][i, : len(own)] = own
    return list(rows), text


def train_tokenizer(catalogue: Catalogue, vocab_size: int) -> Tokenizer:
    """Train a tokenizer on the kept training titles, or on another side's if there are none."""
    for name in ("train", "label", "test"):
        side = catalogue.sides[name]
        texts = [text for i in np.flatnonzero(side.kept) for text in side.texts_of(int(i))]
        if texts:
            return Tokenizer.train(texts, vocab_size)
    return Tokenizer.train([], vocab_size)


def compact(catalogue: Catalogue, name: str, bag: Bag, text: np.ndarray) -> Items:
    """Return the kept items of a side; `text` has the rows from `distinct_texts`."""
    side = catalogue.sides[name]
    counts = bag.counts()
    offsets = np.zeros(side.kept.sum() + 1, np.int64)
    np.cumsum(counts[side.kept], out=offsets[1:])
    kept = np.flatnonzero(side.kept)
    return Items(
        Strings.pack(side.ids[i] for i in kept),
        Strings.pack(side.titles[i] for i in kept),
        text[side.kept],
        offsets,
        bag.rows[np.repeat(side.kept, counts)],
    )


def image_homes(items: dict[str, Items]) -> Int64[np.ndarray, "i 3"]:
    """Return split, item and position of the first mention of each image."""
    homes = []
    for split, name in enumerate(SIDES):
        offsets = items[name].image_offsets
        item = np.repeat(np.arange(len(items[name])), np.diff(offsets))
        position = np.arange(len(item)) - offsets[item]
        homes.append(np.stack([np.full(len(item), split), item, position], axis=1))
    rows = np.concatenate([items[name].image_rows for name in SIDES])
    _, first = np.unique(rows, return_index=True)
    return np.concatenate(homes)[first].astype(np.int64)


def save_categories(catalogue: Catalogue, folder: Path) -> None:
    """Write label_categories.npz (a code each, and the codes' names), if labels have them."""
    label = catalogue.sides["label"]
    if label.categories is None:
        return
    kept = [label.categories[i] for i in np.flatnonzero(label.kept)]
    names = sorted(set(kept))  # a NumPy array would pad all names to the longest
    code_of = {name: code for code, name in enumerate(names)}
    codes = np.array([code_of[name] for name in kept], np.int32)
    packed = Strings.pack(names)
    np.savez(
        folder / "label_categories.npz",
        codes=codes,
        blob=packed.blob,
        offsets=packed.offsets,
    )
