"""Everything that this package takes from JAX's private modules, `jax._src`, in one file.

These names may change with any version of JAX. tests/runtime/test_jax_internals.py calls each
function, so an unsupported version fails there first.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable


@runtime_checkable
class CoordinationClient(Protocol):
    """The part that this package uses of JAX's client of its coordination service."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Store a text under a key."""
        ...

    def key_value_dir_get(self, key: str) -> Sequence[tuple[str, str]]:
        """Return all keys below one, each with its text."""
        ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """Wait until a key is stored, and return its text."""
        ...

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        """Wait until all processes wait at this barrier."""
        ...

    def get_live_nodes(self, process_ids: Sequence[int]) -> dict[int, int]:
        """Return the incarnation of each process that lives, once all that live have called it."""
        ...


@dataclasses.dataclass(frozen=True)
class Launcher:
    """What JAX knows of a launcher, such as Slurm or Open MPI."""

    name: str
    """Such as "Slurm", "Ompi", "K8s"."""
    only_by_name: bool
    """Whether JAX uses it only where the user names it."""
    started_this: Callable[[], bool]
    """Returns whether it started this process."""
    process_count: Callable[[], int]
    """Returns how many processes it started."""


class DistributedState(NamedTuple):
    """What `jax.distributed.initialize` found out."""

    client: CoordinationClient
    process: int
    processes: int
    coordinator: str
    """HOST:PORT of the coordination service, which process 0 runs."""


def distributed_state() -> DistributedState:
    """Return the state that `jax.distributed.initialize` left."""
    from jax._src import distributed

    state = distributed.global_state
    return DistributedState(
        cast(CoordinationClient, state.client),
        state.process_id,
        state.num_processes,
        state.coordinator_address or "",
    )


def launchers() -> list[Launcher]:
    """Return the launchers that JAX can recognise, in the order in which it looks for them."""
    from jax._src import clusters

    return [
        Launcher(
            cluster.__name__.removesuffix("Cluster"),
            cluster.opt_in_only_method,
            cluster.is_env_present,
            cluster.get_process_count,
        )
        for cluster in clusters.ClusterEnv._cluster_types
    ]


def is_whole_program(content: bytes) -> bool:
    """Return whether a file of the compile cache is complete."""
    from jax._src import compilation_cache

    try:
        compilation_cache.decompress_executable(content)
    except Exception:  # of whichever library compressed it
        return False
    return True
