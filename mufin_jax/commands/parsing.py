"""The arguments of a subcommand, checked: a wrong one is answered in one line."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from mufin_jax.pipeline.cli_messages import flags_of, parse_arguments, reject_empty

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

    def flags() -> Iterator[str]:
        shape: Any = kind
        for field in dataclasses.fields(shape):
            flag = f"--{field.name}".replace("_", "-")
            yield flag
            if dataclasses.is_dataclass(made := field.default_factory):
                yield from flags_of(made(), f"{flag}.")

    return parse_arguments(kind, flags, args=list(arguments), prog=f"mufin {name}")
