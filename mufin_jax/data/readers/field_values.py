"""The fields that are kept for filters, as the data give them: their options and their values."""

import contextlib
import datetime
import decimal
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mufin_jax.data.kept_fields import FieldValue, text_of
from mufin_jax.data.readers.tables import split_cell
from mufin_jax.data.readers.values import unescaped
from mufin_jax.runtime.errors import InputError

_KINDS = ("number", "text")


def parse_keep(options: Iterable[str], name: str) -> dict[str, str | None]:
    """Return the kind of each field of options such as "category" and "price:number", or None.

    Args:
        options: the names of fields; ":number" or ":text" after one gives its kind.
        name: of the option, for messages.

    Raises:
        InputError: for an empty name, and one that is given twice.
    """
    found: dict[str, str | None] = {}
    for option in options:
        field, _, kind = option.rpartition(":")
        if kind not in _KINDS or not field:
            field, kind = option, None
        if not field.strip() or field in found or "=" in field or "," in field:
            raise InputError(
                f"{name}: {option!r:.80}: expected names of fields, separated by blanks, each "
                "once, such as category price:number"
            )
        found[field] = kind
    return found


def read_value(value: Any) -> FieldValue:
    """Return a raw value of a field; what is neither number, text nor a list of these is missing.

    Args:
        value: as the data give it. A text such as "chair|table" or "['chair', 'table']" is a list,
            as in a cell of a table.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, int | float | decimal.Decimal) and not isinstance(value, bool):
        return _number(value)
    return tuple(dict.fromkeys(map(sys.intern, _texts(value)))) or None


def _number(value: int | float | decimal.Decimal) -> float | None:
    with contextlib.suppress(OverflowError):
        found = float(value)
        return found if math.isfinite(found) else None


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a value; lists in lists count as one list."""
    if isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, datetime.date):
        yield value.isoformat()
    elif isinstance(value, str):
        for one in split_cell(value, None, "|"):
            if text := unescaped(one).strip():
                yield text
    elif isinstance(value, int | float | decimal.Decimal):
        if (number := _number(value)) is not None:
            yield text_of(number)
