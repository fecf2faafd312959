"""One line for each way in which a command line can be wrong.

tyro prints its messages in boxes for people. No interface of tyro gives their parts, so this file
reads the text; setup.cfg bounds tyro's version, and tests/pipeline/test_cli_messages.py holds one
case for each message.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import tyro

from mufin_jax.runtime.errors import InputError

T = TypeVar("T")

_SYNONYMS = {
    "--lr": ("--pretrain.optimizer.rate", "--finetune.optimizer.rate"),
    "--learning-rate": ("--pretrain.optimizer.rate", "--finetune.optimizer.rate"),
    "--bs": ("--pretrain.batch-size", "--finetune.batch-size"),
    "--num-epochs": ("--pretrain.epochs", "--finetune.epochs"),
    "--steps": ("--pretrain.least-steps", "--finetune.least-steps"),
    "--wd": ("--pretrain.optimizer.weight-decay", "--finetune.optimizer.weight-decay"),
    "--top-k": ("--k", "--predict.shortlist"),
    "--topk": ("--k", "--predict.shortlist"),
    "--k": ("--predict.shortlist",),
    "--num-results": ("--k",),
    "--embedding-dim": ("--model.dim",),
    "--hidden-size": ("--model.dim",),
    "--model-name": ("--model.text-checkpoint", "--model.image-checkpoint", "--text-checkpoint"),
    "--encoder": ("--model.text-checkpoint", "--model.image-checkpoint", "--text-checkpoint"),
    "--output": ("--out", "--workdir"),
    "--output-dir": ("--out", "--workdir"),
    "--save-dir": ("--workdir",),
    "--logdir": ("--workdir",),
    "--dataset": ("--data",),
    "--data-dir": ("--data",),
    "--input": ("--items", "--data"),
    "--file": ("--items", "--data"),
    "--text": ("--title",),
    "--name": ("--title",),
    "--picture": ("--image",),
    "--photo": ("--image",),
    "--asin": ("--id",),
    "--filter": ("--within",),
    "--recipe": ("--preset",),
    "--start-from": ("--from",),
    "--warm-start": ("--from",),
    "--init-from": ("--from",),
    "--resume-from": ("--from",),
    "--checkpoint": ("--from", "--model.text-checkpoint"),
    "--config": ("--preset",),
    "--val-share": ("--prepare.validation-share",),
    "--test-size": ("--prepare.test-share",),
    "--num-workers": ("--threads",),
    "--max-length": ("--prepare.max-tokens",),
}
"""What people call options elsewhere; of the names here, those count that the command has."""


_OTHER_NAMES = {"start-from": "from"}
"""Options that have another name than their field, which may not be a word of Python."""


def one_line(message: str, flags: Sequence[str]) -> str:
    """Return in one line what a message of tyro says; its own words if the message is unknown.

    Args:
        message: what tyro printed, with its box.
        flags: all flags of the command.
    """
    words = re.sub("[╭╮╰╯│─]", " ", message).split()
    text = " ".join(word for word in words if not re.fullmatch("[-+|]+", word))  # boxes in ASCII
    if found := re.search("Unrecognized options?: (.*?)(?:,| Perhaps| For full|$)", text):
        return unknown(found[1], flags)
    if found := re.search("Error parsing (?:-./)?(--[^ :]+): (.*?)(?: Argument helptext|$)", text):
        kinds = {"literal for int": "a whole number", "to float": "a number"}
        value = found[2].rpartition(": ")[2]
        for sign, kind in kinds.items():
            if sign in found[2]:
                return f"{found[1]}: {value} is not {kind}; see --help"
        return f"{found[1]}: {found[2]}"
    if found := re.search("invalid choice '(.*?)' .*?'(--.*?)'.* one of [(](.*?)[)]", text):
        value, flag, choices = found[1], found[2], re.findall("'(.*?)'", found[3])
        return f"{flag}={value}: expected one of {', '.join(c for c in choices if c != 'None')}"
    if found := re.search("Missing value for argument '(--.*?)'. Expected (.*?) values", text):
        count = "a value" if found[2] == "1" else f"{found[2]} values"
        return f"{found[1]}: expected {count} after it; see --help"
    if found := re.search("Missing from [^:]*: ([^ ]+)", text):
        return f"{found[1]} is missing; see --help"
    return text


def parse_arguments(kind: type[T], flags: Callable[[], Iterable[str]], **options: Any) -> T:
    """Return what tyro makes of arguments.

    Args:
        kind: the type of the result.
        flags: gives all flags of the command, for the answer to a wrong one.
        **options: of `tyro.cli`.

    Raises:
        InputError: for a wrong argument, in one line.
        SystemExit: after --help.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(kind, **options)
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(one_line(message.getvalue(), [*flags()])) from None


def reject_empty(arguments: Sequence[str], allowed: Sequence[str] = ()) -> None:
    """Reject an option whose value is empty: it often comes from a shell's unset variable.

    Args:
        arguments: of the command.
        allowed: the options of which an empty value means something.

    Raises:
        InputError: with the first such option; or if an argument without an option is empty.
    """
    if arguments and not arguments[0]:
        raise InputError("the first argument is empty (is a variable of the shell unset?)")
    for here, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = here.partition("=")
        empty = not value if equals else following == ""
        if name.startswith("--") and empty and name.replace("_", "-") not in allowed:
            raise InputError(
                f"{name} is empty: expected a value after it (is a variable of the shell unset?), "
                "or no such option"
            )


def unknown(argument: str, flags: Sequence[str]) -> str:
    """Return the answer to an argument that no flag accepts.

    Args:
        argument: as given, with its value.
        flags: all flags of the command.
    """
    name = argument.partition("=")[0].replace("_", "-")
    if not name.startswith("--"):
        return (
            f"unexpected argument {argument!r}: options are given as --name=value, switches as "
            "--name or --no-name; see --help"
        )
    nearest = nearest_flags(name, flags)
    advice = f"did you mean {' or '.join(nearest)}?" if nearest else "see --help"
    return f"unrecognized option {name}; {advice}"


def nearest_flags(name: str, flags: Sequence[str]) -> list[str]:
    """Return the flags that somebody may mean by a name that no flag has; none if none is alike."""
    nearest = [flag for flag in flags if flag.endswith("." + name[2:])]
    nearest = nearest or [flag for flag in _SYNONYMS.get(name, ()) if flag in flags]
    return nearest or difflib.get_close_matches(name, flags, 1, 0.7)


def flags_of(settings: Any, prefix: str = "--", leave_out: Collection[str] = ()) -> Iterator[str]:
    """Yield every flag that settings have.

    Args:
        settings: a dataclass; one in a field called "experiment" adds nothing to its flags' names.
        prefix: in front of each.
        leave_out: fields that are no flags.
    """
    for field in dataclasses.fields(settings):
        if field.name in leave_out:
            continue
        value, name = getattr(settings, field.name), field.name.replace("_", "-")
        name = _OTHER_NAMES.get(name, name)
        if not dataclasses.is_dataclass(value):
            yield prefix + name
        else:
            inside = prefix if field.name == "experiment" else f"{prefix}{name}."
            yield from flags_of(value, inside, leave_out)
