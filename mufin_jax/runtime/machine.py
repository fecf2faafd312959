"""The memory and the threads of this machine: of accelerators by JAX, of CPUs by the system."""

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
    """The memory that this process can use."""

    device: int
    """Bytes of one device."""
    host: int
    """Bytes of the host, for this process."""
    shared: bool
    """Whether devices are the host's own cores, and use its memory."""


def available(mesh: Mesh) -> Available:
    """Return the memory of this process's devices, by JAX if it knows, and its share of the host's.

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
    """Set the number of threads that XLA computes with, before anything starts JAX's backend.

    On a CPU the sums of matrix products are split among the threads, so another number rounds
    differently. The same number gives the same bits on any number of cores.

    Args:
        wanted: The number. None means that of the environment, else `before`, else one thread per
            core and at least two.
        before: The number that the run began with, if it has begun.

    Raises:
        InputError: The number is below 1.
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
    """Return how many cores this process may use; in a container, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_memory_among_threads() -> None:
    """Let threads allocate from one pool per core instead of eight.

    No other thread can use what a thread freed in its own pool, so pools grow for hours. Call it
    before the threads start, and only in a process of our own.
    """
    _of_glibc("mallopt", _ARENA_MAX, max(2, cores()))


def give_back_memory() -> None:
    """Return freed memory, which is kept for the next allocation, to the system.

    After compiling, that is a third of a small process's memory.
    """
    _of_glibc("malloc_trim", 0)


def _of_glibc(name: str, *arguments: int) -> None:
    """Call a function of glibc, if that is the system's library."""
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not this kind of system
        return []
