"""What all benchmarks share: two sides timed alternately, medians, and the one line of JSON.

The sides of a comparison run in one process, one call each, alternating. Both then see the same
machine, whatever else runs on it. Wall time and the process's CPU time of every call are kept.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Times:
    """Milliseconds of the calls of one side."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    def take(self, call: Callable[[], Any]) -> None:
        """Make one call, which must return only when its work is done, and time it."""
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self.cpu.append(1e3 * (time.process_time() - cpu))
        self.wall.append(1e3 * (time.perf_counter() - wall))

    @property
    def ms(self) -> float:
        """Return the median wall time."""
        return statistics.median(self.wall)

    def facts(self, of: int = 1) -> dict[str, float]:
        """Return median and least wall time and median CPU time, divided by `of` things a call."""
        found = {"ms": self.ms, "least_ms": min(self.wall), "cpu_ms": statistics.median(self.cpu)}
        return {name: significant(value / of) for name, value in found.items()}


def in_turn(
    sides: Mapping[str, Callable[[], Any]], count: int = 7, warm_up: int = 2
) -> dict[str, Times]:
    """Call all sides alternately, `warm_up` rounds untimed and `count` rounds timed.

    Args:
        sides: calls by name; each returns only when its work is done (JAX: block_until_ready).
        count: timed rounds.
        warm_up: rounds before them, which compile and fill caches.
    """
    times = {name: Times() for name in sides}
    for turn in range(warm_up + count):
        for name, call in sides.items():
            if turn < warm_up:
                call()
            else:
                times[name].take(call)
    return times


def ratio(ours: Times, theirs: Times) -> float:
    """Return the median wall time of ours over theirs."""
    return significant(ours.ms / theirs.ms)


def cores() -> int:
    """Return the cores that this process may use: each side gets as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def line(name: str, ratio: float, limit: float | None, **facts: Any) -> dict[str, Any]:
    """Print the one JSON line of a benchmark, and return its content.

    Args:
        name: of the benchmark and its case.
        ratio: ours over theirs.
        limit: the largest good ratio; None without one.
        facts: sizes, medians, and all other results.
    """
    found = {"name": name, **device(), "ratio": significant(ratio), "limit": limit}
    if limit is not None:
        found["within"] = ratio <= limit
    found |= facts | {"versions": versions()}
    print(json.dumps(found), flush=True)
    return found


def device() -> dict[str, Any]:
    """Return the device of JAX, or the CPU if this process never started JAX."""
    kind = "cpu"
    if (jax := sys.modules.get("jax")) is not None:
        kind = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {"device": kind, "cores": cores()}


def versions() -> dict[str, str]:
    """Return the versions of the packages that take part."""
    found = {"python": sys.version.split()[0]}
    for package in (
        "mufin_jax",
        "jax",
        "flax",
        "torch",
        "transformers",
        "scann",
        "hnswlib",
        "numpy",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def significant(value: float, digits: int = 4) -> float:
    """Round to a number of significant digits."""
    return float(f"{value:.{digits}g}")


@contextlib.contextmanager
def place(keep: Path | None, name: str) -> Iterator[Path]:
    """Yield a folder: one of this name in a folder to keep, or one for this run alone."""
    if keep is not None:
        folder = keep / name
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
