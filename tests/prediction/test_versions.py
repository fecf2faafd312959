"""Versions of a catalogue are whole or absent, whenever their writer is killed."""

import json
import os
import subprocess
import sys

import filelock
import numpy as np
import pytest

from mufin_jax.data.strings import Strings
from mufin_jax.prediction.segment import Changes, Segment
from mufin_jax.prediction.versions import KEPT, Versions
from mufin_jax.runtime.errors import Held, InputError

DIM = 4


def changes(number):
    """Return changes from which their number can be read, in every file."""
    count = number % 5 + 1
    ids = Strings.pack(f"{number}-{i}" for i in range(count))
    z = np.full((count, DIM), number, np.float32)
    starts = np.zeros(count + 1, np.int64)
    added = Segment(ids, ids, z, np.arange(count + 1), z, starts[:0], starts)
    return Changes(added, np.array([number], np.int32))


def number_of(found):
    """Return the number from which `changes` made all of this; fail if it is a mixture."""
    number = int(found.removed[0])
    wanted = changes(number)
    assert list(found.added.ids) == list(found.added.titles) == list(wanted.added.ids)
    for name in ("z", "bags", "offsets"):
        np.testing.assert_array_equal(getattr(found.added, name), getattr(wanted.added, name))
    return number


def read(folder):
    return number_of(Changes.load(folder, DIM, 1 << 30, 1))


def write(versions, number):
    with versions.hold():
        return versions.save(changes(number).save, versions.current())


@pytest.fixture
def versions(tmp_path):
    return Versions(tmp_path / "catalogue", "a model")


def test_nothing_is_written_before_the_first_change(versions):
    assert versions.current() == 0 and versions.load_current(read, -1) == (0, -1)
    assert not versions.folder.exists()


def test_the_last_versions_are_kept_and_rolled_back_to(versions):
    for number in range(7):
        assert write(versions, number) == number + 1
        assert versions.load_current(read, -1) == (number + 1, number)
    left = sorted(int(path.name) for path in (versions.folder / "versions").iterdir())
    assert left == [7 - KEPT, *range(8 - KEPT, 8)]
    with versions.hold():
        assert [versions.roll_back() for _ in range(KEPT)] == [6, 5, 4]
        with pytest.raises(InputError, match="no version before 4; the 3 before the newest"):
            versions.roll_back()
    assert versions.load_current(read, -1) == (4, 3)
    assert write(versions, 9) == 8 and versions.load_current(read, -1) == (8, 9)
    assert sorted(os.listdir(versions.folder / "versions")) == ["4", "8"]


def test_the_first_version_is_rolled_back_to_the_labels_of_training(versions):
    write(versions, 3)
    with versions.hold():
        assert versions.roll_back() == 0
    assert versions.load_current(read, -1) == (0, -1)


def test_one_writer_at_a_time(versions):
    write(versions, 1)
    with (
        filelock.FileLock(versions.folder / "lock"),
        pytest.raises(Held, match="another process changes this catalogue"),
        versions.hold(),
    ):
        pass


def test_a_version_of_other_training_points_is_rejected_and_an_older_one_read(tmp_path):
    """Versions number the training points; older ones do not tell of which data."""
    older = Versions(tmp_path / "catalogue", "a model")
    write(older, 1)
    of_points = Versions(tmp_path / "catalogue", "a model", "points")
    assert of_points.load_current(read, -1) == (1, 1)
    write(of_points, 2)
    assert of_points.load_current(read, -1) == older.load_current(read, -1) == (2, 2)
    with pytest.raises(InputError, match=r"labels by the training points of another model; delete"):
        Versions(tmp_path / "catalogue", "a model", "others").load_current(read, -1)


def test_a_version_that_names_a_point_that_is_not_there_is_rejected(tmp_path):
    z, ends = np.ones((1, DIM), np.float32), np.array([0, 1])
    label = Segment(Strings.pack("a"), Strings.pack("a"), z, ends, z, np.array([7]), ends)
    Changes(label, np.zeros(0, np.int32)).save(tmp_path)
    assert len(Changes.load(tmp_path, DIM, 3, 8).added) == 1
    with pytest.raises(ValueError, match="training points up to 7"):
        Changes.load(tmp_path, DIM, 3, 7)


