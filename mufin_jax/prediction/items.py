"""A user's items, in the forms that people hold them, brought to one form.

Values that tables call missing (None, NaN, NA) count as absent. What is not understood is rejected
by the number of its item and its type: text made of a list's or a number's signs would be scored.
"""

import dataclasses
import decimal
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mufin_jax.data.kept_fields import FieldValue
from mufin_jax.data.readers.field_values import read_value
from mufin_jax.data.readers.values import clean_id, unescaped
from mufin_jax.prediction.pictures import pictures_in
from mufin_jax.runtime.errors import InputError

_FIELDS = ("id", "title", "titles", "images", "text_vector", "image_vectors")
_OF_LABELS = ("related",)
"""What an item may have, too, if it becomes a label."""
_MISSING = ("NAType", "NaTType", "MaskedConstant", "NullScalar")
"""Types whose only value is a missing one, of packages that may not be installed."""
_ROWS = {"to_pylist": (), "to_dicts": (), "to_dict": ("records",)}
"""How tables of pyarrow, polars and pandas give their rows as dicts."""


@runtime_checkable
class Table(Protocol):
    """A table with a column for each field: of pandas, polars or pyarrow."""

    @property
    def columns(self) -> Any:
        """The columns, or their names."""
        ...


@dataclasses.dataclass(frozen=True)
class Item:
    """What one item brings; nothing of it is read yet.

    Attributes:
        name: for messages, such as "item 3".
        id: None if there is none.
        titles: those that are not empty, with HTML entities read as in prepared data.
        pictures: as the user gave them.
        text_vector: as the user gave it, None if there is none.
        image_vectors: as the user gave them, None if there are none.
        related: ids of products that a new label goes with.
        fields: values of a new label's fields that are kept for filters.
        exclude: ids of labels that this item must not get, whatever the others of its query get.
    """

    name: str
    id: str | None
    titles: list[str]
    pictures: list[Any]
    text_vector: Any = None
    image_vectors: Any = None
    related: Sequence[str] = ()
    fields: Mapping[str, FieldValue] = dataclasses.field(default_factory=dict)
    exclude: Sequence[str] = ()

    @classmethod
    def read(
        cls, given: Mapping[str, Any], name: str, kept: Collection[str] | None = None
    ) -> "Item":
        """Return the item of a dict.

        Args:
            given: with some of the fields "id", "title" or "titles", "images", "text_vector" and
                "image_vectors".
            name: for messages.
            kept: the fields that are kept for filters, if it becomes a label; this may have them,
                and "related".

        Raises:
            InputError: if a field is unknown, or its value is of another kind.
        """
        fields = _FIELDS if kept is None else (*_FIELDS, *_OF_LABELS, *kept)
        if unknown := [field for field in given if field not in fields]:
            raise InputError(
                f"{name}: unknown field {unknown[0]!r:.80}; expected {', '.join(fields)}"
            )
        found = {field: value for field, value in given.items() if not is_missing(value)}
        vectors = found.get("image_vectors")
        if isinstance(vectors, list | tuple):
            vectors = [vector for vector in vectors if not is_missing(vector)] or None
        return cls(
            name,
            _id(found.get("id"), f"{name}: id"),
            _titles(found, name),
            [one for one in pictures_in(found.get("images"), name) if not _is_empty(one)],
            found.get("text_vector"),
            vectors,
            read_ids(found.get("related", ()), f"{name}: related"),
            {field: read_value(found.get(field)) for field in kept or ()},
        )


Items = Iterable[Mapping[str, Any] | str | Item] | Table
"""Dicts, one an item, or ids of known products, or items; or a table."""


def read_query(items: object, kept: Collection[str] | None = None) -> list[Item]:
    """Return the items of a query.

    Args:
        items: dicts or ids in any iterable, items that are read, or a table (`Items`).
        kept: the fields that are kept for filters, if the items become labels.

    Raises:
        InputError: if the items are in another form, or a field of one is.
    """
    expected = "expected a list of dicts or ids, one an item"
    for method, arguments in _ROWS.items():
        if isinstance(items, Table) and hasattr(items, method):
            items = getattr(items, method)(*arguments)
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise InputError(f"items: found {type(items).__name__}; {expected}")
    found = []
    for row, item in enumerate(items):
        if isinstance(item, Item):
            found.append(item)
            continue
        if not isinstance(item, Mapping | str):
            raise InputError(f"item {row}: found {type(item).__name__}; {expected}")
        given = {"id": item} if isinstance(item, str) else item
        found.append(Item.read(given, f"item {row}", kept))
    return found


def check_k(k: object, shortlist: int) -> None:
    """Reject a k that is not a number of labels, or more than the shortlist has."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= shortlist:
        raise InputError(
            f"k={k!r:.80}: expected a whole number from 1 to predict.shortlist={shortlist}"
        )


def read_ids(ids: object, name: str) -> list[str]:
    """Return ids in a list; one id counts as one, and missing ones as absent.

    Args:
        ids: texts or whole numbers in any iterable, or one of them.
        name: of the argument, for messages.

    Raises:
        InputError: if they are of another kind.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        ids = [ids]
    found = [_id(None if is_missing(uid) else uid, name) for uid in ids]
    return [uid for uid in found if uid is not None]


def is_missing(value: object) -> bool:
    """Return whether a value stands for none: None, NaN, or what a table calls NA."""
    if value is None or type(value).__name__ in _MISSING:
        return True
    return isinstance(value, float | np.floating | decimal.Decimal) and bool(value != value)


def _is_empty(picture: Any) -> bool:
    """Return whether an entry of "images" stands for no picture: missing, or a blank path."""
    return is_missing(picture) or (isinstance(picture, str) and not picture.strip())


def _id(value: Any, name: str) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    uid = clean_id(value.item() if isinstance(value, np.generic) else value)
    if uid is None:
        raise InputError(
            f"{name}: found {type(value).__name__} {value!r:.80}; expected an id: a text or a "
            "whole number"
        )
    return uid


def _titles(found: Mapping[str, Any], name: str) -> list[str]:
    """Return the titles of an item that are not empty, with HTML entities read as in its data."""
    title, given = found.get("title"), found.get("titles")
    if not isinstance(title, str | None):
        raise InputError(
            f"{name}: title: found {type(title).__name__} {title!r:.80}; expected a text, or "
            "titles for a list of texts"
        )
    if given is None:
        given = [title]
    elif title or isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        odd = "a title next to them" if title else f"{type(given).__name__} {given!r:.80}"
        raise InputError(f"{name}: titles: found {odd}; expected a list of all texts of the item")
    texts = [one for one in given if not is_missing(one)]
    if wrong := [one for one in texts if not isinstance(one, str)]:
        raise InputError(
            f"{name}: titles: found {type(wrong[0]).__name__} {wrong[0]!r:.80} among them; "
            "expected texts"
        )
    plain = (unescaped(str(one)).strip() for one in texts)
    return [title for title in plain if title]
