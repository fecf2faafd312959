"""Catalogues of products: JSON in any layout, CSV, TSV and Parquet.

    products.jsonl          one product a row: `ASIN`, `title`, `images` (paths in the folder),
                            `also_buy`; or
    {trn,tst,lbl}.jsonl     one file a side; row i of lbl is label i
    {trn,tst}_X_Y.txt       the relevance; without it, `also_buy` (ids), or `target_ind` with
                            `target_rel` (label numbers and values)
    meta_*.jsonl.gz         Amazon's metadata of 2014, 2018 and 2023, as products.jsonl

The form of MUFIN's supplement (App. B), of LF-AmazonTitles, and of shops' exports. `ROWS` has the
endings of these files. `columns` has the names of the fields. The labels' `category` is kept if
they have one.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mufin_jax.data.readers import repository
from mufin_jax.data.readers.catalogue import Catalogue
from mufin_jax.data.readers.fields import Columns, FieldCounts
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.hash_split import TEST_SHARE, split_by_hash
from mufin_jax.data.readers.image_files import ImageFiles
from mufin_jax.data.readers.json_rows import json_rows
from mufin_jax.data.readers.products import Product, product_of
from mufin_jax.data.readers.relations import ProductFile, relevance_of, side_of
from mufin_jax.data.readers.tables import csv_rows, parquet_rows
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError

FORM = "json lines"
Rows = Callable[[Path, Columns], Iterator[tuple[int, Any]]]


def _json(path: Path, columns: Columns) -> Iterator[tuple[int, Any]]:
    del columns
    return json_rows(path)


ROWS: dict[str, Rows] = {
    ".jsonl": _json,
    ".json": _json,
    ".jsonl.gz": _json,
    ".json.gz": _json,
    ".csv": csv_rows,
    ".csv.gz": csv_rows,
    ".tsv": csv_rows,
    ".tsv.gz": csv_rows,
    ".parquet": parquet_rows,
}
"""What reads the rows of a file, by the end of its name: the one table of file forms."""

_FILES = {"train": "trn", "test": "tst", "label": "lbl"}
_PRODUCTS = tuple(f"products{ending}" for ending in ROWS)
_AMAZON = tuple(f"meta{part}{ending}" for part in ("_*", "data") for ending in (".jsonl", ".json"))


def recognises(source: SourceFolder) -> bool:
    """Return whether the folder has this form."""
    if source.file is not None:
        return is_product_file(source.file)
    return _split_file(source, "label") is not None or bool(_product_files(source))


def is_product_file(path: Path) -> bool:
    """Return whether a file's name ends like one that can be read."""
    return path.is_file() and rows_of(path) is not None


def read(source: SourceFolder, tally: Tally, max_images: int, max_bytes: int) -> Catalogue:
    """Read everything except the images' bytes; files by side take precedence over products.jsonl.

    Args:
        source: the folder.
        tally: takes bad rows, unknown labels, bad paths and URLs.
        max_images: the most images of an item; further images are left out.
        max_bytes: the largest encoded image; checked when the image is read.

    Raises:
        InputError: if a file is missing or does not fit the others.
    """
    del max_bytes
    images = ImageFiles(source)
    if source.file is not None or _split_file(source, "label") is None:
        found = [source.file] if source.file is not None else _product_files(source)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{source.path} has {names}: name the one to read by --data=FILE")
        whole = _read_file(source, found[0], tally)
        _check_columns([whole], source.columns)
        _check_keep(whole, source.columns)
        share = TEST_SHARE if source.test_share is None else source.test_share
        files = split_by_hash(whole, tally, share)
        sides = {name: side_of(files[name], images, tally, max_images) for name in _FILES}
        known = {item.uid for item in whole.items if item.kept}
        relevance = relevance_of(files, sides, tally, complete=False, products=known)
        return Catalogue(FORM, sides, relevance, None, images)
    if source.test_share is not None:
        raise InputError(
            f"{source.path} has a file for each side: leave --prepare.test-share out; for no test "
            "points, leave tst out"
        )
    files = {}
    for name, stem in _FILES.items():
        path = _split_file(source, name)
        if name == "test" and (path is None or not path.stat().st_size):
            tally.warnings.append(f"{stem} is absent or empty: there are no test points")
            files[name] = ProductFile(stem, [], FieldCounts(source.columns.names), may_lack=True)
            continue
        if path is None:
            raise InputError(f"{source.path} lacks {stem}.jsonl (or .json, or .gz)")
        files[name] = _read_file(source, path, tally)
    _check_columns(list(files.values()), source.columns)
    _check_keep(files["label"], source.columns)
    sides = {name: side_of(files[name], images, tally, max_images) for name in _FILES}
    if source.find("trn_X_Y.txt"):
        relevance, filters = repository.read_pairs(source, sides, tally)
    else:
        relevance = relevance_of(files, sides, tally, complete=True)
        filters = repository.read_filters(source, sides, tally)
    return Catalogue(FORM, sides, relevance, filters, images)


