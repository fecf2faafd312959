"""Catalogues as JSON lines: the form of MUFIN's supplement (App. B) and of LF-AmazonTitles.

    products.jsonl          one product a line: `ASIN`, `title`, `images` (paths in the folder),
                            `also_buy`; or
    {trn,tst,lbl}.jsonl     one file a side (.json and .gz too); line i of lbl is label i
    {trn,tst}_X_Y.txt       the relevance; without it, `also_buy` (ids), or `target_ind` with
                            `target_rel` (label numbers and values)

`asin` and `uid` also count as `ASIN`. The labels' `category` is kept if they have one.
"""

import hashlib
from pathlib import Path

import numpy as np
import scipy.sparse

from mufin_jax.data.readers import matrices, repository
from mufin_jax.data.readers.catalogue import Catalogue, RawSide
from mufin_jax.data.readers.files import SourceFolder, lines
from mufin_jax.data.readers.products import Product, parse_product
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError

FORM = "json lines"
_FILES = {"train": "trn", "test": "tst", "label": "lbl"}
_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_PRODUCTS = tuple(f"products{ending}" for ending in _ENDINGS)


class ImageFiles:
    """Image files by number; each distinct path has one number."""

    def __init__(self, source: SourceFolder):
        """Start without a path."""
        self._source = source
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def add(self, name: str) -> int:
        """Return the key of a path."""
        key = self._numbers.setdefault(name, len(self._names))
        if key == len(self._names):
            self._names.append(name)
        return key

    def name(self, key: int) -> str:
        """Return the path as the data give it."""
        return self._names[key]

    def read(self, key: int) -> Path:
        """Return the file; raise BadImage if it is not in the data folder."""
        return self._source.image(self._names[key])


def recognises(source: SourceFolder) -> bool:
    """Return whether the folder has this form."""
    return _split_file(source, "label") is not None or source.find(*_PRODUCTS) is not None


def read(source: SourceFolder, tally: Tally, max_images: int, max_bytes: int) -> Catalogue:
    """Read everything except the images' bytes; files by side take precedence over products.jsonl.

    Args:
        source: the folder.
        tally: takes bad lines, unknown labels, bad paths and URLs.
        max_images: the most images of an item; further images are left out.
        max_bytes: the largest encoded image; checked when the image is read.

    Raises:
        InputError: if a file is missing or does not fit the others.
    """
    del max_bytes
    images = ImageFiles(source)
    if _split_file(source, "label") is None:
        path = source.require(*_PRODUCTS)
        products = _read_items(source, path, tally)
        items = _split_by_hash(products)
        files = dict.fromkeys(_FILES, source.name(path))
        whole = False
    else:
        paths = {name: _split_file(source, name) for name in _FILES}
        for name, path in paths.items():
            if path is None:
                raise InputError(f"{source.path} lacks {_FILES[name]}.jsonl (or .json, or .gz)")
        items = {name: _read_items(source, path, tally) for name, path in paths.items() if path}
        files = {name: source.name(path) for name, path in paths.items() if path}
        whole = True
    sides = {name: _side(files[name], items[name], images, tally, max_images) for name in _FILES}
    filters = None
    if whole and source.find("trn_X_Y.txt"):
        relevance, filters = repository.read_pairs(source, sides, tally)
    else:
        relevance = {
            name: _relevance(sides[name], items[name], sides["label"], tally, complete=whole)
            for name in ("train", "test")
        }
        if whole:
            filters = repository.read_filters(source, sides, tally)
    return Catalogue(FORM, sides, relevance, filters, images)


def _split_file(source: SourceFolder, side: str) -> Path | None:
    return source.find(*(_FILES[side] + ending for ending in _ENDINGS))


