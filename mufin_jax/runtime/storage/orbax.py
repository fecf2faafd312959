"""The arrays of a checkpoint, saved and loaded by Orbax; no other file of the package uses Orbax.

Each process saves and loads what its devices hold, whatever the placement of the saved arrays. In
addition to the arrays, a host needs one gigabyte, or the largest part of an array that a device
holds.
"""

import contextlib
import functools
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mufin_jax.runtime.distributed import processes

_BUFFER = 2**30
"""Bytes in transfer between devices and disk at a time, unless one array's part is larger."""


def get_ready() -> None:
    """Import Orbax, which takes 2 s, before something waits for it."""
    from orbax.checkpoint import v1 as ocp

    _ = ocp.save


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Save arrays, each of them `savable`, by name.

    Raises:
        OSError: The disk does not take them.
    """
    from orbax.checkpoint import v1 as ocp  # 2 s to import

    context = _context()
    context.array.saving.use_compression = False  # most of the time, for weights that hardly shrink
    context.memory.transfer_concurrent_bytes = _BUFFER
    context.memory.deepcopy_host_arrays = False  # nobody changes them meanwhile
    try:
        with context, _one_error():
            ocp.save(str(path), arrays)
    except (ValueError, RuntimeError) as error:
        # TensorStore does not raise OSError, but its message has the system's error number.
        if not (code := re.search(r"os_error_code='(\d+)'", str(error))):
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def forget_place(path: Path) -> None:
    """Delete Orbax's note that arrays are complete, once all processes have saved them.

    Our manifest records that; the note records on which machine, and where, they were written.
    """
    (path / "commit_success.txt").unlink(missing_ok=True)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Let the first error of a save be its only one.

    Orbax raises it and closes its event loop. Threads of TensorStore then report the arrays still
    under way to the closed loop until the process ends, each with a traceback on stderr.
    """
    _ignore_closed_loops()
    try:
        yield
    except BaseException:
        # Python keeps one copy of a filter, however often it is added.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise


@functools.cache
def _ignore_closed_loops() -> None:
    """Drop reports to a closed event loop from now on; called again, do nothing."""
    before = sys.unraisablehook

    def hook(told: "sys.UnraisableHookArgs") -> None:
        if "Event loop is closed" not in str(told.exc_value):
            before(told)

    sys.unraisablehook = hook


def load_arrays(path: Path, targets: dict[str, Any]) -> dict[str, Any]:
    """Load arrays, each placed as its `target` tells."""
    from orbax.checkpoint import v1 as ocp

    context = _context()
    # A device's part passes through the host in one piece, and Orbax requires room to spare.
    context.memory.read_concurrent_bytes = max([_BUFFER, *map(_part_bytes, targets.values())]) + 1
    with context:
        return ocp.load(str(path), targets)


def _context() -> Any:
    if processes.several() and processes.alone():  # Orbax would wait for the others
        raise RuntimeError("all processes must save a checkpoint, not one inside processes.once")
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.asynchronous.timeout_secs = 24 * 3600  # for which processes wait for the slowest
    return context


def _part_bytes(target: Any) -> int:
    shape = target.shape
    if (sharding := getattr(target, "sharding", None)) is not None:
        shape = sharding.shard_shape(shape)
    return math.prod(shape) * np.dtype(target.dtype).itemsize


def savable(leaf: Any) -> Any:
    """Return an array as Orbax requires it: on all processes' devices, or else in numpy."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    return np.asarray(leaf) if processes.several() and leaf.is_fully_addressable else leaf


def target(leaf: Any) -> Any:
    """Return what Orbax must know of an array: shape, dtype, and a placement or numpy."""
    if getattr(leaf, "sharding", None) is None or is_anywhere(leaf):
        return np.empty(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def is_anywhere(leaf: Any) -> bool:
    """Return whether an array is on no particular device, and may meet sharded ones in a step."""
    return isinstance(leaf, jax.Array) and not leaf.committed