@pytest.mark.parametrize("name", ["added/w.npy", "removed.npy", "version.json", "../../current"])
def test_a_damaged_version_is_named_with_what_to_do(versions, name):
    write(versions, 1)
    path = versions.folder / "versions" / "1" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged.*; delete .*catalogue, and add and remove"):
        versions.load_current(read, -1)


def test_a_reader_moves_on_when_its_version_was_dropped_meanwhile(versions):
    write(versions, 1)
    first = True

    def slow(folder):
        nonlocal first
        if first:
            first = False
            for number in range(2, 8):
                write(versions, number)
            raise InputError("gone")
        return read(folder)

    assert versions.load_current(slow, -1) == (7, 7)


# The processes that are killed: forks of one that has imported nothing but this.
PROGRAM = """
import json, os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_versions as t
from mufin_jax.runtime.storage import files

folder, seed, kills = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
versions = t.Versions(folder, "a model")

def die_at(point):
    seen = 0
    def counted(call):
        def inner(*arguments, **more):
            nonlocal seen
            seen += 1
            if seen == point:
                os._exit(9)
            return call(*arguments, **more)
        return inner
    for name in ("replace", "fsync", "mkdir", "rmdir", "unlink", "open"):
        setattr(os, name, counted(getattr(os, name)))

def in_child(work):
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def at_every_point():
    number, point, ended = 1, 0, None
    while ended != 0:
        point += 1
        def work():
            die_at(point)
            t.write(versions, number)
        ended = os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1])
        found = versions.load_current(t.read, 0)[1]
        assert ended in (0, 9) and found in (number - 1, number), (point, ended, found)
        number = found + 1
    return point

def at_random():
    draw, last = random.Random(seed), 0
    for _ in range(kills):
        reads, writes = os.pipe()
        def work():
            for number in range(last + 1, last + 1000):
                t.write(versions, number)
                os.write(writes, b"x")
        child = in_child(work)
        os.close(writes)
        time.sleep(draw.uniform(0.001, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = last + len(os.read(reads, 100000))
        os.close(reads)
        found = versions.load_current(t.read, 0)[1]
        assert found in (done, done + 1), (found, done)
        last = found
    return last

print(json.dumps(at_random() if kills else at_every_point()))
"""


def killed(folder, kills, seed=0):
    """Run the program and return what it prints: killed points, or versions written."""
    place = os.path.dirname(__file__)
    command = [sys.executable, "-c", PROGRAM, place, str(folder), str(seed), str(kills)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(found.stdout)


def test_a_writer_killed_at_any_step_leaves_the_version_before_or_after(tmp_path):
    assert killed(tmp_path / "catalogue", 0) > 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_writers_killed_at_random_leave_the_version_before_or_after(tmp_path):
    assert killed(tmp_path / "catalogue", 100) > 20


def test_the_points_of_a_label_stay_its_own_when_others_come_go_and_are_saved(tmp_path):
    """Each label goes with the points of its own number, and as many."""

    def some(*numbers):
        z = np.full((len(numbers), DIM), 1, np.float32)
        ids = Strings.pack(map(str, numbers))
        points = np.repeat(np.array(numbers, np.int64), numbers)
        ends = np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64)
        return Segment(ids, ids, z, np.arange(len(numbers) + 1), z, points, ends)

    left = some(2, 3, 1).followed_by(some(4)).only(np.array([False, True, False, True]))
    left.save(tmp_path / "added")
    found = Segment.load(tmp_path / "added", DIM)
    assert list(found.ids) == ["3", "4"]
    wanted = np.zeros((5, 2))
    wanted[3, 0], wanted[4, 1] = 3, 4
    np.testing.assert_array_equal(found.pairs(5).toarray(), wanted)
