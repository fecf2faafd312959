"""One line of a JSON catalogue: parsed strictly and checked field by field."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from mufin_jax.data.readers.fields import NAMES, READ
from mufin_jax.data.readers.files import decode
from mufin_jax.data.readers.values import clean_id, unescaped, whole_number

T = TypeVar("T")


@dataclasses.dataclass
class Product:
    """One checked line.

    Attributes:
        row: its 1-based number in the file.
        uid, title: stripped; the title is "" if there is none.
        images: paths and URLs as the line gives them.
        relevant: ids (also_buy), or label numbers (target_ind), or None without either.
        category: its name, or None.
        kept: False if the line is unusable.
        fields: the names of its fields that have a value.
        nulls: how many values of its lists are null, and left out.
        entities: whether its title or category had HTML entities.
    """

    row: int
    uid: str = ""
    title: str = ""
    images: list[str] = dataclasses.field(default_factory=list)
    relevant: list[str] | list[int] | None = None
    category: str | None = None
    kept: bool = True
    fields: list[str] = dataclasses.field(default_factory=list)
    nulls: int = 0
    entities: bool = False


def parse_product(row: int, line: bytes) -> Product:
    """Parse and check one line.

    Raises:
        ValueError: with the reason why the line is unusable.
        RecursionError: if the line is nested too deeply.
    """
    found = json.loads(
        decode(line), object_pairs_hook=_object, parse_constant=_Odd, parse_int=_integer
    )
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    return product_of(row, found)


def product_of(row: int, found: dict[str, Any]) -> Product:
    """Check the fields of one product; fields that are not read may hold anything.

    Raises:
        ValueError: with the reason why the product is unusable.
    """
    if isinstance(found, _Repeated) and not found.repeated.isdisjoint(NAMES):
        raise ValueError("a key occurs twice in one object")
    for name in NAMES & found.keys():
        _reject_odd(found[name])
    uid = next((found[key] for key in READ["id"] if found.get(key) is not None), None)
    uid = clean_id(uid)
    if uid is None:
        raise ValueError("expected a non-empty `ASIN` (or `uid`)")
    images, nulls = _list_of(found, "images", _text, "str")
    relevant, more = _relations(found)
    title, category = found.get("title") or "", found.get("category")
    if not isinstance(title, str):
        raise ValueError(f"expected `title` to be a string, found {type(title).__name__}")
    category = category if isinstance(category, str) else None
    plain = unescaped(title), None if category is None else unescaped(category)
    return Product(
        row,
        uid,
        plain[0].strip(),
        images,
        relevant,
        plain[1],
        fields=[name for name, value in found.items() if value not in (None, "", [], {})],
        nulls=nulls + more,
        entities=plain != (title, category),
    )


def _relations(found: dict[str, Any]) -> tuple[list[str] | list[int] | None, int]:
    """Return the ids or numbers of relevant labels, and how many are null."""
    if found.get("also_buy") is not None:
        return _list_of(found, "also_buy", clean_id, "str")
    if found.get("target_ind") is None:
        return None, 0
    values = found["target_ind"]
    if isinstance(values, list) and isinstance(found.get("target_rel"), list):
        if len(found["target_rel"]) != len(values):
            raise ValueError("`target_ind` and `target_rel` differ in length")
        pairs = list(zip(values, found["target_rel"], strict=True))
        sound = [pair for pair in pairs if None not in pair]
        weights, _ = _list_of({"target_rel": [w for _, w in sound]}, "target_rel", _number, "float")
        labels, _ = _list_of({"target_ind": [i for i, _ in sound]}, "target_ind", _label, "int")
        relevant = [label for label, weight in zip(labels, weights, strict=True) if weight > 0]
        return relevant, len(pairs) - len(sound)
    _list_of(found, "target_rel", _number, "float")
    return _list_of(found, "target_ind", _label, "int")


def _list_of(
    found: dict[str, Any], key: str, read: Callable[[Any], T | None], kind: str
) -> tuple[list[T], int]:
    """Return a field's values without nulls and blanks, and the number of these.

    Args:
        found: the object.
        key: the field; if it is absent or null, there are no values.
        read: returns a value, or None if it is of another kind.
        kind: the kind's name, for messages.
    """
    values = found.get(key)
    if values is None:
        return [], 0
    if not isinstance(values, list):
        raise ValueError(f"expected `{key}` to be a list of {kind}, found {type(values).__name__}")
    given = [value for value in values if value is not None and not _blank(value)]
    checked = []
    for value in given:
        one = read(value)
        if one is None:
            raise ValueError(
                f"expected `{key}` to be a list of {kind}, found {type(value).__name__} in it"
            )
        checked.append(one)
    return checked, len(values) - len(given)


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _label(value: Any) -> int | None:
    return whole_number(value) if isinstance(value, int | float) else None


class _Odd:
    """A value that is not JSON, or too long: an error only in a field that is read."""

    def __init__(self, name: str):
        self.reason = f"{name} is not JSON"


class _Repeated(dict[str, Any]):
    """An object in which keys occur twice."""

    repeated: set[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(name for name, _ in pairs)
    twice = _Repeated(found)
    twice.repeated = {name for name, count in counts.items() if count > 1}
    return twice


def _integer(digits: str) -> Any:
    if len(digits) <= 400:
        return int(digits)
    odd = _Odd("")
    odd.reason = f"a number of {len(digits):,} digits is beyond the limit of 400"
    return odd


def _reject_odd(value: Any) -> None:
    """Raise ValueError if a value, or an entry of a list, is not JSON."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, _Odd):
            raise ValueError(one.reason)
