"""What all benchmarks share: two sides timed in turn, medians, and the one line of JSON.

The sides of a comparison run in one process, one call each in turn, so that both see the same
machine whatever else it does; wall time and the process's CPU time are kept of every call.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
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
        """Median wall time."""
        return statistics.median(self.wall)

    def facts(self, of: int = 1) -> dict[str, float]:
        """Median and least wall time, median CPU time, divided by `of` things done in a call."""
        found = {"ms": self.ms, "least_ms": min(self.wall), "cpu_ms": statistics.median(self.cpu)}
        return {name: significant(value / of) for name, value in found.items()}


def in_turn(
    sides: Mapping[str, Callable[[], Any]], count: int = 7, warm_up: int = 2
) -> dict[str, Times]:
    """Call all sides in turn, `warm_up` rounds untimed and `count` rounds timed.

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
    """Median wall time of ours over theirs."""
    return significant(ours.ms / theirs.ms)


def cores() -> int:
    """Cores that this process may use: as many threads as each side gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def line(name: str, ratio: float, limit: float | None, **facts: Any) -> dict[str, Any]:
    """Print the one JSON line of a benchmark, and return what it holds.

    Args:
        name: of the benchmark and its case.
        ratio: ours over theirs.
        limit: what the ratio should be at most; None if none was set.
        facts: sizes, medians, and whatever else was found.
    """
    found = {"name": name, **device(), "ratio": significant(ratio), "limit": limit}
    if limit is not None:
        found["within"] = ratio <= limit
    found |= facts | {"versions": versions()}
    print(json.dumps(found), flush=True)
    return found


def device() -> dict[str, Any]:
    """Return what JAX computes on, or the CPU if this process never started JAX."""
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
    """Round to so many significant digits."""
    return float(f"{value:.{digits}g}")
