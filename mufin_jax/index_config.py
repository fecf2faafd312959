"""How Module II's index searches, and which of the searches "auto" means where."""

import dataclasses
import logging
import os
from typing import Literal

import jax
from jax.sharding import Mesh

from mufin_jax import scann_tree
from mufin_jax.errors import InputError
from mufin_jax.machine import host_memory

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How the index of Module II searches.

    ScaNN's share of the exact shortlist (recall), by default, on clustered unit vectors of 192
    dimensions, two entries a label, k = 100, 2,000,000 entries: 0.998 in clusters of 3,000 labels,
    0.963 in clusters of 50,000. Where it is lower, raise `reorder` (at 20: 0.9998 and 0.988), then
    `leaves_searched`; with few entries to a neighbourhood, reorder = 5 is enough.
    """

    backend: Literal["auto", "scann", "exact", "sharded", "sharded_approx"] = "auto"
    """exact: in numpy. scann: approximately. sharded: exactly, entries split over the devices;
    sharded_approx: the same with TPUs' approximate top k. auto: below 1,000 entries exact, then on
    accelerators sharded; on CPUs scann where it is installed and its build fits the memory,
    else exact, or sharded."""
    leaves_searched: float = 0.05
    """ScaNN: share of the tree's leaves that a query visits, at least."""
    entries_searched: int = 20_000
    """ScaNN: entries that a query visits, at least (in expectation): 5% of a small tree is too
    little."""
    reorder: int = 10
    """ScaNN: entries whose exact cosine is computed, in multiples of k: the knob for recall."""
    over_fetch: int = 3
    """Sharded: entries asked for in multiples of k, so that k distinct labels are among them."""
    threads: int = 0
    """ScaNN: threads for building and searching; 0: one a core."""

    def __post_init__(self) -> None:
        if not 0 < self.leaves_searched <= 1:
            raise InputError(f"leaves_searched={self.leaves_searched} should be in (0, 1]")
        for name in ("reorder", "over_fetch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} should be at least 1")
        for name in ("entries_searched", "threads"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} should be 0 or more")

    def search_over(self, size: int, width: int, mesh: Mesh | None) -> str:
        """The search that this config means for entries (size, width): a backend other than auto.

        Raises InputError if that is ScaNN by name, and ScaNN is not installed.
        """
        if self.backend == "exact" or not size:
            return "exact"
        if self.backend in ("sharded", "sharded_approx"):
            return self.backend
        if self.backend == "scann" and not scann_tree.importable():
            raise InputError(
                "backend=scann, but ScaNN is not installed; pip install scann, or auto"
            )
        if size < scann_tree.FEWEST_VECTORS:
            return "exact"
        if self.backend == "auto":
            platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
            if platform != "cpu":
                return "sharded"
            if not scann_tree.importable():
                log.warning("ScaNN is not installed: exact search takes its place, slower for "
                            "many labels")  # fmt: skip
                return "exact"
            if scann_tree.BUILD * 4 * size * width > host_memory():
                return "sharded"
        return "scann"

    def num_threads(self) -> int:
        """Threads to start: as many as this process may have cores, unless told."""
        if self.threads or not hasattr(os, "sched_getaffinity"):
            return self.threads or os.cpu_count() or 1
        return len(os.sched_getaffinity(0))  # in a container, fewer than cpu_count
