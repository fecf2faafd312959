"""What memory this machine has: by JAX for accelerators, by the system for a CPU."""

import dataclasses
from pathlib import Path

from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Available:
    """Bytes that a device has, and a host; `shared` where devices are the host's own cores."""

    device: int
    host: int
    shared: bool


def available(mesh: Mesh) -> Available:
    """Return what this host's devices have, by JAX where it knows, and the host."""
    device, host = mesh.local_devices[0], host_memory()
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return Available(stats["bytes_limit"], host, shared=False)
    return Available(host // len(mesh.local_devices), host, shared=True)


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
