"""Which labels a query allows: ids, or values of the fields that are kept for filters."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from mufin_jax.data.kept_fields import Field, KeptFields, Numbers, Texts, number_of, text_of
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.items import read_ids
from mufin_jax.runtime.errors import InputError

Allowed = Iterable[object] | Mapping[str, Any]
"""Ids; or conditions by the name of a field, all of which must hold. "id" names ids."""

_MOST = 10_000
"""Values of a field that are compared with one that no label has, at most."""


def allowed_labels(catalogue: Catalogue, within: Allowed) -> Int32[np.ndarray, " n"]:
    """Return the labels that a query allows, ascending.

    Args:
        catalogue: finds labels by their ids and fields.
        within: ids; or for each field a text, a number, a list of which any will do, or a pair
            (low, high) of numbers of which one may be None.

    Raises:
        InputError: if a field is not kept, or a value is of another kind; and if conditions leave
            no label.
    """
    if not isinstance(within, Mapping):
        return catalogue.labels_of(read_ids(within, "within"))
    conditions = {str(name): wanted for name, wanted in within.items()}
    if not conditions:
        raise InputError("within: found no condition; expected the name of a field and its value")
    found = catalogue.recommended.copy()
    for name, wanted in conditions.items():
        if name == "id":
            found &= np.isin(np.arange(len(found)), catalogue.labels_of(read_ids(wanted, "within")))
        else:
            found &= _matching(_field(catalogue.fields, name), name, wanted)
    if not found.any():
        shown = " and ".join(f"{name} {_shown(wanted)}" for name, wanted in conditions.items())
        raise InputError(
            f"within: none of the {np.count_nonzero(catalogue.recommended):,} labels has "
            f"{shown:.200}{_hint(catalogue.fields, conditions)}"
        )
    return np.flatnonzero(found).astype(np.int32)


def _field(fields: KeptFields, name: str) -> Field:
    """Return the field of a name.

    Raises:
        InputError: if it is not kept.
    """
    if name in fields.fields:
        return fields.fields[name]
    kept = ", ".join(f"{one} ({kind})" for one, kind in fields.kinds().items())
    expected = f"expected one of {kept}, or id" if kept else "no field is kept for filters yet"
    raise InputError(
        f"within: the field {name!r:.80} is not kept; {expected}; keep it by "
        f"`mufin labels RUN keep FILE --fields {name:.40}`, or by --prepare.keep"
    )


def _matching(field: Field, name: str, wanted: Any) -> Bool[np.ndarray, " l"]:
    """Return which labels have a value that is wanted."""
    if isinstance(field, Numbers):
        if isinstance(wanted, tuple) and len(wanted) == 2:
            low, high = (_number(one, name, wanted, bound=True) for one in wanted)
            return (field.values >= (-math.inf if low is None else low)) & (
                field.values <= (math.inf if high is None else high)
            )
        numbers = [_number(one, name, wanted) for one in _listed(wanted)]
        return np.isin(field.values, np.array(numbers, np.float64))
    codes = [field.code_of.get(_text(one, name, wanted), -1) for one in _listed(wanted)]
    hits = np.concatenate([[0], np.cumsum(np.isin(field.codes, codes))])[field.offsets]
    return np.diff(hits) > 0


def _listed(wanted: Any) -> list[Any]:
    if isinstance(wanted, str | bytes | Mapping) or not isinstance(wanted, Iterable):
        return [wanted]
    return list(wanted)


def _number(one: Any, name: str, wanted: Any, bound: bool = False) -> float | None:
    """Return a wanted value of a field of numbers; None for no bound."""
    if isinstance(one, np.generic):
        one = one.item()
    found = None
    if isinstance(one, int | float) and not isinstance(one, bool):
        found = float(one)
    elif isinstance(one, str):
        found = number_of((one,))
    if (found is None and not (bound and one is None)) or found != found:
        raise InputError(
            f"within: {name}: found {wanted!r:.80}; expected a number, a list of numbers, or a "
            "pair (low, high) of numbers, of which one may be None"
        )
    return found


def _text(one: Any, name: str, wanted: Any) -> str:
    """Return a wanted value of a field of texts."""
    if isinstance(one, np.generic):
        one = one.item()
    if isinstance(one, bool):
        return str(one).lower()
    if isinstance(one, int | float):
        return text_of(float(one))
    if not isinstance(one, str):
        raise InputError(
            f"within: {name}: found {wanted!r:.80}; expected a text or a list of texts, which "
            f"{name} holds; for ranges, keep it as {name}:number"
        )
    return one.strip()


def _shown(wanted: Any) -> str:
    """Return a condition in words."""
    if isinstance(wanted, tuple) and len(wanted) == 2 and not any(
        isinstance(one, str) for one in wanted
    ):  # fmt: skip
        low, high = ("any" if one is None else f"{one:g}" for one in wanted)
        return f"from {low} to {high}"
    return " or ".join(str(one) for one in _listed(wanted))


def _hint(fields: KeptFields, within: Mapping[str, Any]) -> str:
    """Return what the first field holds that has nothing like what is wanted."""
    for name, wanted in within.items():
        field = fields.fields.get(name)
        if field is None or _matching(field, name, wanted).any():
            continue
        if isinstance(field, Texts):
            return _nearest(name, [str(one) for one in _listed(wanted)], list(field.names))
        if field.known.any():
            low, high = np.nanmin(field.values), np.nanmax(field.values)
            return f"; {name} goes from {low:g} to {high:g}"
        return f"; no label has a value of {name}"
    return ""


def _nearest(name: str, wanted: list[str], known: list[str]) -> str:
    """Return the value of a field that is most like one that is wanted, or some of its values."""
    plain = {one.casefold(): one for one in known[:_MOST]}
    for one in wanted:
        if near := difflib.get_close_matches(one.casefold(), plain, 1, 0.6):
            return f"; did you mean {plain[near[0]]!r:.80}?"
    some = ", ".join(repr(one)[:40] for one in known[:5])
    return f"; {name} is {some}{', ...' if len(known) > 5 else ''}"
