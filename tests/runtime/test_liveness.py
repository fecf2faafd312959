"""How a process learns from the coordination service that another ended, and ends itself."""

import json
import queue

import pytest

from mufin_jax.runtime.distributed import liveness, processes
from mufin_jax.runtime.distributed.liveness import Aborts, End, Peers
from mufin_jax.runtime.distributed.processes import Processes

# A thread that "leaves" the process ends by SystemExit, which pytest reports.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Service:
    """A fake of JAX's coordination service: incarnations of live processes, and notes by key."""

    def __init__(self, *lives, notes=()):
        self.lives, self.asked, self.notes = lives, 0, dict(notes)
        self.barriers = []

    def get_live_nodes(self, process_ids):
        self.asked += 1
        return self.lives[min(self.asked, len(self.lives)) - 1]

    def key_value_set(self, key, value, allow_overwrite=False):
        self.notes[key] = value

    def key_value_dir_get(self, key):
        return [(k, value) for k, value in list(self.notes.items()) if k.startswith(f"{key}/")]

    def blocking_key_value_get(self, key, timeout_in_ms):
        return self.notes[key]

    def wait_at_barrier(self, barrier_id, timeout_in_ms):
        self.barriers.append(barrier_id)


class Silent(Aborts):
    def dump_stacks(self):
        """Print nothing."""


@pytest.fixture
def join(monkeypatch):
    """Start `Peers` with a service; their exit code and last line go to a queue."""
    made, ends, lines = [], queue.Queue(), []

    def leave(code):
        ends.put((code, lines[-1] if lines else ""))
        raise SystemExit  # ends only the thread

    for name, seconds in {"_POLL": 0.01, "_GRACE": 0.05, "_LAST": 0.05}.items():
        monkeypatch.setattr(liveness, name, seconds)
    monkeypatch.setattr(liveness, "leave", leave)
    monkeypatch.setattr(liveness, "say", lines.append)

    def join(service, count):
        made.append(Peers(service, 0, count, Processes().stop, 5.0, Silent()))
        return ends

    yield join
    for peers in made:
        peers.part()
        for thread in peers._threads:
            thread.join()


def test_a_process_that_restarted_in_place_counts_as_lost(join):
    ends = join(Service({0: 1, 1: 7}, {0: 1, 1: 8}), 2)
    code, line = ends.get(timeout=30)
    assert code == 75
    assert line == "error: process 1 of 2 was lost; run the same command on all hosts to resume"


def test_processes_that_keep_their_incarnation_are_not_lost(join):
    service = Service({0: 1, 1: 7})
    ends = join(service, 2)
    while service.asked < 5:
        with pytest.raises(queue.Empty):
            ends.get(timeout=0.01)


def test_the_line_names_the_process_that_ended_first_not_one_that_followed(join):
    notes = {
        "mufin/ended/1": json.dumps(End(2, "process 2 ended: row 7: no title", own=False)),
        "mufin/ended/2": json.dumps(End(2, "error: row 7: no title", own=True)),
    }
    ends = join(Service({0: 1, 1: 2, 2: 3}, notes=notes), 3)
    assert ends.get(timeout=30) == (2, "process 2 ended: row 7: no title")


def test_each_object_of_processes_has_its_own_state():
    one, other = Processes(), Processes()
    one.stop.set()
    one.unsaved.set()
    one.aborts.failed_collective = "Traceback"
    assert not other.stop.is_set() and not other.unsaved.is_set()
    assert other.aborts.failed_collective == "" and not processes.THIS_RUN.stop.is_set()
    assert not other.several() and other.is_main() and other.alone()


def test_in_once_process_0_works_alone_between_two_barriers(monkeypatch):
    class Two(Processes):
        def several(self):
            return True

    service, two, seen = Service({0: 1, 1: 2}), Two(), []
    monkeypatch.setattr(processes, "_client", lambda: service)

    def make():
        two.barrier("inside")  # returns at once
        seen.append((two.alone(), len(service.barriers)))

    two.once("a file", make)
    assert seen == [(True, 1)] and not two.alone()
    assert service.barriers == ["mufin 1 a file", "mufin 2 a file"]
    assert two.decide(lambda: [1, None]) == [1, None]
