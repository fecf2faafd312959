"""Outfits in the form of Polyvore Outfits (Vasileva et al., ECCV 2018).

polyvore_item_metadata.json       {item_id: {"title", "url_name", "semantic_category", ...}}
images/<item_id>.jpg              or the path in an item's field `image`
{train,test}.json                 [{"set_id": ..., "items": [{"item_id", "index"}, ...]}, ...]
fill_in_blank_test.json           [{"question": [name, ...], "answers": [name, ...]}, ...]
compatibility_test.txt            `1 name name ...` or `0 name name ...` a line; optional

The last three are in `disjoint/`, or in the folder itself. A name `<set_id>_<index>` is an item of
test.json. The right answer is the one with the question's set_id. As in the official code,
`blank_position` is ignored.

An item left out of a training outfit is the label of a datapoint: the bag of all other items. Test
points are the questions. Labels are the items of training and test; items that only occur in test
have no training point. A point and the items that it contains are pairs of the overlap filter: an
outfit no longer needs what it has.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from mufin_jax.data.questions import Questions, pack
from mufin_jax.data.readers import matrices
from mufin_jax.data.readers.catalogue import Catalogue, RawSide
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.image_files import ImageFiles
from mufin_jax.data.readers.outfit_lines import (
    Judged,
    Outfit,
    Question,
    read_judged,
    read_outfits,
    read_questions,
)
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.readers.values import unescaped
from mufin_jax.runtime.errors import InputError

FORM = "outfits"
METADATA = "polyvore_item_metadata.json"
MOST_BYTES = 2**28
"""The largest JSON file that is read: loading it takes several times its size in memory.

For the 251,008 items of Polyvore Outfits, this is a kilobyte an item.
"""
MOST_TITLE = 1000
"""Characters of an item's title: each is a text of all points of an outfit but one."""
MOST_JOINED = 4096
"""Characters of a point's title, which joins the titles of its items."""
_FOLDERS = ("disjoint/", "", "nondisjoint/")


def recognises(source: SourceFolder) -> bool:
    """Return whether the folder has this form."""
    return source.find(METADATA) is not None


def read(source: SourceFolder, tally: Tally, max_images: int, max_bytes: int) -> Catalogue:
    """Read everything except the pictures' bytes.

    Args:
        source: the folder.
        tally: takes unusable outfits, questions and items.
        max_images: unused; an item has one picture.
        max_bytes: the largest picture; checked when the picture is read.

    Raises:
        InputError: if a file is missing, is not JSON, or contains nothing usable.
    """
    del max_images, max_bytes
    files, train, test, asked, judged = _read_entries(source, tally)
    numbers: dict[str, int] = {}  # of the labels: the items of training come first
    for outfit in (*train, *test):
        for item in outfit.items:
            numbers.setdefault(item, len(numbers))
    items = _Garments(source, list(numbers), ImageFiles(source), tally)
    trained = {item for outfit in train for item in outfit.items}

    def labels(names: Iterable[str]) -> list[int]:
        return [numbers[item] for item in names]

    points = [
        _Point(outfit.row, f"{outfit.set_id}_{index}", labels(_without(outfit.items, item)), item)
        for outfit in train
        if len(outfit.items) > 1
        for index, item in zip(outfit.indices, outfit.items, strict=True)
    ]
    tests = [_Point(q.row, q.name, labels(q.items), q.answers[q.right]) for q in asked]
    unseen = [trained.isdisjoint([*q.items, *q.answers]) for q in asked]
    questions = Questions(
        answers=_padded([labels(q.answers) for q in asked]),
        right=np.array([q.right for q in asked], np.int32),
        unseen=np.array(unseen, bool),
        **pack([np.array(labels(outfit.items)) for outfit in judged]),
        compatible=np.array([outfit.compatible for outfit in judged], bool),
    )
    sides = {
        "train": items.side_of(files["train.json"], points),
        "test": items.side_of(files[_BLANKS], tests),
        "label": items.side(),
    }
    by_side = {"train": points, "test": tests}
    relevance = {
        name: matrices.from_rows([labels([p.missing]) for p in some], len(numbers))
        for name, some in by_side.items()
    }
    filters = {
        name: matrices.from_rows([p.items for p in some], len(numbers))
        for name, some in by_side.items()
    }
    return Catalogue(FORM, sides, relevance, filters, items.images, questions=questions)


_BLANKS = "fill_in_blank_test.json"
_WANTED = ("train.json", "test.json", _BLANKS)


class _Entries(NamedTuple):
    """The usable entries of all files, and the files' names."""

    files: dict[str, str]
    train: list[Outfit]
    test: list[Outfit]
    asked: list[Question]
    judged: list[Judged]


