"""Claims about the process that builds an index: the same index, and gone when it is not wanted."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from entries import EVERYTHING, catalogue, needs_scann, unit

from mufin_jax.errors import Stopped
from mufin_jax.label_entries import LabelEntries
from mufin_jax.retrieval import LabelIndex
from mufin_jax.scann_tree import FILES, build_apart

pytestmark = needs_scann


def never():
    """Nobody asks for a stop."""


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Vectors whose tree takes many seconds to build."""
    path = tmp_path_factory.mktemp("long") / "vectors.npy"
    np.save(path, unit(np.random.default_rng(0).normal(size=(150_000, 64))))
    return path


def children():
    """The processes that this one has started and that still live."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return [line for line in listed.splitlines() if "scann_tree" in line and " Z" not in line]


def test_another_process_builds_the_same_tree(tmp_path):
    vectors, labels, _ = catalogue()
    here = LabelIndex.over(LabelEntries.group(vectors, labels, 400), EVERYTHING)
    here.save(tmp_path / "here")
    build_apart(tmp_path / "here" / "entries.npy", tmp_path / "tree", 2, never)
    assert {path.name for path in (tmp_path / "tree").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "tree" / name).read_bytes() == (
            tmp_path / "here" / "tree" / name
        ).read_bytes(), name


def test_a_stop_ends_the_build_at_once_and_leaves_nothing(long, tmp_path):
    start, asked = time.monotonic(), 0.0

    def stop():
        nonlocal asked
        if time.monotonic() - start > 4:
            asked = asked or time.monotonic()
            raise Stopped("asked")

    with pytest.raises(Stopped):
        build_apart(long, tmp_path / "tree", 2, stop)
    assert time.monotonic() - asked < 2 and not (tmp_path / "tree").exists()
    assert not children()


def test_a_build_ends_with_the_process_that_wants_it(long, tmp_path):
    script = (
        "import sys; from pathlib import Path; from mufin_jax.scann_tree import build_apart; "
        "build_apart(Path(sys.argv[1]), Path(sys.argv[2]), 2, lambda: print('.', flush=True))"
    )
    command = [sys.executable, "-c", script, str(long), str(tmp_path / "tree")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        for _ in range(10):
            assert parent.stdout.readline() == ".\n"
        builder = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True
        ).stdout.split()
        assert len(builder) == 1
        parent.kill()
    for _ in range(100):
        if subprocess.run(["ps", "-p", builder[0]], capture_output=True).returncode:
            return
        time.sleep(0.1)
    pytest.fail("the builder outlives its parent")


def test_what_the_builder_says_when_it_fails_is_passed_on(tmp_path):
    (tmp_path / "vectors.npy").write_bytes(b"no npy file")
    with pytest.raises(
        RuntimeError, match=r"(?s)building the index ended with code 1: .*ValueError"
    ):
        build_apart(tmp_path / "vectors.npy", tmp_path / "tree", 1, never)
    assert not (tmp_path / "tree").exists()
