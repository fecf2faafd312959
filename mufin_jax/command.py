"""The command line of an experiment: `python -m experiments.NAME --stage=all [--data=DIR] ...`.

Every field of every configuration is a flag; what is wrong is answered in one line, exit code 2.
"""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mufin_jax.data.prepare import Overlap
from mufin_jax.errors import InputError
from mufin_jax.experiment import Experiment, Stage, run
from mufin_jax.logs import set_up_logging
from mufin_jax.runs import main_guard


@dataclasses.dataclass(frozen=True)
class Command:
    """Train and evaluate MUFIN, stage by stage; a finished stage is skipped."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """What to run."""
    stage: Stage = "all"
    """One stage, or all of them in their order."""
    preset: str = "miniature"
    """Where the defaults come from: miniature (without --data), or paper (with it)."""
    filter: Overlap | None = None
    """Short for --prepare.filter."""


def main(presets: Mapping[str, Experiment], argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say and return the exit code.

    Args:
        presets: experiments by name; "miniature" is the default without --data, "paper" with it.
        argv: the arguments; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    set_up_logging()
    return main_guard(lambda: _run(presets, arguments))


def _run(presets: Mapping[str, Experiment], arguments: list[str]) -> None:
    command = parse(presets, arguments)
    result = run(command.experiment, command.stage)
    if result is not None and command.stage in ("all", "evaluate"):
        from mufin_jax.stages.evaluate import report

        print(report(result))
        print(f"\n{command.experiment.folder}/metrics.json has all figures")


def parse(presets: Mapping[str, Experiment], arguments: list[str]) -> Command:
    """Turn arguments into a command.

    Raises:
        InputError: an unknown preset, flag or value, in one line with the nearest name.
        SystemExit: after --help.
    """
    given = _value(arguments, "--data") is not None
    preset = _value(arguments, "--preset") or ("paper" if given else "miniature")
    if preset not in presets:
        raise InputError(f"--preset={preset}: wanted one of {', '.join(presets)}")
    default = Command(presets[preset], preset=preset)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command = tyro.cli(Command, default=default, args=arguments, prog=_prog())
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(_one_line(said.getvalue())) from None
    if command.filter is not None:
        prepare = dataclasses.replace(command.experiment.prepare, filter=command.filter)
        experiment = dataclasses.replace(command.experiment, prepare=prepare)
        command = dataclasses.replace(command, experiment=experiment)
    return command


def _value(arguments: list[str], flag: str) -> str | None:
    """Return the value of a flag that decides on the defaults of all others."""
    for here, following in zip(arguments, [*arguments[1:], None], strict=True):
        if here == flag:
            return following
        if here.startswith(flag + "="):
            return here[len(flag) + 1 :]
    return None


def _prog() -> str:
    return f"python -m experiments.{Path(sys.argv[0]).stem}"


def _one_line(said: str) -> str:
    """Condense tyro's boxed answer into one line."""
    lines = (re.sub(r"[╭╮╰╯│─]+", " ", line).strip() for line in said.splitlines())
    return re.sub(r"\s+", " ", " ".join(line for line in lines if line)).strip()
