"""How Module II's index searches, and which search "auto" means on which machine."""

import dataclasses
import logging
from typing import Literal

import jax
from jax.sharding import Mesh

from mufin_jax.retrieval import scann
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.machine import cores, host_memory

log = logging.getLogger(__name__)

_GROWS_BEYOND = 500_000
"""Entries beyond which the share of leaves that a query visits grows."""


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How the index of Module II searches.

    How far ScaNN searches follows from the number of entries. A query visits the leaves that hold
    7% of them, and 12,000 entries at least; beyond 500,000 entries the share grows with their
    fourth root. It takes the 4 k entries nearest by their codes. The labels of these, at most
    1.6 k, are compared by their exact similarities. This finds the following share of the exact
    100 labels (benchmarks/retrieval.py: entries of 192 dimensions, six a label, in neighbourhoods
    that leaves cut through):

        2,000 entries 0.998; 20,000 1.000; 100,000 0.999; 500,000 0.977; 1,800,000 0.973

    The missing labels lie in leaves that were not visited: raise `leaves_searched` first.
    """

    backend: Literal["auto", "scann", "exact", "sharded", "sharded_approx"] = "auto"
    """exact: in numpy. scann: approximately. sharded: exactly, entries split over the devices;
    sharded_approx: the same with TPUs' approximate top k. auto: below 1,000 entries exact, then on
    accelerators sharded; on CPUs scann where it is installed and its build fits the memory,
    else exact, or sharded."""
    leaves_searched: float = 0.07
    """ScaNN: share of the tree's leaves that a query visits, at least; beyond 500,000 entries it
    grows with their fourth root."""
    entries_searched: int = 12_000
    """ScaNN: entries that a query visits, at least (in expectation): a few percent of a small tree
    are too few."""
    reorder: int = 4
    """ScaNN: entries taken by their codes, in multiples of k; the exact cosines of their labels
    decide among them."""
    over_fetch: int = 3
    """Sharded: entries to find, in multiples of k, until k distinct labels are among them."""
    threads: int = 0
    """ScaNN: threads for building and searching; 0: one a core."""

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if not 0 < self.leaves_searched <= 1:
            raise InputError(f"leaves_searched={self.leaves_searched}: expected a share in (0, 1]")
        for name, least in (("reorder", 1), ("over_fetch", 1), ("entries_searched", 0),
                            ("threads", 0)):  # fmt: skip
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name}={value}: expected at least {least}")

    def share(self, size: int, fetch: int) -> float:
        """Return the share of a tree's leaves to visit for `fetch` of its `size` entries."""
        grown = self.leaves_searched * max(size / _GROWS_BEYOND, 1) ** 0.25
        return max(grown, max(self.entries_searched, fetch) / size)

    def search_over(self, size: int, width: int, mesh: Mesh | None) -> str:
        """Return the search that this config means: a backend other than auto.

        Args:
            size: how many entries there are.
            width: D.
            mesh: where a sharded search runs; all devices by default.

        Raises:
            InputError: if the backend is "scann", and ScaNN is not installed.
        """
        if self.backend == "exact" or not size:
            return "exact"
        if self.backend in ("sharded", "sharded_approx"):
            return self.backend
        if self.backend == "scann" and not scann.importable():
            raise InputError(
                "backend=scann, but ScaNN is not installed; pip install scann, or use backend=auto"
            )
        if size < scann.FEWEST_VECTORS:
            return "exact"
        if self.backend == "auto":
            platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
            if platform != "cpu":
                return "sharded"
            if not scann.importable():
                log.warning("ScaNN is not installed: exact search replaces it, slower for "
                            "many labels")  # fmt: skip
                return "exact"
            if scann.BUILD * 4 * size * width > host_memory():
                return "sharded"
        return "scann"

    def num_threads(self) -> int:
        """Return how many threads to start: by default one for each core of this process."""
        return self.threads or cores()
