"""Compiled programs kept between runs of the tests: complete, of this machine, of limited size."""

import os
import subprocess
import sys

import minute
import programs
import pytest
from jax._src import compilation_cache

WHOLE = compilation_cache.compress_executable(bytes(range(256)) * 99)


@pytest.fixture
def folders(tmp_path):
    """A store of one program, and the folder that a process began with it."""
    store, folder = tmp_path / "tests" / "fit", tmp_path / "own"
    store.mkdir(parents=True)
    (store / "a-cache").write_bytes(WHOLE)
    programs.take(store, folder)
    return store, folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_process_begins_with_the_kept_programs_and_adds_its_own(folders):
    store, folder = folders
    assert (folder / "a-cache").read_bytes() == WHOLE
    (folder / "b-cache").write_bytes(WHOLE)
    programs.give(folder, store)
    assert names(store) == ["a-cache", "b-cache"]


@pytest.mark.parametrize("torn", [WHOLE[:99], b""])
def test_an_incomplete_program_is_not_kept(folders, torn):
    store, folder = folders
    (folder / "b-cache").write_bytes(torn)
    programs.give(folder, store)
    assert names(store) == ["a-cache"]


def test_a_missing_store_is_made(folders, tmp_path):
    programs.take(tmp_path / "none", tmp_path / "empty")
    assert names(tmp_path / "empty") == []
    programs.give(folders[1], tmp_path / "new" / "fit")
    assert names(tmp_path / "new" / "fit") == ["a-cache"]


def test_the_oldest_programs_of_all_versions_are_dropped_first(folders, tmp_path):
    store, folder = folders
    other = store.with_name("another-version")
    other.mkdir()
    for path, age in ((store / "a-cache", 1), (other / "old-cache", 9), (other / "new-cache", 2)):
        path.write_bytes(WHOLE)
        os.utime(path, (path.stat().st_mtime - 100 * age,) * 2)
    (store / "notes").write_bytes(WHOLE)  # not a program: stays
    programs.give(folder, store, most=2 * len(WHOLE))
    assert names(store) == ["a-cache", "notes"] and names(other) == ["new-cache"]


def test_the_store_can_be_named_and_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("MUFIN_TEST_PROGRAMS", str(tmp_path))
    first = programs.kept()
    assert first is not None and first.parent == tmp_path
    monkeypatch.delenv("MUFIN_TEST_PROGRAMS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs.kept() == tmp_path / "mufin_jax" / "tests" / first.name
    monkeypatch.setattr(programs.jax, "__version__", "0.0.1")
    assert programs.kept() != tmp_path / "mufin_jax" / "tests" / first.name
    monkeypatch.setenv("MUFIN_TEST_PROGRAMS", "")
    assert programs.kept() is None


def test_a_process_finds_the_programs_that_another_compiled_in_another_folder(tmp_path):
    code = (
        "import jax\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))\n"
        "jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).block_until_ready()\n"
        "print(sum(event.endswith('/cache_hits') for event in hits))"
    )
    found = []
    for name in ("one", "other"):
        programs.take(tmp_path / "store", tmp_path / name)
        environ = minute.environment(tmp_path / name)
        command = [sys.executable, "-c", code]
        found.append(int(subprocess.run(command, env=environ, capture_output=True).stdout))
        programs.give(tmp_path / name, tmp_path / "store")
    assert found[0] == 0 < found[1] == len(names(tmp_path / "store"))
