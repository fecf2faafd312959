"""How a run stops on a signal: by itself within seconds, whatever it is at.

Work is cut into pieces, and between two of them the run looks whether a signal came. Where it is in
one long native call instead (a program that compiles for a minute), a thread ends the process in
its place, unless steps were made that are not saved. That may happen at any moment, as a kill may:
every file is whole or absent.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

from mufin_jax import hosts
from mufin_jax.errors import Stopped
from mufin_jax.peers import leave

T = TypeVar("T")

PATIENCE = 8.0
"""Seconds that a run has, after a signal, to end by itself."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

unsaved = threading.Event()
"""Set while training has made steps that no checkpoint holds: the run is then waited for."""


def stop_requested() -> bool:
    """Whether a signal asked a process of the run to stop: save, then raise Stopped."""
    return hosts.stop.is_set()


def check_stop(where: str) -> None:
    """Raises Stopped in a phase that has nothing to save, if a signal asked for it."""
    if hosts.stop.is_set():
        raise Stopped(f"{where}: stopped by a signal; run the same command to go on")


def until_stopped(items: Iterable[T], where: str) -> Iterator[T]:
    """Yields the items; raises what `check_stop` does before the next one."""
    for item in items:
        check_stop(where)
        yield item


@contextlib.contextmanager
def signals_stop_gently() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C requests that `stop_requested` answers; a second one kills.

    Does nothing outside the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, frame: FrameType | None) -> None:
        hosts.stop.set()
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_DFL)  # ends the process even inside a long C call

    hosts.stop.clear()
    before = {number: signal.signal(number, request) for number in _SIGNALS}
    noticed, notice = socket.socketpair()
    notice.setblocking(False)
    wakeup = signal.set_wakeup_fd(notice.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(noticed,), name="signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        notice.close()
        watch.join()
        noticed.close()
        hosts.stop.clear()
        unsaved.clear()


def _watch(noticed: socket.socket) -> None:
    """Hears of signals as they come, also while the main thread is in a native call.

    Python runs its handlers between two steps of the main thread, and only then.
    """
    number = _next(noticed)
    if number is None:
        return
    hosts.stop.set()
    os.write(2, b"\nstopping after this step; once more to end at once\n")
    while True:
        try:
            noticed.settimeout(PATIENCE)
            again = _next(noticed)
        except TimeoutError:
            if unsaved.is_set():
                continue
            line = "error: stopped by a signal; run the same command to go on"
            hosts.end(Stopped.exit_code, line)
            print(line, file=sys.stderr)
            leave(Stopped.exit_code)
        else:
            if again is not None:
                leave(128 + again)
            return


def _next(noticed: socket.socket) -> int | None:
    """The number of the next signal that asks for a stop; None once none is listened for."""
    while heard := noticed.recv(1):
        if heard[0] in _SIGNALS:
            return heard[0]
    return None
