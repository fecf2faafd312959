"""Ends a command: with an exit code, and one line on stderr about what its user can fix."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.liveness import say
from mufin_jax.runtime.errors import MufinError
from mufin_jax.runtime.printing import print_everything
from mufin_jax.runtime.signals import signals_stop_gently
from mufin_jax.runtime.storage.disk import disk_error, is_disk_error


def main_guard(main: Callable[[], object]) -> int:
    """Run a command and return its exit code, 0 when it ends well.

    What a user can fix becomes one line on stderr; other exceptions are bugs and pass through. With
    several processes, all end when one does, with the same code; see distributed/liveness.py.
    """
    print_everything()
    try:
        with signals_stop_gently():
            main()
            processes.finish()
        sys.stdout.flush()
        return 0
    except Exception as error:
        code, line = _answer(error)
        if code is None:
            if _is_of_the_runtime(error):
                processes.wait_for_news(traceback.format_exc())
            processes.end(1, f"error: {line}", traceback.format_exc())
            raise
        processes.end(code, line)
        if line:
            say(line)
        return code
    except KeyboardInterrupt:
        processes.end(128 + signal.SIGINT, "")
        return 128 + signal.SIGINT


def _answer(error: Exception) -> tuple[int | None, str]:
    """Return the exit code and the line for an exception; the code is None for a bug."""
    if isinstance(error, MufinError):
        return error.exit_code, "error: " + " ".join(str(error).split("\n"))
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE, ""
    if isinstance(error, OSError) and is_disk_error(error):
        path = Path(os.fsdecode(error.filename or "."))
        return _answer(disk_error(path, error.strerror or os.strerror(error.errno or errno.EIO)))
    return None, f"{type(error).__name__}: {error}".partition("\n")[0]


def _is_of_the_runtime(error: BaseException | None) -> bool:
    """Return whether JAX's runtime raised an exception, or one that led to it."""
    while error is not None and type(error).__name__ != "JaxRuntimeError":
        error = error.__cause__ or error.__context__
    return error is not None
