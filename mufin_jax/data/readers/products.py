"""One product of a catalogue: its fields, checked one by one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mufin_jax.data.kept_fields import FieldValue
from mufin_jax.data.readers.field_values import read_value
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.json_rows import Repeated, reject_odd
from mufin_jax.data.readers.values import clean_id, unescaped, whole_number

T = TypeVar("T")
_SINGLE = {"imUrl", "image"}  # fields of one picture, which need no list
_AMAZON_KINDS = {"also_bought", "also_viewed", "bought_together", "buy_after_viewing"}
_SIZES = ("path", "large", "hi_res", "thumb", "url")  # of a picture: the first that there is


@dataclasses.dataclass(slots=True)
class Product:
    """One checked product.

    Attributes:
        row: its 1-based number in the file.
        uid, title: stripped; the title is "" if there is none.
        images: paths and URLs as the data give them.
        relevant: ids (also_buy), or label numbers (target_ind), or None without either.
        category: its name, or None.
        kept: False if it is unusable.
        fields: the names of its fields that have a value.
        nulls: how many values of its lists are null or blank, and left out.
        entities: whether its texts or its category had HTML entities.
        texts: its further texts, stripped; no two are equal, nor is one the title.
        kept_fields: the values of the fields that are kept for filters.
    """

    row: int
    uid: str = ""
    title: str = ""
    images: Sequence[str] = ()
    relevant: Sequence[str] | Sequence[int] | None = None
    category: str | None = None
    kept: bool = True
    fields: Sequence[str] = ()
    nulls: int = 0
    entities: bool = False
    texts: Sequence[str] = ()
    kept_fields: Sequence[FieldValue] = ()


def product_of(row: int, found: Any, columns: Columns) -> Product:
    """Check the fields of one product; fields that are not read may hold anything.

    Args:
        row: its number in the file.
        found: the product.
        columns: the names of the fields.

    Raises:
        ValueError: with the reason why the product is unusable.
    """
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    if isinstance(found, Repeated) and not found.repeated.isdisjoint(columns.names):
        raise ValueError("a key occurs twice in one object")
    try:
        return _checked(row, found, columns)
    except ValueError:
        for name in columns.names & found.keys():
            reject_odd(found[name])  # a better reason
        raise


def _checked(row: int, found: dict[str, Any], columns: Columns) -> Product:
    uid = clean_id(_first(found, columns.id)[1])
    if uid is None and columns.needs_id:
        others = ", ".join(columns.id[1:])
        raise ValueError(
            f"expected a non-empty `{columns.id[0]}`{f' (or {others})' if others else ''}"
        )
    name, images = _first(found, columns.images)
    images, nulls = _list_of(name, _pictures(name, images), _path, "str")
    relevant, more = _relations(found, columns)
    title = _title(*_first(found, columns.title))
    category = _first(found, columns.category)[1]
    category = category if isinstance(category, str) else None
    plain = unescaped(title), None if category is None else unescaped(category)
    title, entities = plain[0].strip(), plain != (title, category)
    written = [_text_of(found.get(name)) for name in columns.texts]
    texts = [unescaped(text) for text in written]
    return Product(
        row,
        uid or "",
        title,
        images,
        relevant,
        plain[1],
        fields=[name for name, value in found.items() if value or value == 0],
        nulls=nulls + more,
        entities=entities or texts != written,
        texts=[text for text in dict.fromkeys(map(str.strip, texts)) if text and text != title],
        kept_fields=tuple(read_value(found.get(name)) for name in columns.keep),
    )


def kept_fields_of(found: Any, columns: Columns) -> tuple[str, tuple[FieldValue, ...]] | None:
    """Return the id of a product and its values of `columns.keep`; None if it has no id.

    Its other fields are not checked.
    """
    uid = clean_id(_first(found, columns.id)[1]) if isinstance(found, dict) else None
    if uid is None:
        return None
    return uid, tuple(read_value(found.get(name)) for name in columns.keep)


def _first(found: dict[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """Return the first field that has a value, and the value; otherwise the first name and None."""
    for name in names:
        value = found.get(name)
        if value or value == 0:
            return name, value
    return names[0], None


def _title(name: str, value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str | None) for part in value):
        value = " ".join(part for part in value if part)
    if not isinstance(value, str | None):
        raise ValueError(f"expected `{name}` to be a string, found {type(value).__name__}")
    return value or ""


def _text_of(value: Any) -> str:
    """Return a further text: of a list the values in one line, of an object "name: value; ..."."""
    if isinstance(value, list):
        return " ".join(filter(None, map(_text_of, value)))
    if isinstance(value, dict):
        parts = {name: _text_of(one) for name, one in value.items()}
        return "; ".join(f"{name}: {text}" for name, text in parts.items() if text)
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return str(value) if number else ""


def _pictures(name: str, value: Any) -> Any:
    """Return the pictures of a field as a list, if it has one of the published forms."""
    if isinstance(value, str) and name in _SINGLE:
        return [value]
    if isinstance(value, dict):  # as tables hold Amazon's: a list of each size
        lists = [value[size] for size in _SIZES if isinstance(value.get(size), list)]
        return [next((one for one in sizes if one), None) for sizes in zip(*lists, strict=False)]
    return value


def _path(value: Any) -> str | None:
    """Return the path or URL of a picture; of several sizes, the large one."""
    if isinstance(value, dict):
        sizes = (value.get(size) for size in _SIZES)
        return next((one for one in sizes if isinstance(one, str) and one), None)
    return value if isinstance(value, str) else None


def _relations(found: dict[str, Any], columns: Columns) -> tuple[Sequence[Any] | None, int]:
    """Return the ids or numbers of relevant labels, and how many are null."""
    name, related = _first(found, columns.related)
    if isinstance(related, dict) and not related.keys() - _AMAZON_KINDS:  # of 2014: lists by kind
        name, related = f"{name}.also_bought", related.get("also_bought")
    if related is not None:
        return _list_of(name, related, clean_id, "str")
    if found.get("target_ind") is None:
        return (() if any(found.get(name) is not None for name in columns.related) else None), 0
    values, weights = found["target_ind"], found.get("target_rel")
    if isinstance(values, list) and isinstance(weights, list):
        if len(weights) != len(values):
            raise ValueError("`target_ind` and `target_rel` differ in length")
        pairs = list(zip(values, weights, strict=True))
        sound = [pair for pair in pairs if None not in pair]
        weights, _ = _list_of("target_rel", [w for _, w in sound], _number, "float")
        labels, _ = _list_of("target_ind", [i for i, _ in sound], _label, "int")
        relevant = [label for label, weight in zip(labels, weights, strict=True) if weight > 0]
        return relevant, len(pairs) - len(sound)
    _list_of("target_rel", weights, _number, "float")
    return _list_of("target_ind", values, _label, "int")


def _list_of(
    name: str, values: Any, read: Callable[[Any], T | None], kind: str
) -> tuple[tuple[T, ...], int]:
    """Return a field's values without nulls and blanks, and the number of these.

    Args:
        name: the field.
        values: its value; None if there is none.
        read: returns an entry, or None if it is of another kind.
        kind: the kind's name, for messages.
    """
    if values is None:
        return (), 0
    if not isinstance(values, list):
        raise ValueError(f"expected `{name}` to be a list of {kind}, found {type(values).__name__}")
    checked = []
    for value in values:
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        one = read(value)
        if one is None:
            raise ValueError(
                f"expected `{name}` to be a list of {kind}, found {type(value).__name__} in it"
            )
        checked.append(one)
    return tuple(checked), len(values) - len(checked)


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _label(value: Any) -> int | None:
    return whole_number(value) if isinstance(value, int | float) else None
