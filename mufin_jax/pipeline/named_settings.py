"""Settings changed by their names, as people write them in Python."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from mufin_jax.pipeline.cli_messages import flags_of, nearest_flags
from mufin_jax.pipeline.experiment import ABOUT
from mufin_jax.pipeline.setting_types import reject_other_type
from mufin_jax.runtime.errors import InputError
from mufin_jax.training.own import register

_OWN: dict[str, dict[str, Any]] = {
    "pretrain.loss": {"loss": "softmax"},
    "finetune.loss": {"loss": "softmax"},
    "pretrain.batches": {},
}
"""Settings that may be a user's own function, and what it goes with."""

C = TypeVar("C")
"""A configuration: a dataclass, which may hold others."""


def with_settings(config: C, settings: Mapping[str, Any]) -> C:
    """Return a configuration with other values of some settings.

    Args:
        config: it stays unchanged.
        settings: values by name. Those of nested configurations have names joined by dots, or
            stand in a mapping: {"pretrain.epochs": 3, "finetune": {"epochs": 2}}. The losses, and
            the batches of Module I, may be functions (`training/own.py`).

    Raises:
        InputError: for an unknown name, with the nearest one, and for a wrong value.
    """
    return _changed(config, settings, "", config)


def _changed(config: Any, settings: Mapping[str, Any], prefix: str, whole: Any) -> Any:
    fields = {field.name: field for field in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        head, _, rest = str(name).replace("-", "_").partition(".")
        inner = dataclasses.is_dataclass(getattr(config, head, None))
        if head not in fields or (rest and not inner):
            raise InputError(_unknown(f"{prefix}{name}", whole))
        if f"{prefix}{head}" in _OWN and callable(value):
            field = "own_sampler" if head == "batches" else "own_loss"
            values |= {**_OWN[prefix + head], field: register(value)}
        elif rest:
            nested.setdefault(head, {})[rest] = value
        elif inner and isinstance(value, Mapping):
            nested.setdefault(head, {}).update(value)
        else:
            values[head] = _checked(config, fields[head], value, f"{prefix}{head}")
    for head, inside in nested.items():
        values[head] = _changed(getattr(config, head), inside, f"{prefix}{head}.", whole)
    return dataclasses.replace(config, **values)


def _checked(config: Any, field: dataclasses.Field, value: Any, name: str) -> Any:
    """Return the value of a setting; a list becomes the tuple that a configuration holds.

    Raises:
        InputError: if it is of another type, or none of the choices.
    """
    now = getattr(config, field.name)
    if dataclasses.is_dataclass(now) and not dataclasses.is_dataclass(value):
        raise InputError(
            f"{name}: found {type(value).__name__}; expected a mapping of settings, or a "
            f"{type(now).__name__}"
        )
    reject_other_type(name, value, field)
    value = tuple(value) if isinstance(now, tuple) and isinstance(value, list) else value
    kind = typing.get_type_hints(type(config))[field.name]
    choices = [one for one in (kind, *typing.get_args(kind)) if typing.get_origin(one) is Literal]
    known = [choice for one in choices for choice in typing.get_args(one)]
    optional = type(None) in typing.get_args(kind)
    for one in value if isinstance(value, tuple) else (value,):
        if known and one not in known and not (one is None and optional):
            raise InputError(f"{name}={one!r:.80}: expected one of {', '.join(map(str, known))}")
    return value


def _unknown(name: str, whole: Any) -> str:
    """Return the answer to a name that no setting has."""
    flags = list(flags_of(whole, leave_out=ABOUT))
    nearest = nearest_flags("--" + name.replace("_", "-"), flags)
    named = [flag.removeprefix("--").replace("-", "_") for flag in nearest]
    parts = [field.name for field in dataclasses.fields(whole) if field.name not in ABOUT]
    named = named or difflib.get_close_matches(name.partition(".")[0], parts, 1)
    advice = f"did you mean {' or '.join(named)}?" if named else f"expected {', '.join(parts)}"
    return f"unknown setting {name!r:.80}; {advice}"
