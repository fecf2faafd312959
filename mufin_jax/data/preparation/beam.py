"""Which Apache Beam runner prepares the data, for those who have one."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from mufin_jax.runtime.errors import InputError, reason

# Beam's "DirectRunner" looks for a Go program on the internet before it does the work itself. This
# is the runner to which it falls back.
_OFFLINE = {"directrunner": "FnApiRunner", "direct": "FnApiRunner"}


@dataclasses.dataclass(frozen=True)
class Beam:
    """Which runner, and its options.

    Attributes:
      name: Beam's name of the runner, such as FlinkRunner; DirectRunner works in this process.
      options: the runner's own, `name=value` or `--name=value` each.
    """

    name: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InputError if there is no Beam, no such runner, or an option makes no sense."""
        try:
            with _silent():
                import apache_beam  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(
                f"beam_runner={self.name} needs Apache Beam: pip install 'mufin_jax[beam]'"
            ) from None
        from apache_beam.runners.runner import (  # pyright: ignore[reportMissingImports]
            create_runner,
        )

        try:
            create_runner(self.runner)
            self.pipeline_options().get_all_options()
        except (ImportError, ValueError, AttributeError) as error:
            raise InputError(f"beam_runner={self.name} cannot be used: {reason(error)}") from None
        except SystemExit:  # argparse, which has printed what is wrong
            raise InputError(f"beam_options={self.options} are not what Beam expects") from None

    @property
    def runner(self) -> str:
        """The name as Beam takes it."""
        return _OFFLINE.get(self.name.lower(), self.name)

    def pipeline_options(self) -> Any:
        """Beam's options, read from ours and never from the command line."""
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]

        options = [f"--{option.removeprefix('--')}" for option in self.options]
        return PipelineOptions(options)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """On import Beam logs, without need, that Google's libraries are missing."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # else `logging.warning` would set up logging in its own way
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(handler)


def _nothing(_: logging.LogRecord) -> bool:
    return False
