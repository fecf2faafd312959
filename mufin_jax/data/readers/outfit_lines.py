"""Outfits, questions and outfits to judge: parsed and checked entry by entry."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mufin_jax.data.readers.files import SourceFolder, decode, lines
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.readers.values import clean_id

T = TypeVar("T")

MOST_ITEMS = 64
"""Larger outfits are left out: an outfit of n items makes n datapoints of n - 1 items each."""


@dataclasses.dataclass(frozen=True)
class Outfit:
    """Distinct items, by id, that somebody combined.

    Attributes:
        row: its 1-based place in the file.
        set_id: the outfit's id.
        items: the items' ids, each once.
        indices: the index of each item; questions name items by it.
        named: the item of each index, for all entries.
    """

    row: int
    set_id: str
    items: list[str]
    indices: list[str]
    named: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Question:
    """A test outfit without one of its items, and items to choose from.

    Attributes:
        row: its 1-based place in the file.
        name: the name of the right answer, `<set_id>_<index>`.
        items: the outfit's other items, each once.
        answers: distinct items.
        right: the place of the right answer.
    """

    row: int
    name: str
    items: list[str]
    answers: list[str]
    right: int


@dataclasses.dataclass(frozen=True)
class Judged:
    """Items, each once, and whether somebody combined them."""

    items: list[str]
    compatible: bool


def read_outfits(file: str, found: list[Any], tally: Tally) -> list[Outfit]:
    """Return the outfits of train.json or test.json; unusable outfits go to the tally."""
    known: set[str] = set()

    def parse(row: int, entry: Any) -> Outfit:
        set_id, members = _id(entry, "set_id"), _field(entry, "items", list)
        if len(members) > MOST_ITEMS:
            raise ValueError(f"{len(members)} items: expected at most {MOST_ITEMS}")
        named = {}
        for member in members:
            index = _id(member, "index")
            if index in named:
                raise ValueError(f"index {index} occurs twice")
            named[index] = _id(member, "item_id")
        if not named:
            raise ValueError("no items")
        if set_id in known:
            raise ValueError(f"set_id {set_id} occurs in an earlier entry")
        known.add(set_id)
        first = {item: index for index, item in reversed(named.items())}
        items = list(dict.fromkeys(named.values()))
        return Outfit(row, set_id, items, [first[item] for item in items], named)

    return list(_usable("outfits", file, enumerate(found, 1), parse, tally))


def read_questions(
    file: str, found: list[Any], outfits: list[Outfit], tally: Tally
) -> list[Question]:
    """Return the questions of fill_in_blank_test.json; they name the items of test.json."""
    item_of = _names(outfits)

    def parse(row: int, entry: Any) -> Question:
        asked, offered = (_field(entry, field, list) for field in ("question", "answers"))
        items, answers = _resolve(asked, item_of), _resolve(offered, item_of)
        if not items or len(set(answers)) < max(2, len(offered)):
            raise ValueError("expected items of the outfit, and two or more distinct answers")
        own = [_set_of(name) == _set_of(asked[0]) for name in offered]
        if sum(own) != 1:
            raise ValueError(
                f"{sum(own)} answers are from the question's outfit {_set_of(asked[0])}: expected 1"
            )
        right = own.index(True)
        return Question(row, offered[right].strip(), list(dict.fromkeys(items)), answers, right)

    return list(_usable("questions", file, enumerate(found, 1), parse, tally))


def read_judged(
    source: SourceFolder, path: Path | None, outfits: list[Outfit], tally: Tally
) -> list[Judged]:
    """Return the lines of compatibility_test.txt, if there is one."""
    if path is None:
        return []
    item_of = _names(outfits)

    def parse(row: int, line: bytes) -> Judged:
        mark, *names = decode(line).split() or [""]
        if mark not in ("0", "1"):
            raise ValueError(f"begins with {mark[:20]!r}: expected 0 or 1")
        items = list(dict.fromkeys(_resolve(names, item_of)))
        if len(items) < 2:
            raise ValueError(f"{len(items)} distinct items: expected two or more")
        return Judged(items, mark == "1")

    filled = ((row, line) for row, line in lines(path) if line.strip())
    return list(_usable("outfits to judge", source.name(path), filled, parse, tally))


def _usable(
    population: str,
    file: str,
    entries: Iterable[tuple[int, Any]],
    parse: Callable[[int, Any], T],
    tally: Tally,
) -> Iterator[T]:
    """Yield what can be parsed; count the rest, each with the number of its entry."""
    for row, entry in entries:
        tally.seen(population, 1)
        try:
            yield parse(row, entry)
        except ValueError as error:
            tally.bad(population, f"bad entry of {population}", file, row, str(error))


def _names(outfits: list[Outfit]) -> dict[str, str]:
    named = {}
    for outfit in outfits:
        named |= {f"{outfit.set_id}_{index}": item for index, item in outfit.named.items()}
    return named


def _resolve(names: list[Any], item_of: dict[str, str]) -> list[str]:
    if len(names) > MOST_ITEMS:
        raise ValueError(f"{len(names)} items: expected at most {MOST_ITEMS}")
    for name in names:
        if not isinstance(name, str) or name.strip() not in item_of:
            raise ValueError(f"names {_shown(name)}, which is not an item of test.json")
    return [item_of[name.strip()] for name in names]


def _set_of(name: str) -> str:
    return name.strip().rpartition("_")[0]


def _id(entry: Any, field: str) -> str:
    """Return a field that is an id, as text without blanks around it."""
    value = clean_id(_field(entry, field, str | int | float))
    if value is None:
        raise ValueError(f"expected `{field}`, found {_shown(entry[field])}")
    return value


def _field(entry: Any, field: str, kind: Any) -> Any:
    """Return a field of an object; raise ValueError if there is none of this kind."""
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, found {type(entry).__name__}")
    value = entry.get(field)
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise ValueError(f"expected `{field}`, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int) else type(value).__name__