def _read_entries(source: SourceFolder, tally: Tally) -> _Entries:
    """Read the outfits, the questions and the outfits to judge."""
    folder = next((f for f in _FOLDERS if source.find(f + "train.json")), None)
    if folder is None:
        raise InputError(f"{source.path} lacks disjoint/train.json or train.json")
    paths = {name: source.require(folder + name) for name in _WANTED}
    files = {name: source.name(path) for name, path in paths.items()}
    found = {name: _load(source, path, list) for name, path in paths.items()}
    train = read_outfits(files["train.json"], found["train.json"], tally)
    test = read_outfits(files["test.json"], found["test.json"], tally)
    asked = read_questions(files[_BLANKS], found[_BLANKS], test, tally)
    judged = read_judged(source, source.find(folder + "compatibility_test.txt"), test, tally)
    for name, some in (("train.json", train), (_BLANKS, asked)):
        if not some:
            raise InputError(f"{files[name]}: none of its {len(found[name]):,} entries can be used")
    return _Entries(files, train, test, asked, judged)


class _Point(NamedTuple):
    """An outfit that lacks an item; `items` are the labels that it contains."""

    row: int
    name: str
    items: list[int]
    missing: str


def _padded(rows: list[list[int]]) -> Int32[np.ndarray, "q c"]:
    """Return the rows of given answers as an array, with -1 in free places."""
    padded = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded


def _without(items: Sequence[str], missing: str) -> list[str]:
    return [item for item in items if item != missing]


class _Garments:
    """The items by label: titles, categories, pictures."""

    def __init__(self, source: SourceFolder, ids: list[str], images: ImageFiles, tally: Tally):
        path = source.require(METADATA)
        metadata = {name.strip(): facts for name, facts in _load(source, path, dict).items()}
        rows = {item: row for row, item in enumerate(metadata, 1)}
        self.file, self.ids, self.images = source.name(path), ids, images
        self.rows = [rows.get(item, 0) for item in ids]
        self.titles, self.categories, self.keys = [], [], []
        pictured = (source.path / "images").is_dir()
        tally.seen("items", len(ids))
        for item, row in zip(ids, self.rows, strict=True):
            facts = metadata.get(item)
            if not isinstance(facts, dict):
                kind = "absent" if facts is None else f"a {type(facts).__name__}, not an object"
                tally.bad("items", "bad metadata", self.file, row, f"item {item} is {kind}")
                facts = {}
            title = _text(facts, "title") or _text(facts, "url_name")
            if unescaped(title) != title:
                title = unescaped(title).strip()
                reason = f"item {item}: HTML entities such as &amp; became characters"
                tally.count("HTML entities", self.file, row, reason)
            if len(title) > MOST_TITLE:
                reason = f"item {item}: the first {MOST_TITLE:,} of {len(title):,} characters"
                tally.count("long title", self.file, row, reason)
                title = title[:MOST_TITLE].rstrip()
            picture = _text(facts, "image") or (f"images/{item}.jpg" if pictured else "")
            self.titles.append(title)
            self.categories.append(unescaped(_text(facts, "semantic_category")))
            self.keys.append([images.add(picture)] if picture else [])

    def side(self) -> RawSide:
        """Return the labels."""
        bags = [[number] for number in range(len(self.ids))]
        side = self._side(self.file, self.rows, self.ids, bags)
        side.titles, side.texts = self.titles, None
        side.categories = self.categories if any(self.categories) else None
        return side

    def side_of(self, file: str, points: Sequence[_Point]) -> RawSide:
        """Return datapoints: bags of all titles and pictures of their items."""
        rows, names = [point.row for point in points], [point.name for point in points]
        return self._side(file, rows, names, [point.items for point in points])

    def _side(self, file: str, rows: list[int], ids: list[str], bags: list[list[int]]) -> RawSide:
        keys = [[key for item in bag for key in self.keys[item]] for bag in bags]
        texts = [[self.titles[item] for item in bag if self.titles[item]] for bag in bags]
        return RawSide(
            file,
            np.array(rows, np.int64),
            ids,
            [_joined(some) for some in texts],
            np.ones(len(ids), bool),
            np.cumsum([0, *map(len, keys)]),
            np.array([key for some in keys for key in some], np.int64),
            texts=texts,
        )


def _joined(titles: Iterable[str]) -> str:
    """Return as many of the titles in one line as fit; each point of an outfit has such a line."""
    shown, length = [], 0
    for title in titles:
        length += len(title) + 3
        if shown and length > MOST_JOINED + 3:
            break
        shown.append(title)
    return " | ".join(shown)


def _text(facts: dict[str, Any], field: str) -> str:
    """Return a field on one line; "" if it is not a string."""
    value = facts.get(field)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _load(source: SourceFolder, path: Path, kind: type) -> Any:
    """Load a whole JSON file.

    Raises:
        InputError: if it is not JSON, too large, or not of the kind (dict or list).
    """
    name, size = source.name(path), path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{name} has {size:,} bytes: expected at most {MOST_BYTES:,}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON ({' '.join(str(error).split())[:200]})") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, kind):
        wanted = {dict: "an object", list: "a list"}[kind]
        raise InputError(f"{name}: expected {wanted}, found {type(found).__name__}")
    return found
