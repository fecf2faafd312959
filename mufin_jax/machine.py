"""What memory this machine has: by JAX for accelerators, by the system for a CPU."""

import dataclasses
import socket
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh


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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not this kind of system
        return []