def _product_files(source: SourceFolder) -> list[Path]:
    """Return products.jsonl or its like, or Amazon's metadata."""
    path = source.find(*_PRODUCTS)
    if path is not None:
        return [path]
    names = {found.name for form in _AMAZON for found in source.path.glob(f"{form}*")}
    return [path for path in map(source.find, sorted(names)) if path and rows_of(path)]


def _split_file(source: SourceFolder, side: str) -> Path | None:
    return source.find(*(_FILES[side] + ending for ending in ROWS))


def rows_of(path: Path) -> Rows | None:
    """Return what reads a file, None if nothing does: the longest ending of its name counts."""
    endings = [ending for ending in ROWS if path.name.endswith(ending)]
    return ROWS[max(endings, key=len)] if endings else None


def _read_file(source: SourceFolder, path: Path, tally: Tally) -> ProductFile:
    """Read one item a row; unusable rows stay, not `kept`: relevance counts rows."""
    columns, rows = source.columns, rows_of(path)
    items, fields, name = [], FieldCounts(columns.names), source.name(path.resolve())
    known: set[str] = set()
    shared: dict[str, str] = {}  # each id is one object, wherever it occurs
    for row, found in rows(path, columns) if rows else ():
        if found is None:  # a blank line keeps its place, which relevance counts
            tally.count("blank line", name, row, "left out")
            items.append(Product(row, kept=False))
            continue
        tally.seen("lines", 1)
        try:
            if isinstance(found, ValueError):
                raise found
            item = product_of(row, found, columns)
        except (ValueError, RecursionError) as error:
            tally.bad("lines", "bad line", name, row, str(error)[:120])
            item = Product(row, kept=False)
        if item.kept:
            _note(item, name, tally)
            fields.add(item.fields)
        if item.kept and item.uid in known:
            reason = f"{item.uid} occurs in an earlier line"
            tally.bad("lines", "repeated id", name, row, reason)
            item.kept = False
        item.uid = shared.setdefault(item.uid, item.uid)
        ids = [uid for uid in item.relevant or () if isinstance(uid, str)]
        if ids:
            item.relevant = tuple(shared.setdefault(uid, uid) for uid in ids)
        known.add(item.uid)
        item.fields = ()  # they are counted: memory need not hold them
        items.append(item)
    if not items:
        raise InputError(f"{name} is empty: expected one JSON object a line")
    return ProductFile(name, items, fields)


def _check_columns(files: Sequence[ProductFile], columns: Columns) -> None:
    """Reject a column that the user named and no item has, of all files: labels have no relations.

    Raises:
        InputError: with the fields of the first file.
    """
    for column in columns.given:
        if files[0].fields.items and not any(column in file.fields.counts for file in files):
            names = ", ".join(file.name for file in files)
            raise InputError(
                f"{names}: no item has a value in {column[:40]!r}, which columns names; "
                f"found the fields {files[0].fields.shown()}"
            )


def _check_keep(labels: ProductFile, columns: Columns) -> None:
    """Reject a field to keep that no item has.

    Raises:
        InputError: with the fields of the file.
    """
    for name in columns.keep:
        if labels.fields.items and name not in labels.fields.counts:
            raise InputError(
                f"{labels.name}: no item has a value in {name[:40]!r}, which keep names; found the "
                f"fields {labels.fields.shown()}"
            )


def _note(item: Product, file: str, tally: Tally) -> None:
    """Count what was repaired in a product."""
    if item.nulls:
        reason = f"{item.nulls} null or blank values in the lists of {item.uid} are left out"
        tally.count("null in a list", file, item.row, reason)
    if item.entities:
        reason = f"{item.uid}: HTML entities such as &amp; became characters"
        tally.count("HTML entities", file, item.row, reason)
