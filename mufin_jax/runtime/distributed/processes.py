"""The processes of a run: which one this is, who writes files, and where all wait for each other.

A run may have several processes, one a host or a device. Each runs the same stages on the same
mesh; JAX's distributed runtime connects them. Only process 0 writes files, in a folder that all of
them see. They wait for each other in JAX's coordination service, not in a collective of the
devices: there, all can wait for hours while one works.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mufin_jax.runtime.distributed.liveness import Aborts, Peers, leave
from mufin_jax.runtime.distributed.startup import HostsConfig, join
from mufin_jax.runtime.jax_internals import CoordinationClient, distributed_state

T = TypeVar("T")

_A_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds for which one process may work while the others wait."""


class Processes:
    """All that this process knows of itself and of the run's other processes.

    Attributes:
        peers: The other processes; None if there are none.
        stop: Set when a signal asks this process, or another one of the run, to stop.
        unsaved: Set while training has made steps that no checkpoint holds. A stopped run is then
            given the time to save them.
        listening: Whether this process answers signals with a stop, see signals.py.
        aborts: How this process ends when native code aborts it.
    """

    def __init__(self) -> None:
        self.peers: Peers | None = None
        self.stop = threading.Event()
        self.unsaved = threading.Event()
        self.listening = False
        self.aborts = Aborts()
        self._working_alone = False
        self._meetings = 0

    def start(self, config: HostsConfig) -> None:
        """Join the run's other processes, if flags or a launcher tell of any.

        Call it before anything that starts JAX's backend. If the others do not come in time, or if
        process 0 is lost later, this process ends with one line and PeerLost's exit code.

        Raises:
            InputError: The launcher's settings are unusable for JAX.
        """
        self.peers = join(config, self.stop, self.aborts)
        if self.peers is not None:
            _compute_together()

    def several(self) -> bool:
        """Return whether the run has more than one process."""
        if self.peers is not None:
            return True
        jax = sys.modules.get("jax")
        return jax is not None and jax.process_count() > 1

    def process(self) -> int:
        """Return the number of this process."""
        if self.peers is not None:
            return self.peers.process
        jax = sys.modules.get("jax")
        return 0 if jax is None else jax.process_index()

    def is_main(self) -> bool:
        """Return whether this is process 0, the one that writes and prints."""
        return self.process() == 0

    def alone(self) -> bool:
        """Return whether the others wait for this process, or there are none."""
        return self._working_alone or not self.several()

    def barrier(self, name: str) -> None:
        """Wait until every process is here; return at once if there is only one."""
        if not self.alone():
            meeting = f"mufin {self._next()} {name}"
            _interruptibly(lambda: _client().wait_at_barrier(meeting, _A_WEEK))

    def once(self, name: str, make: Callable[[], object]) -> None:
        """Call `make` on process 0, while the others wait for what it writes.

        It starts when all are here, so it may remove files that they have read. `make` must not
        call collectives; barriers inside it return immediately.
        """
        self.barrier(name)
        if self.is_main():
            self._work_alone(make)
        self.barrier(name)

    def decide(self, make: Callable[[], T]) -> T:
        """Call `make` on process 0, and return its result on all; JSON must be able to hold it."""
        if self.alone():
            return make()
        key = f"mufin/decided/{self._next()}"
        if self.is_main():
            _client().key_value_set(key, json.dumps(self._work_alone(make)))
        return json.loads(_interruptibly(lambda: _client().blocking_key_value_get(key, _A_WEEK)))

    def finish(self) -> None:
        """Wait until all processes have ended well, and part from them."""
        if self.peers is not None:
            import jax

            self.barrier("the end")
            quiet = self.peers.part()
            jax.distributed.shutdown()
            self.aborts.ignore()
            self.peers = None
            if not quiet:
                leave(0)

    def end(self, code: int, line: str, details: str = "") -> None:
        """End this process, and with it the others; return only if there are none.

        Args:
            code: The exit code.
            line: The reason, which is printed unless process 0 prints the same.
            details: What to print instead of the line, such as a traceback.
        """
        if self.peers is not None:
            self.peers.end(code, line, details)

    def wait_for_news(self, details: str) -> None:
        """Wait for the news that another process was lost, which may explain a failed collective.

        If the news comes, this process ends here and prints `details`, a traceback, before its
        line.
        """
        if self.peers is not None:
            self.aborts.failed_collective = details
            time.sleep(self.peers.lost_timeout + 15)

    def _work_alone(self, make: Callable[[], T]) -> T:
        """Call what process 0 does while the others wait: barriers in it return immediately."""
        before, self._working_alone = self._working_alone, True
        try:
            return make()
        finally:
            self._working_alone = before

    def _next(self) -> int:
        self._meetings += 1
        return self._meetings


THIS_RUN = Processes()
"""The state of the run that this process is part of; the functions below are its methods."""

start, finish, end = THIS_RUN.start, THIS_RUN.finish, THIS_RUN.end
several, process, is_main = THIS_RUN.several, THIS_RUN.process, THIS_RUN.is_main
alone = THIS_RUN.alone
barrier, once, decide = THIS_RUN.barrier, THIS_RUN.once, THIS_RUN.decide
wait_for_news = THIS_RUN.wait_for_news


def _compute_together() -> None:
    """Let all devices compute together once, now that all processes are here.

    The devices connect when they first compute together, and on CPUs give up after 30 seconds;
    later they wait for ever.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from mufin_jax.runtime.distributed.mesh import by_row, make_mesh, put, replicated

    mesh = make_mesh()
    ones = put(np.ones(mesh.size, np.float32), by_row(mesh))
    jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))(ones).block_until_ready()
    multihost_utils.sync_global_devices("the start")  # one device a process


def _client() -> CoordinationClient:
    return distributed_state().client


def _interruptibly(wait: Callable[[], T]) -> T:
    """Call what blocks in native code in a thread, so the main thread can answer signals."""
    done, results, errors = threading.Event(), list[T](), list[Exception]()

    def call() -> None:
        try:
            results.append(wait())
        except Exception as error:
            errors.append(error)
        done.set()

    threading.Thread(target=call, daemon=True).start()
    while not done.wait(1.0):
        pass
    if errors:
        raise errors[0]
    return results[0]
