"""A user's own losses and samplers: settings hold their names, this process the functions.

A name has a digest of the function's code: a run that was made with another function is noticed.
What the function calls, and arrays that it holds, are not part of the digest.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mufin_jax.runtime.errors import InputError

_KNOWN: dict[str, Callable[..., Any]] = {}

Sampler = Callable[
    [Int[np.ndarray, "k"], Float[np.ndarray, "k d"] | None, np.random.Generator],
    Int[np.ndarray, "k"],
]
"""Returns the order in which an epoch shows items: batches are cut from it one after another.

It is given the numbers of the labels (or datapoints) that batches are drawn over; their vectors of
the last refresh, None before the first; and the epoch's random numbers. It may repeat items."""


def register(function: Callable[..., Any]) -> str:
    """Return the name by which settings know a function from now on."""
    name = getattr(function, "__qualname__", type(function).__name__)
    name = f"{name}@{_digest(function)[:12]}"
    _KNOWN[name] = function
    return name


def find(name: str, setting: str) -> Callable[..., Any]:
    """Return the function of a name.

    Args:
        name: that `register` has returned.
        setting: which has this name, for messages.

    Raises:
        InputError: if this process has no such function.
    """
    if name not in _KNOWN:
        raise InputError(
            f"{setting}={name!r:.80}: expected a function of this process: give it to fit again"
        )
    return _KNOWN[name]


def check_own_loss(stage: str, name: str | None, loss: str) -> None:
    """Reject a loss of a user's own that this process does not know, or that takes no place.

    Raises:
        InputError: with the setting.
    """
    if name is None:
        return
    find(name, f"{stage}.own_loss")
    if loss != "softmax":
        raise InputError(
            f"{stage}.loss={loss} with a loss of one's own, which takes the softmax's place; "
            f"expected {stage}.loss=softmax"
        )


def sampled(
    name: str,
    items: Int[np.ndarray, "k"],
    vectors: Float[np.ndarray, "k d"] | None,
    rng: np.random.Generator,
) -> Int[np.ndarray, "k"]:
    """Return the order of an epoch that a user's own sampler gives.

    Raises:
        InputError: if it gives anything but as many of the items.
    """
    given = np.asarray(find(name, "pretrain.own_sampler")(items.copy(), vectors, rng))
    if (
        given.shape != items.shape
        or given.dtype.kind not in "iu"
        or not np.isin(given, items).all()
    ):
        raise InputError(
            f"the sampler {name.partition('@')[0]} returned {given.dtype} {given.shape}: expected "
            f"{len(items):,} of the numbers that it was given, each as often as it is to be shown"
        )
    return given.astype(items.dtype)


def _digest(function: Callable[..., Any]) -> str:
    """Return a digest of a function's code, with the plain values that it holds."""
    if isinstance(function, functools.partial):
        held = repr((function.args, sorted(function.keywords.items())))
        return hashlib.sha256((_digest(function.func) + held).encode()).hexdigest()
    described: Any = function if hasattr(function, "__code__") else type(function)
    try:
        text = inspect.getsource(described)
    except (OSError, TypeError):  # typed into an interpreter
        code = getattr(function, "__code__", None)
        text = repr((code.co_code, code.co_names, _plain(code.co_consts))) if code else ""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    text += repr((_plain(cells), _plain(getattr(function, "__defaults__", None) or ())))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _plain(values: Any) -> list[Any]:
    return [value for value in values if isinstance(value, str | bytes | int | float | None)]
