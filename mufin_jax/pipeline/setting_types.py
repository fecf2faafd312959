"""Settings of another type than expected: told by name, before an error deep inside tells less.

The command line makes the right types. People who write Python may give "5" for 5, or a dict for a
configuration.
"""

import dataclasses
import numbers
from typing import Any

from mufin_jax.runtime.errors import InputError

_TYPES: dict[type, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
}
"""For the type of a default, what a value must be, and its name."""


def reject_other_types(config: Any, prefix: str = "") -> None:
    """Reject settings of another type than their defaults have.

    Args:
        config: a dataclass, which may hold others.
        prefix: in front of the names of settings, in messages.

    Raises:
        InputError: with the first such setting, its value and what is expected.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        made: Any = field.default_factory
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            reject_other_types(value, f"{name}.")
        elif made is not dataclasses.MISSING and dataclasses.is_dataclass(made):
            expected = getattr(made, "__name__", "configuration")
            raise InputError(f"{name}: found {type(value).__name__}; expected a {expected}")
        else:
            reject_other_type(name, value, field)


def reject_other_type(name: str, value: object, field: dataclasses.Field) -> None:
    """Reject the value of one setting if its default is plain, and of another type.

    Raises:
        InputError: with the setting, its value and what is expected.
    """
    if type(field.default) not in _TYPES:
        return
    kind, expected = _TYPES[type(field.default)]
    if value is None and "None" in str(field.type):
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name}={value!r:.80}: expected {expected}, found {type(value).__name__}")
