"""The Apache Beam runner that prepares the data, if the user names one."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from mufin_jax.runtime.errors import InputError, reason

# Beam's "DirectRunner" first looks for a Go program on the internet. Then it falls back to this
# runner.
_OFFLINE = {"directrunner": "FnApiRunner", "direct": "FnApiRunner"}


@dataclasses.dataclass(frozen=True)
class Beam:
    """A runner and its options.

    Attributes:
        name: Beam's name of the runner, such as FlinkRunner; DirectRunner works in this process.
        options: the runner's own options, each `name=value` or `--name=value`.
    """

    name: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise InputError if Beam is missing, or the runner or an option is unknown."""
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
        except SystemExit:  # from argparse, which has printed the reason
            raise InputError(f"beam_options={self.options} are not what Beam expects") from None

    @property
    def runner(self) -> str:
        """The name that Beam expects."""
        return _OFFLINE.get(self.name.lower(), self.name)

    def pipeline_options(self) -> Any:
        """Return Beam's options, read from ours and never from the command line."""
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]

        options = [f"--{option.removeprefix('--')}" for option in self.options]
        return PipelineOptions(options)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence Beam's import, which logs that Google's libraries are missing."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # otherwise `logging.warning` would configure logging
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(handler)


def _nothing(_: logging.LogRecord) -> bool:
    return False
