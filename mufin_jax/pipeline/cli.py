"""The command line of an experiment: `python -m experiments.NAME --stage=all [--data=DIR] ...`.

Every field of every configuration is a flag. A wrong flag gets a one-line answer and exit code 2.
"""

import dataclasses
import gc
import inspect
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mufin_jax.pipeline.cli_messages import flags_of, parse_arguments, reject_empty
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.imports import swift_imports
from mufin_jax.runtime.logs import set_up_logging

with swift_imports():
    from mufin_jax.data.preparation.overlap import Overlap
    from mufin_jax.evaluation.summary import summary
    from mufin_jax.pipeline.experiment import ABOUT, Experiment, StageName
    from mufin_jax.pipeline.idle_options import changed_options, reject_idle_options
    from mufin_jax.pipeline.more_epochs import with_sums
    from mufin_jax.pipeline.run import run
    from mufin_jax.pipeline.sources import recorded_data
    from mufin_jax.pipeline.start import recorded_preset, reject_contradictions
    from mufin_jax.runtime import machine
    from mufin_jax.runtime.distributed import processes
    from mufin_jax.runtime.distributed.startup import HostsConfig
    from mufin_jax.runtime.run_folder import threads_of
    from mufin_jax.runtime.storage.paths import user_path


@dataclasses.dataclass(frozen=True)
class Command:
    """Train and evaluate MUFIN, stage by stage; a finished stage is skipped."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """What to run."""
    stage: StageName = "all"
    """One stage, or all of them in their order."""
    redo: StageName | None = None
    """Remove this stage and those after it, and make them again; finished stages before it stay."""
    preset: str = "miniature"
    """Where the defaults come from: the preset of --from; else miniature without --data;
    with it catalogue, or paper where the experiment has no catalogue."""
    filter: Overlap | None = None
    """Short for --prepare.filter."""
    label_images: Literal["true", "false"] | None = None
    """Short for --model.label-images and --model.no-label-images."""
    num_labels: int | None = None
    """Short for --miniature.labels: the size of the built-in data."""
    num_points: int | None = None
    """Short for --miniature.points."""
    num_test_points: int | None = None
    """Short for --miniature.test-points."""
    threads: int | None = None
    """Threads that XLA computes with on a CPU: the same number gives the same bits on any number of
    cores. By default the number that the run's folder began with, or one a core, at least two."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    """Needed if this process is one of several that no launcher connects."""

    def run(self) -> None:
        """Run the stages, and print the table if evaluate was among them."""
        result = run(self.experiment, self.stage, redo=self.redo)
        if result is not None and processes.is_main() and self.stage in ("all", "evaluate"):
            print(summary(result))
            print(f"\n{self.experiment.folder}/metrics.json has all figures")
        if result is not None and processes.is_main() and self.stage in ("all", "report"):
            print(f"{self.experiment.folder}/report/index.html shows the run")


_SHORT = {
    "filter": ("prepare", "filter"),
    "label_images": ("model", "label_images"),
    "num_labels": ("miniature", "labels"),
    "num_points": ("miniature", "points"),
    "num_test_points": ("miniature", "test_points"),
}
"""Short flags: the part of the experiment that each belongs to, and its field there."""


def main(
    presets: Mapping[str, Experiment],
    argv: Sequence[str] | None = None,
    kind: type[Command] = Command,
    prog: str | None = None,
) -> int:
    """Run what the arguments say and return the exit code.

    Args:
        presets: experiments by name; "miniature" is the default without --data. With --data it is
            "catalogue" or, where there is none, "paper". If the arguments name a checkpoint or
            ready vectors, "catalogue-frozen" takes the place of "catalogue".
        argv: the arguments; those of the process by default.
        kind: the command, with its flags.
        prog: the name of the program that this process is; by default, that of an experiment, if
            there are no arguments.
    """
    if argv is None or prog:  # no other program uses this process
        gc.freeze()
        machine.share_memory_among_threads()
    arguments = list(sys.argv[1:] if argv is None else argv)
    set_up_logging()

    def begin() -> None:
        command = parse(presets, arguments, kind, prog)
        machine.set_threads(command.threads, threads_of(command.experiment.folder))
        processes.start(command.hosts)
        if processes.several():
            set_up_logging(process=processes.process())
        command.run()

    return main_guard(begin)


