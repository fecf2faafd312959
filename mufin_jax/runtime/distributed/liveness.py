"""Detects that another process of the run ended or was lost, and ends this one, with a reason.

JAX's coordination service knows which processes live. It also keeps the notes that processes
leave: that one ended and why, or that a signal asked one to stop. Two threads listen to it while
the main thread computes, or waits in a collective that will never be complete. They end the process
once the end of another one is final. That may happen at any moment, as a kill may: every file is
whole or absent.
"""

import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from mufin_jax.runtime.errors import PeerLost
from mufin_jax.runtime.jax_internals import CoordinationClient

ADVICE = "run the same command on all hosts to resume"

_POLL = 1.0
_GRACE = 3.0
"""Seconds in which the main thread can come to the same end by itself, with its own line."""
_LAST = 10.0
"""Seconds that process 0 stays for the others: JAX aborts whoever loses the service it runs."""


class End(NamedTuple):
    """Why a process ended: for a reason of its own (`own`), or because another one did."""

    code: int
    line: str
    own: bool


class Aborts:
    """Gives an abort in native code an exit code and a last line.

    JAX's runtime aborts a process the moment it loses process 0, before any thread of ours can
    notice, and as soon as it fails to connect. Python's own signal handlers would never run: they
    wait for the main thread.

    Attributes:
        failed_collective: The traceback of a collective that failed in the main thread, which now
            waits to learn the cause.
    """

    def __init__(self) -> None:
        self.failed_collective = ""
        self._handler: Callable[[int], None] | None = None  # the C library keeps no reference

    def answer(self, answer: Callable[[], tuple[int, str] | None]) -> None:
        """Let an abort end this process with the exit code and the line of `answer`.

        Where `answer` returns None, the abort takes its course.
        """

        def handler(number: int) -> None:
            del number
            if (found := answer()) is not None:
                if found[0] == PeerLost.exit_code:
                    self.dump_stacks()
                os.write(2, f"{found[1]}\n".encode())
                leave(found[0])

        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
        libc = ctypes.CDLL(None)
        libc.signal.restype = ctypes.c_void_p
        libc.signal(signal.SIGABRT, self._handler)

    def ignore(self) -> None:
        """Let aborts take their course again."""
        signal.signal(signal.SIGABRT, signal.SIG_DFL)

    def dump_stacks(self) -> None:
        """Print the failed collective's traceback, and the stacks of all threads, to stderr."""
        try:
            os.write(2, self.failed_collective.encode())
            faulthandler.dump_traceback(sys.__stderr__ or 2)
        except (OSError, ValueError):
            pass  # stderr is closed


