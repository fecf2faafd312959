"""All user-facing errors, each with its exit code.

A message is one line: what was found (the file, and the row where there is one), what was expected,
and what to do. `exit.main_guard` prints it and exits with the code. With several processes,
distributed/liveness.py ends those that have lost another.
"""


class MufinError(Exception):
    """Ends a run with `exit_code` and its one-line message instead of a traceback."""

    exit_code = 1


class InputError(MufinError):
    """Wrong use, or input that cannot be read."""

    exit_code = 2


class TooManyBadRows(MufinError):
    """More rows of the input are unusable than the configuration tolerates."""

    exit_code = 65


class NonFinite(MufinError):
    """Step after step of training, or a weight, was not finite; what was saved before is kept."""

    exit_code = 70


class Held(MufinError):
    """The folder belongs to another run that is still alive."""

    exit_code = 73


class DiskError(MufinError):
    """The disk is full, read-only or failing."""

    exit_code = 74


class Stopped(MufinError):
    """A signal asked the run to stop; its state is saved and the same command resumes it."""

    exit_code = 75


class PeerLost(MufinError):
    """Another process of the run died, or never came; the same command on all resumes the run."""

    exit_code = 75


def reason(error: BaseException) -> str:
    """Return an exception's text as a part of one line: without line breaks, and cut to 200."""
    return " ".join(str(error).split())[:200] or type(error).__name__
