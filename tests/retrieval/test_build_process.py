"""The process that builds an index: it builds the same index, and ends when it must."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from entries import EVERYTHING, catalogue, needs_scann, unit

from mufin_jax.retrieval import scann
from mufin_jax.retrieval.build import complete_index
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.scann import FILES, build_apart
from mufin_jax.retrieval.searcher import TreeSearcher
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import Stopped
from mufin_jax.runtime.storage.npy import whole_npy

PROC = Path("/proc")
pytestmark = [
    needs_scann,
    pytest.mark.skipif(not PROC.is_dir(), reason="processes are looked for in /proc"),
]


def never():
    """Ask for no stop."""


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Vectors whose tree takes many seconds to build."""
    path = tmp_path_factory.mktemp("long") / "vectors.npy"
    np.save(path, unit(np.random.default_rng(0).normal(size=(150_000, 64))))
    return path


def builders(of):
    """Return the processes that build from a file and have not ended."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            dead = (folder / "stat").read_text().rpartition(") ")[2].startswith("Z")
        except OSError:  # the process has ended meanwhile
            continue
        if b"mufin_jax.retrieval.scann" in arguments and str(of).encode() in arguments and not dead:
            found.append(int(folder.name))
    return found


def seconds_of(pid):
    """Return the CPU time that a process has used."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    """Return the CPU time of the children of this process that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_another_process_builds_the_same_tree(tmp_path):
    vectors, labels, _ = catalogue()
    LabelIndex.build_grouped(LabelEntries.group(vectors, labels, 400), EVERYTHING).save(tmp_path)
    build_apart(tmp_path / "entries.npy", tmp_path / "apart", 2, never)
    assert {path.name for path in (tmp_path / "apart").iterdir()} == FILES
    for name in FILES:
        here, there = (tmp_path / folder / name for folder in ("tree", "apart"))
        assert here.read_bytes() == there.read_bytes(), name


def test_a_stop_ends_the_build_at_once_and_leaves_nothing(long, tmp_path):
    asked, before = [], children_seconds()

    def stop():
        if found := builders(long):  # the build has begun
            asked.append((sum(map(seconds_of, found)), time.process_time()))
            raise Stopped("asked")

    with pytest.raises(Stopped):
        build_apart(long, tmp_path / "tree", 2, stop)
    (builder, own), *_ = asked
    assert children_seconds() - before - builder < 2 and time.process_time() - own < 2
    assert not builders(long) and not (tmp_path / "tree").exists()


def test_a_build_ends_with_the_process_that_started_it(long, tmp_path):
    script = (
        "import sys; from pathlib import Path; from mufin_jax.retrieval.scann import build_apart; "
        "build_apart(Path(sys.argv[1]), Path(sys.argv[2]), 2, lambda: print('.', flush=True))"
    )
    command = [sys.executable, "-c", script, str(long), str(tmp_path / "tree")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        while not builders(long):
            assert parent.stdout.readline() == ".\n"
        parent.kill()
    for _ in range(200):
        if not builders(long):
            return
        time.sleep(0.1)
    pytest.fail("the builder outlives its parent")


def test_the_output_of_a_failed_builder_is_passed_on(tmp_path):
    (tmp_path / "vectors.npy").write_bytes(b"no npy file")
    with pytest.raises(RuntimeError, match=r"(?s)the index ended with code 1: .*ValueError"):
        build_apart(tmp_path / "vectors.npy", tmp_path / "tree", 1, never)
    assert not (tmp_path / "tree").exists()


@pytest.fixture
def written(tmp_path):
    """The offsets of an index that has its entries and is not yet built."""
    vectors, labels, _ = catalogue()
    entries = LabelEntries.group(vectors, labels, 400)
    with whole_npy(tmp_path / "index" / "entries.npy", (12,)) as file:
        file.append(entries.vectors)
    return entries.offsets


def test_module_2_leaves_nothing_of_a_tree_that_a_signal_stopped(
    written, tmp_path, one_device, monkeypatch
):
    begin = scann.build_apart

    def signalled(*arguments):
        processes.THIS_RUN.stop.set()
        begin(*arguments)

    monkeypatch.setattr(scann, "build_apart", signalled)
    try:
        with pytest.raises(Stopped):
            complete_index(tmp_path / "index", written, EVERYTHING, one_device)
    finally:
        processes.THIS_RUN.stop.clear()
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["entries.npy"]
    monkeypatch.undo()
    complete_index(tmp_path / "index", written, EVERYTHING, one_device)
    index = LabelIndex.load(tmp_path / "index")
    assert isinstance(index.searcher, TreeSearcher)


@pytest.mark.parametrize("leftover", ["tree.tmp/scann_config.pb", "index.json.tmp"])
def test_files_that_a_kill_left_are_not_part_of_an_index(tmp_path, leftover):
    path = tmp_path / leftover
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"half")
    vectors, labels, _ = catalogue()
    LabelIndex.build(vectors, labels).save(tmp_path)
    assert len(LabelIndex.load(tmp_path).entries.vectors) == len(vectors)
