"""`mufin serve`: a finished run answers over HTTP."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.paths import settle_paths
from mufin_jax.serving.config import ServeConfig


@dataclasses.dataclass(frozen=True)
class ServeCommand(ServeConfig):
    """Answer over HTTP by a finished run."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """The folder of a run whose stage finetune is done."""

    def __post_init__(self) -> None:
        """Reject a command without a run, and limits that admit nothing."""
        settle_paths(self, fields=["run", "admin_token_file"])
        if self.run is None:
            raise InputError("mufin serve RUN: expected the folder of a finished run")
        super().__post_init__()


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(ServeCommand, arguments, "serve")
    try:
        from mufin_jax.serving.server import serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"mufin serve requires {error.name}: pip install 'mufin_jax[serve]'"
        ) from None
    if command.run is not None:
        serve(command.run, command)
