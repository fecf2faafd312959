"""One line of a JSON catalogue: parsed strictly and checked field by field."""

import dataclasses
import json
from typing import Any

from mufin_jax.data.readers.files import decode


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
    """

    row: int
    uid: str = ""
    title: str = ""
    images: list[str] = dataclasses.field(default_factory=list)
    relevant: list[str] | list[int] | None = None
    category: str | None = None
    kept: bool = True


def parse_product(row: int, line: bytes) -> Product:
    """Parse and check one line.

    Raises:
        ValueError: with the reason why the line is unusable.
        RecursionError: if the line is nested too deeply.
    """
    found = json.loads(decode(line), object_pairs_hook=_object, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    uid = next((found[key] for key in ("ASIN", "asin", "uid") if key in found), None)
    if isinstance(uid, int) and not isinstance(uid, bool):
        uid = str(uid)
    if not isinstance(uid, str) or not uid.strip():
        raise ValueError("expected a non-empty `ASIN` (or `uid`)")
    relevant = None
    if found.get("also_buy") is not None:
        relevant = _list_of(found, "also_buy", str)
    elif found.get("target_ind") is not None:
        relevant = _list_of(found, "target_ind", int)
        if found.get("target_rel") is not None:
            values = _list_of(found, "target_rel", (int, float))
            if len(values) != len(relevant):
                raise ValueError("`target_ind` and `target_rel` differ in length")
            relevant = [label for label, value in zip(relevant, values, strict=True) if value > 0]
    title, category = found.get("title") or "", found.get("category")
    if not isinstance(title, str):
        raise ValueError(f"expected `title` to be a string, found {type(title).__name__}")
    return Product(
        row,
        uid.strip(),
        title.strip(),
        _list_of(found, "images", str),
        relevant,
        category if isinstance(category, str) else None,
    )


def _list_of(found: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> list:
    values = found.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"expected `{key}` to be a list of {getattr(kind, '__name__', 'number')}")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
