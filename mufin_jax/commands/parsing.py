"""The arguments of a subcommand, checked: a wrong one is answered in one line."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from mufin_jax.pipeline.cli_messages import flags_of, one_line, reject_empty
from mufin_jax.runtime.errors import InputError

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], name: str) -> T:
    """Return the settings that arguments give.

    Args:
        kind: a dataclass, of which each field is an option.
        arguments: those after the subcommand's name.
        name: of the subcommand.

    Raises:
        InputError: for an unknown option or value, in one line with the nearest name; and for an
            empty value.
        SystemExit: after --help.
    """
    reject_empty(arguments, ["--prepare.prompt"])
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(kind, args=list(arguments), prog=f"mufin {name}")
    except SystemExit as end:
        if not end.code:
            raise
        shape: Any = kind
        flags = [f"--{field.name}".replace("_", "-") for field in dataclasses.fields(shape)]
        for field in dataclasses.fields(shape):
            if dataclasses.is_dataclass(made := field.default_factory):
                flags += flags_of(made(), f"--{field.name.replace('_', '-')}.")
        raise InputError(one_line(message.getvalue(), flags)) from None