def _read_items(source: SourceFolder, path: Path, tally: Tally) -> list[Product]:
    """Read one item a line; unusable lines stay, not `kept`: relevance counts lines."""
    items = []
    known: set[str] = set()
    for row, line in lines(path):
        tally.seen("lines", 1)
        try:
            item = parse_product(row, line)
        except (ValueError, RecursionError) as error:
            tally.bad("lines", "bad line", source.name(path), row, str(error)[:120])
            item = Product(row, kept=False)
        if item.kept and item.uid in known:
            reason = f"{item.uid} occurs in an earlier line"
            tally.bad("lines", "repeated id", source.name(path), row, reason)
            item.kept = False
        known.add(item.uid)
        items.append(item)
    if not items:
        raise InputError(f"{source.name(path)} is empty: expected one JSON object a line")
    return items


def is_test(asin: str) -> bool:
    """Return whether a product of an unsplit catalogue is a test point: one in five, by hash."""
    return int(hashlib.sha1(asin.encode("utf-8", "replace")).hexdigest()[:8], 16) % 5 == 0


def _split_by_hash(products: list[Product]) -> dict[str, list[Product]]:
    """Split into sides: points have a label; labels are bought with a training point."""
    products = [item for item in products if item.kept]
    train = [item for item in products if not is_test(item.uid)]
    bought = {asin for item in train for asin in item.relevant or ()}
    labels = [item for item in products if item.uid in bought]
    known = {item.uid for item in labels}
    test = [item for item in products if is_test(item.uid)]

    def with_label(items: list[Product]) -> list[Product]:
        return [item for item in items if not known.isdisjoint(item.relevant or ())]

    return {"train": with_label(train), "test": with_label(test), "label": labels}


def _side(
    file: str, items: list[Product], images: ImageFiles, tally: Tally, max_images: int
) -> RawSide:
    keys: list[int] = []
    offsets = [0]
    for item in items:
        local = [name for name in item.images if "://" not in name]
        if len(local) < len(item.images):
            reason = "not downloaded: download the pictures and give their paths in `images`"
            for _ in range(len(item.images) - len(local)):
                tally.note("image by URL", file, item.row, reason)
        if len(local) > max_images:
            reason = f"{len(local) - max_images} images beyond the first {max_images} left out"
            tally.note("more images than max_images", file, item.row, reason)
        keys += [images.add(name) for name in local[:max_images]]
        offsets.append(len(keys))
    categories = [item.category for item in items]
    return RawSide(
        file,
        np.array([item.row for item in items], np.int64),
        [item.uid for item in items],
        [item.title for item in items],
        np.array([item.kept for item in items], bool),
        np.array(offsets, np.int64),
        np.array(keys, np.int64),
        [name or "" for name in categories] if any(categories) else None,
    )


def _relevance(
    side: RawSide, items: list[Product], label: RawSide, tally: Tally, complete: bool
) -> scipy.sparse.csr_matrix:
    """Return `also_buy` ids or `target_ind` numbers as a matrix.

    With a label file (`complete`), a row without any known label is bad. Without one, also_buy can
    name products outside the catalogue; these are only counted.
    """
    numbers: dict[str, int] = {}
    for i, uid in enumerate(label.ids):
        if label.kept[i]:
            numbers.setdefault(uid, i)
    rows = []
    tally.seen("also_buy rows", len(items))
    for item in items:
        found = []
        for name in item.relevant or ():
            if isinstance(name, str):
                found.append(numbers.get(name, -1))
            else:
                found.append(name if 0 <= name < len(label) else -1)
        row = [number for number in found if number >= 0]
        if len(row) < len(found):
            unknown = next(n for n, i in zip(item.relevant or (), found, strict=True) if i < 0)
            reason = f"{len(found) - len(row)} unknown labels, the first {unknown!r}"
            if complete and not row:
                tally.bad("also_buy rows", "unknown label", side.file, item.row, reason)
            else:
                tally.note("unknown label", side.file, item.row, reason)
        rows.append(row)
    return matrices.from_rows(rows, len(label))
