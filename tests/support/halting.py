"""The minute experiment; it waits at a chosen call until a signal asks it to stop.

    python tests/support/halting.py --halt=MODULE:NAME --workdir=DIR [any flag of an experiment]

It prints "here" when it first comes to the call, waits until the run has been asked to stop, and
continues: the work that follows must notice the request.
"""

import functools
import importlib
import os
import sys

import minute

from mufin_jax.pipeline.cli import main
from mufin_jax.runtime.distributed import processes


def halt_at(place: str) -> None:
    """Make a function of a module, or a method of a class in it, wait at its first call."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function = getattr(owner, last)
    halted = []

    @functools.wraps(function)
    def halting(*args, **options):
        if not halted:
            halted.append(True)
            os.write(1, b"here\n")  # not print, whose output may be redirected
            assert processes.THIS_RUN.stop.wait(60), "no signal came"
        return function(*args, **options)

    setattr(owner, last, halting)


if __name__ == "__main__":
    (halt,) = [flag for flag in sys.argv if flag.startswith("--halt=")]
    halt_at(halt.partition("=")[2])
    sys.exit(main(minute.PRESETS, [flag for flag in sys.argv[1:] if flag != halt]))