class Peers:
    """The other processes of the run, as this one learns of them.

    Args:
        client: JAX's client of the coordination service.
        process: The number of this process.
        processes: How many there are.
        stop: Set when a signal asks this process to stop; set here when one asks another.
        lost_timeout: Seconds after which the service considers a silent process lost.
        aborts: Prints where this process's threads were when another process is lost.
    """

    def __init__(
        self,
        client: CoordinationClient,
        process: int,
        processes: int,
        stop: threading.Event,
        lost_timeout: float,
        aborts: Aborts,
    ):
        self.client, self.process, self.processes, self.stop = client, process, processes, stop
        self.lost_timeout, self._aborts = lost_timeout, aborts
        self._others = set(range(processes)) - {process}
        self._gone: set[int] = set()
        self._leaving = threading.Lock()  # taken once, by the thread that ends the process
        self._parting, self._parted = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=run, name=f"peers: {work}", daemon=True)
            for work, run in (("notes", self._watch_notes), ("lives", self._watch_lives))
        ]
        for thread in self._threads:
            thread.start()

    def part(self) -> bool:
        """Stop listening after all have ended well; process 0 waits for the others to leave.

        Returns:
            Whether both threads have ended. A thread that is still in native code when Python ends
            would abort the process.
        """
        self._parting.set()
        if self.process == 0:
            _until(lambda: self._others <= self._gone, _LAST)
        self._parted.set()
        for thread in self._threads:
            thread.join(_GRACE)
        return not any(thread.is_alive() for thread in self._threads)

    def end(self, code: int, line: str, details: str = "") -> None:
        """Tell the others why this process ends, and exit.

        Args:
            code: The exit code.
            line: The reason, which is printed unless process 0 prints the same.
            details: What to print instead of the line, such as a traceback.
        """
        self._leaving.acquire()
        self._note("ended", json.dumps(End(code, line, own=True)))
        self._exit(
            code, "" if self._process_0_prints(End(code, line, own=True)) else details or line
        )

    def _process_0_prints(self, end: End) -> bool:
        """Return whether process 0 is another one, and ends for the same reason within a moment."""
        if self.process == 0:
            return False
        _until(lambda: 0 in self._gone or 0 in self._ended(), _GRACE)
        return self._ended().get(0) == end

    def _exit(self, code: int, line: str) -> None:
        if line:
            say(line)
        if self.process == 0:
            _until(lambda: self._others <= self._gone | self._notes("left").keys(), _LAST)
            time.sleep(_POLL / 2)  # from the note to the exit
        else:
            self._note("left", "")
        leave(code)

    def _note(self, kind: str, text: str) -> None:
        try:
            self.client.key_value_set(f"mufin/{kind}/{self.process}", text, allow_overwrite=True)
        except RuntimeError:
            pass  # the service is gone, and nobody is left to read notes

    def _notes(self, kind: str) -> dict[int, str]:
        """Return the notes of one kind, by process."""
        try:
            found = self.client.key_value_dir_get(f"mufin/{kind}")
        except RuntimeError:
            return {}
        return {int(key.rpartition("/")[2]): text for key, text in found}

    def _ended(self) -> dict[int, End]:
        return {process: End(*json.loads(text)) for process, text in self._notes("ended").items()}

    def _watch_notes(self) -> None:
        """Follow the notes: pass on that a stop was asked for, and end when another has ended."""
        told = False
        while not self._parting.wait(_POLL):
            if self.stop.is_set() and not told:
                self._note("stop", "")
                told = True
            elif not told and self._notes("stop"):
                self.stop.set()
                told = True
            for other, end in sorted(self._ended().items()):
                if other in self._others and end.own and not self._parting.wait(_GRACE):
                    self._follow(end.code, f"process {other} ended: {_bare(end.line)}")

    def _watch_lives(self) -> None:
        """Ask again and again who lives; the service answers when all that live have asked."""
        first: dict[int, int] = {}
        failures = 0
        last = self._parted if self.process == 0 else self._parting
        while not last.is_set():
            try:
                alive = self.client.get_live_nodes(list(range(self.processes)))
                failures = 0
            except RuntimeError:
                failures += 1
                alive = {n: i for n, i in first.items() if n or failures < 3}
            first = first or alive
            # A process that was started again in the place of a lost one has another incarnation.
            self._gone = {n for n in self._others if n not in alive or alive[n] != first.get(n)}
            lost = sorted(self._gone - self._ended().keys())
            if lost and not self._parting.is_set():
                self._follow(PeerLost.exit_code, lost_line(lost, self.processes), stacks=True)
            last.wait(_POLL)

    def _follow(self, code: int, line: str, stacks: bool = False) -> None:
        """End this process because of another, unless its main thread is already ending it.

        With `stacks`, print first where the threads were: what they waited for may show what
        became of the other process.
        """
        if self._leaving.acquire(blocking=False):
            self._note("ended", json.dumps(End(code, line, own=False)))
            if stacks:
                self._aborts.dump_stacks()
            self._exit(code, line)


def lost_line(lost: list[int], processes: int) -> str:
    """Return the last line of a process that ends because others were lost."""
    which = ", ".join(map(str, lost[:8])) + (", ..." if lost[8:] else "")
    was = "was" if len(lost) == 1 else "were"
    return f"error: process {which} of {processes} {was} lost; {ADVICE}"


def answers(address: str) -> bool:
    """Return whether a gRPC service lives at HOST:PORT.

    The system itself accepts connections to a process that is stopped, so we greet the service and
    wait for its answer.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            # HTTP/2's preface and an empty SETTINGS frame (RFC 9113, section 3.4)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            return connection.recv(1) != b""
    except OSError:
        return False


def say(line: str) -> None:
    """Print a line on stderr, if somebody still reads it: a Ctrl-C has ended `tee`, too."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def leave(code: int) -> NoReturn:
    """Exit at once, from any thread, after flushing what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)


def _until(true: Callable[[], bool], seconds: float) -> None:
    """Wait until something is true, at most so long."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)


def _bare(line: str) -> str:
    return line.removeprefix("error: ")
