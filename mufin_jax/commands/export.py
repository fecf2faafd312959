"""`mufin export`: a finished run as a folder that answers alone."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.export.folder import check_export, export_run
from mufin_jax.export.hub import check_name, push
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.paths import settle_paths
from mufin_jax.runtime.units import in_bytes


@dataclasses.dataclass(frozen=True)
class ExportCommand:
    """Write what a finished run needs to answer into a folder of its own."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a run whose stage finetune is done; with --check, that of an export."""
    to: Path | None = None
    """The new folder."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the export that is there."""
    encoders: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write the encoders as checkpoints of Hugging Face, which have the same weights again."""
    programs: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write the model as StableHLO programs; needs flatbuffers."""
    push_to_hub: str | None = None
    """A repository on the hub of Hugging Face, USER/NAME, that gets the export as well. Without
    --to, RUN is an export that is there."""
    public: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let everybody see a repository that --push-to-hub makes; by default it is private."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compare the files of an export with their checksums, and its programs with its predictor;
    write nothing."""

    def __post_init__(self) -> None:
        """Reject a command without a target, and a check with one."""
        settle_paths(self, fields=["run", "to"])
        if self.check and (self.to is not None or self.push_to_hub):
            raise InputError("--check writes nothing: leave --to and --push-to-hub out")
        for name in ("force", "encoders", "programs"):
            if getattr(self, name) and self.to is None:
                raise InputError(f"--{name} needs --to=DIR")
        if not self.check and self.to is None and not self.push_to_hub:
            raise InputError("mufin export RUN --to=DIR: expected the folder of the export")
        if self.public and not self.push_to_hub:
            raise InputError("--public needs --push-to-hub=USER/NAME")
        if self.push_to_hub:
            check_name(self.push_to_hub)


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(ExportCommand, arguments, "export")
    folder = command.run
    if command.to is None:
        print(f"{folder}: {check_export(folder)}")
    else:
        folder = export_run(folder, command.to, command.force, command.encoders, command.programs)
        for name, size in sizes(folder).items():
            print(f"{in_bytes(size, gigabytes=False):>12}  {name}")
        left = [f"--{name}" for name in ("encoders", "programs") if not getattr(command, name)]
        if left:
            print(f"left out: {' and '.join(left)}")
        print(f"{folder} answers alone: mufin predict {folder} --title=... -k 10")
    if command.push_to_hub:
        print(f"{push(folder, command.push_to_hub, command.public)} has the export")


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each part of an export, the largest first, and of all together."""
    found = {
        path.name: sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
        for path in folder.iterdir()
    }
    ordered = dict(sorted(found.items(), key=lambda part: -part[1]))
    return ordered | {"together": sum(found.values())}
