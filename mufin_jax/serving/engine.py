"""The one thread that asks the model, and the bounded queue in front of it.

Batches are made without a timer: when the model is free, the thread takes what waits, up to the
largest size that is compiled. Alone, a request starts at once; under load, batches fill by
themselves. A request whose client has left, or whose time is over, costs the model nothing.
"""

import dataclasses
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

log = logging.getLogger(__name__)

BEAT = 0.5
"""Seconds between two beats of an idle thread."""
_SMOOTH = 0.2
"""Weight of the newest batch in the rate."""
_DEAD = "the model's thread has died"
_LONGEST = 60
"""Seconds after which a client is asked to come back, at most."""


class Unavailable(Exception):
    """The request is not accepted; its text says why."""


class Busy(Unavailable):
    """The queue is full.

    Attributes:
        retry_after: seconds until what waits now will be done, by the measured rate.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; retry after {retry_after} s")
        self.retry_after = retry_after


class Ended(Unavailable):
    """The server is about to end, or its model's thread has died."""


class Expired(Exception):
    """The deadline passed before the model was free."""


@dataclasses.dataclass(eq=False)
class Job:
    """A request that waits for the model.

    Attributes:
        work: answers several jobs in one call, in their order.
        key: jobs with the same `work` and key are answered together.
        items: how many items it brings.
        asked: what `work` reads.
        deadline: on the clock of the engine.
        deliver: called once, in the model's thread, with the answer or an exception.
        gone: whether nobody waits for the answer any more.
        queued: when the queue took it.
    """

    work: Callable[[Sequence["Job"]], Sequence[Any]]
    key: Hashable
    items: int
    asked: Any
    deadline: float
    deliver: Callable[[Any], None]
    gone: Callable[[], bool] = lambda: False
    queued: float = 0.0


@dataclasses.dataclass(frozen=True)
class Batch:
    """What was done in one go, for metrics.

    Attributes:
        items: how many items it had.
        waited: seconds that each of its jobs waited.
        seconds: that it took.
    """

    items: int
    waited: tuple[float, ...]
    seconds: float


class Engine:
    """A thread that works off jobs.

    Args:
        most: items of a batch.
        queue: items that may wait.
        clock: seconds, never backwards.
        observe: is told of each batch, in the model's thread.
    """

    def __init__(
        self,
        most: int,
        queue: int,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[Batch], None] = lambda batch: None,
    ):
        self._most, self._queue, self._clock, self._observe = most, queue, clock, observe
        self._jobs: deque[Job] = deque()
        self._waiting, self._rate = 0, 0.0
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.beat = clock()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            Busy: if the queue is full; nothing is changed.
            Ended: if the engine is closed, or its thread has died.
        """
        with self._changed:
            if self._closing or not self.alive:
                raise Ended("the server is about to end")
            if self._waiting + job.items > self._queue:
                raise Busy(self._retry_after(job.items))
            job.queued = self._clock()
            self._jobs.append(job)
            self._waiting += job.items
            self._changed.notify()

    def close(self, seconds: float) -> bool:
        """Accept no more jobs, finish those that wait; return whether the thread ended in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return self._waiting

    def _retry_after(self, items: int) -> int:
        """Return the seconds in which the queue will have room for so many items."""
        over = self._waiting + items - self._queue
        seconds = over / self._rate if self._rate else 1.0
        return min(_LONGEST, max(1, math.ceil(seconds)))

    def _run(self) -> None:
        try:
            while (jobs := self._next()) is not None:
                if jobs:
                    self._work(jobs)
        finally:
            with self._changed:
                self._closing = True
                left, self._waiting = list(self._jobs), 0
                self._jobs.clear()
            for job in left:
                _deliver(job, Ended(_DEAD))

    def _next(self) -> list[Job] | None:
        """Wait for jobs; return those that go together, none after a beat, None at the end."""
        with self._changed:
            self.beat = self._clock()
            if not self._jobs:
                if self._closing:
                    return None
                self._changed.wait(BEAT)
                self.beat = self._clock()
            return self._take()

    def _take(self) -> list[Job]:
        """Take the oldest job and those behind it that can be answered together with it."""
        taken: list[Job] = []
        kept: deque[Job] = deque()
        room = self._most
        for job in self._jobs:
            fits = not taken or (
                job.work == taken[0].work and job.key == taken[0].key and job.items <= room
            )
            if fits and (room or not taken):
                taken.append(job)
                room -= job.items
            else:
                kept.append(job)
        self._jobs = kept
        self._waiting -= sum(job.items for job in taken)
        return taken

    def _work(self, taken: list[Job]) -> None:
        """Answer the jobs for which somebody still waits."""
        begin, jobs = self._clock(), []
        for job in taken:
            if job.gone():
                continue
            if begin >= job.deadline:
                _deliver(job, Expired("the deadline passed while the request waited"))
            else:
                jobs.append(job)
        if not jobs:
            return
        try:
            answers = _answers(jobs)
        except BaseException:
            for job in jobs:
                _deliver(job, Ended(_DEAD))
            raise
        for job, answer in zip(jobs, answers, strict=True):
            _deliver(job, answer)
        end = self._clock()
        items = sum(job.items for job in jobs)
        rate = items / max(end - begin, 1e-6)
        self._rate = (1 - _SMOOTH) * self._rate + _SMOOTH * rate if self._rate else rate
        self._observe(Batch(items, tuple(begin - job.queued for job in jobs), end - begin))


def _answers(jobs: list[Job]) -> Sequence[Any]:
    """Return the answer of each job, or the exception that it alone caused."""
    try:
        return jobs[0].work(jobs)
    except Exception as error:  # the thread outlives any request
        if len(jobs) == 1:
            log.debug("a request failed", exc_info=True)
            return [error]
    return [_answers([job])[0] for job in jobs]


def _deliver(job: Job, answer: Any) -> None:
    """Deliver an answer; who waits may have left at this moment."""
    try:
        job.deliver(answer)
    except Exception:
        log.debug("an answer could not be delivered", exc_info=True)
