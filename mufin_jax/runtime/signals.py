"""How a run stops on a signal: by itself within seconds, whatever it is at.

Work is cut into pieces, and between two of them the run looks whether a signal came. Where it is in
one long native call instead (a program that compiles for a minute), a thread ends the process in
its place, unless steps were made that are not saved. That may happen at any moment, as a kill may:
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

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.liveness import leave, say
from mufin_jax.runtime.errors import Stopped

T = TypeVar("T")

_gentle = False
"""Whether this process listens to signals by now."""

PATIENCE = 8.0
"""Seconds that a run has, after a signal, to end by itself."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

ONE_REQUEST = 1.0
"""Seconds in which a further signal is the same request: `timeout` signals a process and its group.
"""

unsaved = threading.Event()
"""Set while training has made steps that no checkpoint holds: the run is then waited for."""


def stop_requested() -> bool:
    """Whether a signal asked a process of the run to stop: save, then raise Stopped."""
    return processes.stop.is_set()


def check_stop(where: str) -> None:
    """Raises Stopped in a phase that has nothing to save, if a signal asked for it."""
    if processes.stop.is_set():
        raise Stopped(f"{where}: stopped by a signal; run the same command to go on")


def until_stopped(items: Iterable[T], where: str) -> Iterator[T]:
    """Yields the items; raises what `check_stop` does before the next one."""
    for item in items:
        check_stop(where)
        yield item


@contextlib.contextmanager
def signals_stop_gently() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C requests that `stop_requested` answers; a second one kills.

    Does nothing outside the main thread, where Python allows no handlers, nor within itself. An
    event loop that takes over Python's wakeup file leaves the handlers alone to answer.
    """
    global _gentle
    if _gentle or threading.current_thread() is not threading.main_thread():
        yield
        return
    processes.stop.clear()
    unsaved.clear()
    noticed, notice = socket.socketpair()
    notice.setblocking(False)
    wakeup = signal.set_wakeup_fd(notice.fileno(), warn_on_full_buffer=False)
    # The thread below does the rest, and hears of signals while Python can't run this.
    before = {number: signal.signal(number, lambda *_: processes.stop.set()) for number in _SIGNALS}
    watch = threading.Thread(target=_watch, args=(noticed,), name="signals", daemon=True)
    watch.start()
    _gentle = True
    try:
        yield
    finally:
        _gentle = False
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        notice.shutdown(socket.SHUT_RDWR)  # also of a copy that a forked process may hold
        watch.join()
        notice.close()
        noticed.close()
        processes.stop.clear()
        unsaved.clear()


def _watch(noticed: socket.socket) -> None:
    """Hears of signals as they come, also while the main thread is in a native call.

    Python runs its handlers between two steps of the main thread, and only then.
    """
    if _next(noticed, math.inf) is None:
        return
    first = time.monotonic()
    processes.stop.set()
    say("\nstopping after this step; once more to end at once")
    patient = first + PATIENCE
    while True:
        try:
            again = _next(noticed, patient)
        except TimeoutError:
            patient = time.monotonic() + PATIENCE
            if not unsaved.is_set():
                line = "error: stopped by a signal; run the same command to go on"
                processes.end(Stopped.exit_code, line)
                say(line)
                leave(Stopped.exit_code)
        else:
            if again is None:
                return
            if time.monotonic() - first > ONE_REQUEST:
                _die_of(again)


def _next(noticed: socket.socket, until: float) -> int | None:
    """The number of the next signal that asks for a stop; None once none is listened for.

    Raises TimeoutError if none comes until then, on the monotonic clock.
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
    """Has a signal do what it does to a program without a handler, from any thread."""
    ctypes.CDLL(None).signal(number, 0)  # SIG_DFL; Python lets the main thread alone say so
    os.kill(os.getpid(), number)
    time.sleep(1)
    leave(128 + number)


def _forked() -> None:
    """Leaves signals to the system in a process that this one has forked."""
    global _gentle
    if _gentle:
        _gentle = False
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forked)
