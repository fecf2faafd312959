"""What `--within` allows: files of ids, and conditions such as category=chair and price<=20."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mufin_jax.data.kept_fields import number_of
from mufin_jax.data.readers.id_lists import load_ids
from mufin_jax.prediction.within import Allowed
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import user_path

_CONDITION = re.compile(r"\s*([^<>=]*[^<>=\s])\s*(<=|>=|<|>|=)\s*(.*\S)\s*", re.DOTALL)


def read_within(options: Sequence[str]) -> Allowed | None:
    """Return what a query allows, as `predict` takes it; None if no option is given.

    Args:
        options: each the path of a file of ids, one a line, or NAME=VALUE, or a bound such as
            NAME<=NUMBER. Of several values of a field any will do; all bounds hold, and so do
            conditions on different fields.

    Raises:
        InputError: if an option is neither, a bound is no number, or a field has both kinds.
    """
    values: dict[str, list[str]] = {}
    bounds: dict[str, tuple[float | None, float | None]] = {}
    files: list[list[str]] = []
    for option in options:
        condition = _CONDITION.fullmatch(option)
        if condition is None or user_path(option).is_file():
            files.append(_ids(option))
            continue
        name, sign, value = condition.groups()
        if sign == "=":
            values.setdefault(name, []).append(value)
        else:
            bounds[name] = _narrowed(bounds.get(name, (None, None)), sign, value, option)
    if both := sorted(values.keys() & bounds.keys()):
        raise InputError(
            f"--within: {both[0]!r:.80} has both a value and a bound; expected one kind of them"
        )
    if len(files) > 1:
        raise InputError("--within: several files of ids; expected one")
    if not values and not bounds:
        return files[0] if files else None
    found: dict[str, Any] = values | bounds
    return found | ({"id": [*files[0], *values.get("id", [])]} if files else {})


def _ids(option: str) -> list[str]:
    path: Path = user_path(option)
    if not path.is_file():
        raise InputError(
            f"--within={option:.200}: no such file; expected a text file of ids, one a line, or a "
            "condition such as category=chair or 'price<=20', in quotes"
        )
    return load_ids(path)


def _narrowed(
    pair: tuple[float | None, float | None], sign: str, value: str, option: str
) -> tuple[float | None, float | None]:
    """Return a pair of bounds narrowed by a further bound."""
    number = number_of((value,))
    if number is None:
        raise InputError(
            f"--within={option:.200}: found {value!r:.80}; expected a number after {sign}"
        )
    low, high = pair
    if sign == "<":
        number = math.nextafter(number, -math.inf)
    if sign == ">":
        number = math.nextafter(number, math.inf)
    if sign in ("<", "<="):
        return low, number if high is None else min(high, number)
    return number if low is None else max(low, number), high
