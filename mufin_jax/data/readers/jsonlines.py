"""Catalogues as JSON lines: the form of MUFIN's supplement (App. B) and of LF-AmazonTitles.

    products.jsonl          one product a line: `ASIN`, `title`, `images` (paths in the folder),
                            `also_buy`; or
    {trn,tst,lbl}.jsonl     one file a side (.json and .gz too); line i of lbl is label i
    {trn,tst}_X_Y.txt       the relevance; without it, `also_buy` (ids), or `target_ind` with
                            `target_rel` (label numbers and values)

`asin` and `uid` also count as `ASIN`. The labels' `category` is kept if they have one.
"""

from pathlib import Path

from mufin_jax.data.readers import repository
from mufin_jax.data.readers.catalogue import Catalogue
from mufin_jax.data.readers.fields import FieldCounts
from mufin_jax.data.readers.files import SourceFolder, lines
from mufin_jax.data.readers.image_files import ImageFiles
from mufin_jax.data.readers.products import Product, parse_product
from mufin_jax.data.readers.relations import ProductFile, relevance_of, side_of, split_by_hash
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError

FORM = "json lines"
_FILES = {"train": "trn", "test": "tst", "label": "lbl"}
_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_PRODUCTS = tuple(f"products{ending}" for ending in _ENDINGS)


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
        whole = _read_file(source, source.require(*_PRODUCTS), tally)
        files = split_by_hash(whole, tally)
        sides = {name: side_of(files[name], images, tally, max_images) for name in _FILES}
        relevance = relevance_of(files, sides, tally, complete=False)
        return Catalogue(FORM, sides, relevance, None, images)
    paths = {name: _split_file(source, name) for name in _FILES}
    for name, path in paths.items():
        if path is None:
            raise InputError(f"{source.path} lacks {_FILES[name]}.jsonl (or .json, or .gz)")
    files = {name: _read_file(source, path, tally) for name, path in paths.items() if path}
    sides = {name: side_of(files[name], images, tally, max_images) for name in _FILES}
    if source.find("trn_X_Y.txt"):
        relevance, filters = repository.read_pairs(source, sides, tally)
    else:
        relevance = relevance_of(files, sides, tally, complete=True)
        filters = repository.read_filters(source, sides, tally)
    return Catalogue(FORM, sides, relevance, filters, images)


def _split_file(source: SourceFolder, side: str) -> Path | None:
    return source.find(*(_FILES[side] + ending for ending in _ENDINGS))


def _read_file(source: SourceFolder, path: Path, tally: Tally) -> ProductFile:
    """Read one item a line; unusable lines stay, not `kept`: relevance counts lines."""
    items, fields, name = [], FieldCounts(), source.name(path)
    known: set[str] = set()
    for row, line in lines(path):
        if not line.strip():  # it keeps its place, which relevance counts, and is no defect
            tally.count("blank line", name, row, "left out")
            items.append(Product(row, kept=False))
            continue
        tally.seen("lines", 1)
        try:
            item = parse_product(row, line)
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
        known.add(item.uid)
        item.fields = []  # they are counted: memory need not hold them
        items.append(item)
    if not items:
        raise InputError(f"{name} is empty: expected one JSON object a line")
    return ProductFile(name, items, fields)


def _note(item: Product, file: str, tally: Tally) -> None:
    """Count what was repaired in a product."""
    if item.nulls:
        reason = f"{item.nulls} null or blank values in the lists of {item.uid} are left out"
        tally.count("null in a list", file, item.row, reason)
    if item.entities:
        reason = f"{item.uid}: HTML entities such as &amp; became characters"
        tally.count("HTML entities", file, item.row, reason)