def parse(
    presets: Mapping[str, Experiment],
    arguments: list[str],
    kind: type[Command] = Command,
    prog: str | None = None,
) -> Command:
    """Turn arguments into a command.

    Args:
        presets: experiments by name.
        arguments: of the command line.
        kind: the command, with its flags.
        prog: the program's name in --help.

    Raises:
        InputError: for an unknown preset, flag or value, in one line with the nearest name; and for
            an option that does nothing without another one.
        SystemExit: after --help.
    """
    reject_empty(arguments, ["--prepare.prompt"])
    begun_with = _begun_with(arguments)
    given = begun_with is not None or _value(arguments, "--data") is not None
    own = "catalogue" if "catalogue" in presets else "paper"
    run = _value(arguments, "--from")
    before = _preset_of(presets, user_path(run)) if run else None
    preset = _value(arguments, "--preset") or before or (own if given else "miniature")
    if preset not in presets:
        raise InputError(f"--preset={preset}: expected one of {', '.join(presets)}")
    frozen = f"{preset}-frozen"
    if preset == "catalogue" and frozen in presets and _brings_encoders(arguments):
        preset = frozen
    folder = _value(arguments, "--workdir") or Path("runs") / presets[preset].name
    arguments = with_sums(arguments, user_path(folder))
    default = kind(presets[preset], preset=preset)
    command = parse_arguments(
        kind, lambda: flags_of(default, leave_out=ABOUT), default=default, args=arguments,
        prog=prog or _prog(), description=_description(kind, presets),
    )  # fmt: skip
    if command.experiment.data is None and begun_with is not None:
        experiment = dataclasses.replace(command.experiment, data=begun_with)
        command = dataclasses.replace(command, experiment=experiment)
    experiment = _with_short_flags(command)
    reject_idle_options(experiment, presets[preset])
    if experiment.start_from is not None:
        reject_contradictions(experiment, changed_options(experiment, presets[preset]))
    return dataclasses.replace(command, experiment=experiment)


def _preset_of(presets: Mapping[str, Experiment], run: Path) -> str | None:
    """Return the preset that a run to start from was begun with; None if it does not tell."""
    name = recorded_preset(run)
    return next((known for known, preset in presets.items() if preset.name == name), None)


def _begun_with(arguments: list[str]) -> Path | None:
    """Return the raw data of the run that the arguments resume, if they name none themselves."""
    workdir = _value(arguments, "--workdir")
    if not workdir or _value(arguments, "--data") is not None:
        return None
    return recorded_data(user_path(workdir))


def _brings_encoders(arguments: list[str]) -> bool:
    """Return whether the arguments name a checkpoint, or ready vectors."""
    flags = ("--model.text-checkpoint", "--model.image-checkpoint")
    flags += ("--prepare.text-vectors", "--prepare.image-vectors")
    return any(_value(arguments, flag) not in (None, "None") for flag in flags)


def _with_short_flags(command: Command) -> Experiment:
    """Return the experiment with the values of the short flags."""
    experiment = command.experiment
    for short, (part, field) in _SHORT.items():
        value = getattr(command, short)
        if value is None:
            continue
        if part == "miniature" and experiment.data is not None:
            raise InputError(
                f"--{short.replace('_', '-')}={value}: sizes are of built-in data, and "
                f"--data={experiment.data} has its own; leave one of the two out"
            )
        if field not in {known.name for known in dataclasses.fields(getattr(experiment, part))}:
            raise InputError(
                f"--{short.replace('_', '-')}={value}: the built-in data of this experiment have "
                f"no such size; see --{part}.* in --help"
            )
        value = {"true": True, "false": False}.get(value, value)
        config = dataclasses.replace(getattr(experiment, part), **{field: value})
        experiment = dataclasses.replace(experiment, **{part: config})
    return experiment


def _value(arguments: list[str], flag: str) -> str | None:
    """Return the last value of a flag on which the defaults of all others depend."""
    found = None
    for here, following in itertools.zip_longest(arguments, arguments[1:]):
        if here == flag:
            found = following
        if here.startswith(flag + "="):
            found = here[len(flag) + 1 :]
    return found


def _description(kind: type[Command], presets: Mapping[str, Experiment]) -> str:
    """Return what --help says first: the command, and of each preset the cost and the score."""
    paragraphs = [inspect.getdoc(kind) or ""]
    for name, preset in presets.items():
        paragraphs.append(f"--preset={name}:\ncost: {preset.cost}.\nexpected: {preset.expected}.")
    return "\n\n".join(paragraphs)


def _prog() -> str:
    return f"python -m experiments.{Path(sys.argv[0]).stem}"
