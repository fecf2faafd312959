"""What this machine has: memory, by JAX for accelerators, by the system for a CPU; threads."""

import ctypes
import dataclasses
import os
import socket
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mufin_jax.runtime.errors import InputError

_THREADS = "PJRT_NPROC"
"""The variable that XLA reads, once, when it starts."""

_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""


@dataclasses.dataclass(frozen=True)
class Available:
    """Bytes a device has, and a process of a host; `shared` where devices are its own cores."""

    device: int
    host: int
    shared: bool


def available(mesh: Mesh) -> Available:
    """Return what this process's devices have, by JAX where it knows, and its share of the host.

    Processes on one host share its memory evenly. Every process must call it.
    """
    device, host = mesh.local_devices[0], host_memory() // _processes_here()
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return Available(stats["bytes_limit"], host, shared=False)
    return Available(host // len(mesh.local_devices), host, shared=True)


def _processes_here() -> int:
    if jax.process_count() == 1:
        return 1
    name = np.uint32(zlib.crc32(socket.gethostname().encode()))
    return int((multihost_utils.process_allgather(name) == name).sum())


def host_memory(root: Path = Path("/")) -> int:
    """Return the bytes this process may use: the machine's, or less by its control group."""
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            found.append(1024 * int(line.split()[1]))
    base = root / "sys/fs/cgroup"
    limits = [base / "memory.max", base / "memory/memory.limit_in_bytes"]
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            limits.append(base / path.strip("/") / "memory.max")
        elif "memory" in kinds.split(","):
            limits.append(base / "memory" / path.strip("/") / "memory.limit_in_bytes")
    for limit in limits:
        found += [int(line) for line in _lines(limit) if line.isdigit()]
    return min(found, default=2**63)


def set_threads(wanted: int | None, before: int | None) -> None:
    """Have XLA compute with so many threads; comes before anything that starts JAX's backend.

    On a CPU the sums of matrix products are split among them, so that another number rounds
    differently; the same number gives the same bits on any number of cores.

    Args:
        wanted: the number; None for that of the environment, else the one before, else one a core
            and two at least.
        before: the number that the run began with, if it has begun.

    Raises:
        InputError: a number below 1.
    """
    if wanted is None:
        if os.environ.get(_THREADS):
            return
        wanted = before or max(2, cores())
    if wanted < 1:
        raise InputError(f"--threads={wanted}: expected a whole number >= 1")
    os.environ[_THREADS] = str(wanted)


def threads() -> int:
    """Return the number of threads that XLA computes with on a CPU."""
    named = os.environ.get(_THREADS, "")
    return int(named) if named.isdigit() else cores()


def cores() -> int:
    """Return the cores that this process may use; in a container, fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_memory_among_threads() -> None:
    """Have threads allocate from one pool a core, and not from eight.

    What a thread freed in a pool of its own, no other can use: pools fill up for hours. Comes
    before the threads do, in a process that is our own.
    """
    _of_glibc("mallopt", _ARENA_MAX, max(2, cores()))


def give_back_memory() -> None:
    """Hand what was freed, but is kept for the next allocation, back to the system.

    Compiling leaves a third of a small process's memory so.
    """
    _of_glibc("malloc_trim", 0)


def _of_glibc(name: str, *arguments: int) -> None:
    """Calls a function of glibc, where that is the system's library."""
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not this kind of system
        return []
