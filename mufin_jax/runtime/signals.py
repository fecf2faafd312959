"""Stops a run on a signal (SIGTERM, Ctrl-C) within seconds, whatever it is doing.

Work is cut into pieces, and between two pieces the run checks whether a signal came. Where it is in
one long native call instead (a program that compiles for a minute), a thread ends the process for
it, unless training has made steps that are not saved. That may happen at any moment, as a kill may:
every file is whole or absent.
"""

import contextlib
import ctypes
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn, TypeVar

from mufin_jax.runtime.distributed.liveness import leave, say
from mufin_jax.runtime.distributed.processes import THIS_RUN
from mufin_jax.runtime.errors import Stopped

T = TypeVar("T")

PATIENCE = 8.0
"""Seconds that a run has, after a signal, to end by itself."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

ONE_REQUEST = 1.0
"""Seconds in which a second signal is the same request: `timeout` signals a process and its group.
"""

unsaved = THIS_RUN.unsaved
"""Set while training has made steps that no checkpoint holds: a stopped run may then save them."""


def stop_requested() -> bool:
    """Return whether a signal asked a process of the run to stop: save, then raise Stopped."""
    return THIS_RUN.stop.is_set()


def check_stop(where: str) -> None:
    """Raise Stopped if a signal asked the run to stop; for a phase that has nothing to save.

    Raises:
        Stopped: A signal came; its message begins with `where`.
    """
    if THIS_RUN.stop.is_set():
        raise Stopped(f"{where}: stopped by a signal; run the same command to resume")


def until_stopped(items: Iterable[T], where: str) -> Iterator[T]:
    """Yield the items, and call `check_stop` before each."""
    for item in items:
        check_stop(where)
        yield item


@contextlib.contextmanager
def signals_stop_gently() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into requests that `stop_requested` reports; a second one kills.

    Does nothing outside the main thread, where Python allows no handlers, nor within itself. If an
    event loop takes over Python's wakeup file, only the handlers remain to notice a signal.
    """
    if THIS_RUN.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    THIS_RUN.stop.clear()
    unsaved.clear()
    noticed, notice = socket.socketpair()
    notice.setblocking(False)
    wakeup = signal.set_wakeup_fd(notice.fileno(), warn_on_full_buffer=False)
    # The thread below does the rest. It learns of a signal even while Python cannot run this.
    before = {number: signal.signal(number, lambda *_: THIS_RUN.stop.set()) for number in _SIGNALS}
    watch = threading.Thread(target=_watch, args=(noticed,), name="signals", daemon=True)
    watch.start()
    THIS_RUN.listening = True
    try:
        yield
    finally:
        THIS_RUN.listening = False
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        notice.shutdown(socket.SHUT_RDWR)  # also of a copy that a forked process may hold
        watch.join()
        notice.close()
        noticed.close()
        THIS_RUN.stop.clear()
        unsaved.clear()


def _watch(noticed: socket.socket) -> None:
    """Learn of signals as they come, even while the main thread is in a native call.

    Python runs its handlers only between two steps of the main thread.
    """
    if _next(noticed, math.inf) is None:
        return
    first = time.monotonic()
    THIS_RUN.stop.set()
    say("\nstopping after this step; once more to end at once")
    patient = first + PATIENCE
    while True:
        try:
            again = _next(noticed, patient)
        except TimeoutError:
            patient = time.monotonic() + PATIENCE
            if not unsaved.is_set():
                line = "error: stopped by a signal; run the same command to resume"
                THIS_RUN.end(Stopped.exit_code, line)
                say(line)
                leave(Stopped.exit_code)
        else:
            if again is None:
                return
            if time.monotonic() - first > ONE_REQUEST:
                _die_of(again)


def _next(noticed: socket.socket, until: float) -> int | None:
    """Return the number of the next signal that requests a stop; None once listening has ended.

    Raises:
        TimeoutError: None came until then, on the monotonic clock.
    """
    while (left := until - time.monotonic()) > 0:
        noticed.settimeout(None if left == math.inf else left)
        heard = noticed.recv(1)
        if not heard:
            return None
        if heard[0] in _SIGNALS:
            return heard[0]
    raise TimeoutError


def _die_of(number: int) -> NoReturn:
    """Let a signal do what it does to a program without a handler; works in any thread."""
    ctypes.CDLL(None).signal(number, 0)  # SIG_DFL; Python allows only the main thread to set it
    os.kill(os.getpid(), number)
    time.sleep(1)
    leave(128 + number)


_held = threading.local()
"""The signals that a thread had blocked before it began to fork; none if it holds none back."""


def _before_fork() -> None:
    """Hold signals back in the thread that forks: one to the new process must not get lost."""
    _held.before = None
    if THIS_RUN.listening:
        _held.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _after_fork_in_parent() -> None:
    if _held.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.before)


def _after_fork_in_child() -> None:
    """Leave signals to the system in the new process, those that came meanwhile included."""
    if _held.before is not None:
        THIS_RUN.listening = False
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.before)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
