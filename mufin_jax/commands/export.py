"""`mufin export`: a finished run as a folder that answers alone."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.export.folder import check_export, export_run
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
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compare the files of an export with their checksums, and write nothing."""

    def __post_init__(self) -> None:
        """Reject a command without a target, and a check with one."""
        settle_paths(self, fields=["run", "to"])
        if self.check and (self.to is not None or self.force):
            raise InputError("--check writes nothing: leave --to and --force out")
        if not self.check and self.to is None:
            raise InputError("mufin export RUN --to=DIR: expected the folder of the export")


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(ExportCommand, arguments, "export")
    if command.to is None:
        print(f"{command.run}: {check_export(command.run):,} files, all as they were exported")
        return
    folder = export_run(command.run, command.to, command.force)
    for name, size in sizes(folder).items():
        print(f"{in_bytes(size, gigabytes=False):>10}  {name}")
    print(f"{folder} answers alone: mufin predict {folder} --title=... -k 10")


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each part of an export, the largest first, and of all together."""
    found = {
        path.name: sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
        for path in folder.iterdir()
    }
    ordered = dict(sorted(found.items(), key=lambda part: -part[1]))
    return ordered | {"together": sum(found.values())}
