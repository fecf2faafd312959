"""Several processes, one a host or a device, that run the same program: who writes, who waits.

Every process runs the same stages on the same mesh; JAX's distributed runtime connects them. What
lies on the disk is written by the main process alone, in a folder that all of them see. They meet
in JAX's coordination service, not in a collective of the devices: there, all can wait for hours
while one works.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mufin_jax.runtime.distributed import liveness
from mufin_jax.runtime.distributed.liveness import Peers, leave, leave_aborts
from mufin_jax.runtime.distributed.startup import HostsConfig, join

T = TypeVar("T")

stop = threading.Event()
"""Set when a signal asks this process, or another one of the run, to stop."""

_A_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds for which one process may work while the others wait."""

_peers: Peers | None = None
_alone = False
_meetings = 0


def start(config: HostsConfig) -> None:
    """Join the run's other processes, if flags or a launcher say that there are any.

    Comes before anything that starts JAX's backend. If they do not come in time, or if process 0 is
    lost later, it ends this process with one line and PeerLost's exit code.

    Raises:
        InputError: if a launcher says what JAX cannot use.
    """
    global _peers
    _peers = join(config, stop)
    if _peers is not None:
        _connect()


def _connect() -> None:
    """Has the devices compute together for the first time, now that all processes are here.

    They connect when they first do, and on CPUs give up after 30 seconds; later they wait for ever.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from mufin_jax.runtime.distributed.mesh import by_row, make_mesh, put, replicated

    mesh = make_mesh()
    ones = put(np.ones(mesh.size, np.float32), by_row(mesh))
    jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))(ones).block_until_ready()
    multihost_utils.sync_global_devices("the start")  # one device a process


def several() -> bool:
    """Whether the run has more than one process."""
    if _peers is not None:
        return True
    jax = sys.modules.get("jax")
    return jax is not None and jax.process_count() > 1


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return process() == 0


def process() -> int:
    """The number of this process."""
    if _peers is not None:
        return _peers.process
    jax = sys.modules.get("jax")
    return 0 if jax is None else jax.process_index()


def alone() -> bool:
    """Whether the others are waiting for this process, or there are none."""
    return _alone or not several()


def barrier(name: str) -> None:
    """Wait until every process is here; at once where there is one."""
    if not alone():
        meeting = f"mufin {_next()} {name}"
        _interruptibly(lambda: _client().wait_at_barrier(meeting, _A_WEEK))


def once(name: str, make: Callable[[], object]) -> None:
    """Call `make` on the main process, while the others wait for what it writes.

    It begins when all are here, so it may remove what they have read. What `make` calls meets
    nobody: a barrier in it is passed at once, and collectives have no place there.
    """
    barrier(name)
    if is_main():
        _by_itself(make)
    barrier(name)


def decide(make: Callable[[], T]) -> T:
    """Return what `make` says on the main process, to all of them; JSON-able."""
    if alone():
        return make()
    key = f"mufin/decided/{_next()}"
    if is_main():
        _client().key_value_set(key, json.dumps(_by_itself(make)))
    return json.loads(_interruptibly(lambda: _client().blocking_key_value_get(key, _A_WEEK)))


def finish() -> None:
    """Wait until all processes have come to a good end, and part."""
    global _peers
    if _peers is not None:
        import jax

        barrier("the end")
        quiet = _peers.part()
        jax.distributed.shutdown()
        leave_aborts()
        _peers = None
        if not quiet:
            leave(0)


def end(code: int, line: str, details: str = "") -> None:
    """End this process, and with it the others; returns only where there are none.

    The line is printed, or `details` instead of it, unless the main process ends with it, too.
    """
    if _peers is not None:
        _peers.end(code, line, details)


def wait_for_news(details: str) -> None:
    """Let an error of a collective be explained by what became of another process, if it can be.

    If it is, this process ends here, with the `details` (a traceback) before its line.
    """
    if _peers is not None:
        liveness.failed_collective = details
        time.sleep(_peers.lost_timeout + 15)


def _by_itself(make: Callable[[], T]) -> T:
    """Calls what the main process does while the others wait; what it calls meets nobody."""
    global _alone
    before, _alone = _alone, True
    try:
        return make()
    finally:
        _alone = before


def _next() -> int:
    global _meetings
    _meetings += 1
    return _meetings


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


def _interruptibly(wait: Callable[[], T]) -> T:
    """Calls what blocks in native code, so that signals are answered meanwhile."""
    done, found = threading.Event(), []

    def call() -> None:
        try:
            found.append((wait(), None))
        except Exception as error:
            found.append((None, error))
        done.set()

    threading.Thread(target=call, daemon=True).start()
    while not done.wait(1.0):
        pass
    value, error = found[0]
    if error is not None:
        raise error
    return value
