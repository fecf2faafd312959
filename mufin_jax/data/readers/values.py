"""Values that people write in several ways: ids, whole numbers, titles with HTML entities."""

import html
import re
from collections.abc import Iterable
from typing import Any

_INVISIBLE = "\ufeff\u200b\u2060"  # zero-width characters, which strip() leaves
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")


def clean_id(value: Any) -> str | None:
    """Return an id as text, without blanks around it; None if it is no id.

    A whole number counts as its digits, also when it is written as 3.0: tables with a missing value
    often turn whole numbers into such numbers.
    """
    if isinstance(value, str):
        return value.strip().strip(_INVISIBLE).strip() or None
    number = whole_number(value)
    return None if number is None else str(number)


def whole_number(value: Any) -> int | None:
    """Return a whole number, also of 3.0 and of the text "3.000e+00"; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str | bytes):
        try:
            return int(value)
        except ValueError:
            pass
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None


def unescaped(text: str) -> str:
    """Return a text with its HTML entities as characters, once: "&amp;lt;" becomes "&lt;"."""
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def similar_id(wanted: str, known: Iterable[str]) -> str | None:
    """Return a known id that differs from `wanted` only by case, zeros in front, or signs."""

    def plain(uid: str) -> str:
        return re.sub(r"[^0-9a-z]", "", uid.casefold()).lstrip("0")

    looked_for = plain(wanted)
    return next((uid for uid in known if plain(uid) == looked_for), None) if looked_for else None
