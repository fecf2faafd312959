"""Two runs are bit-identical with any number of cores, compile cache and loader threads."""

import contextlib
import os
from collections.abc import Iterator

import minute
import pytest

from mufin_jax.runtime import machine
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json

pytestmark = pytest.mark.apart
FROZEN = [
    f"--{stage}.optimizer.{kind}-encoder=frozen"
    for stage in ("pretrain", "finetune")
    for kind in ("image", "text")
]
SCANN = ["--miniature.labels=400", "--miniature.points=600", "--prepare.max-images=4"]
SCANN += ["--pretrain.batch-size=100", "--finetune.batch-size=100", *FROZEN]

SLOW = [pytest.mark.slow, pytest.mark.rotates("cores and threads", every=3)]


@contextlib.contextmanager
def held_to(cores: int) -> Iterator[None]:
    """Let processes that start in this context see so many cores."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be held to some cores")
    before = os.sched_getaffinity(0)
    if len(before) < cores:
        pytest.skip(f"wanted {cores} cores, found {len(before)}")
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def loading(threads: int) -> list[str]:
    return [f"--{stage}.fit.threads={threads}" for stage in ("pretrain", "finetune")]


@pytest.mark.parametrize(
    ("cores", "threads", "warm"),
    [
        pytest.param(1, 0, True, marks=pytest.mark.slow),
        pytest.param(1, 1, False, marks=SLOW),
        pytest.param(2, 1, True, marks=SLOW),
        pytest.param(2, 2, False, marks=SLOW),
    ],
)
def test_a_second_run_equals_the_first(minute_run, compiled, tmp_path, cores, threads, warm):
    began_with = load_json(minute_run / "run.json")["threads"]
    cache = compiled if warm else tmp_path / "cold"
    with held_to(cores):
        flags = [*loading(threads), f"--threads={began_with}"]
        minute.finish(tmp_path / "run", *flags, cache=cache)
    minute.assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.rotates("scann", every=2)
@pytest.mark.timeout(900)
def test_a_run_with_scann_is_the_same_on_one_core_and_on_two(compiled, tmp_path):
    for cores in (2, 1):  # each with its default, two threads
        with held_to(cores):
            minute.finish(tmp_path / str(cores), *SCANN, *loading(cores), cache=compiled)
    assert (tmp_path / "2" / "retrieve" / "index" / "tree").is_dir()
    minute.assert_same(tmp_path / "1", tmp_path / "2")
    trees = (sorted((tmp_path / run / "retrieve/index/tree").iterdir()) for run in ("1", "2"))
    for one, two in zip(*trees, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.parametrize(
    ("wanted", "named", "before", "used"),
    [(3, "5", 7, 3), (None, "5", 7, 5), (None, None, 7, 7), (None, None, None, 2)],
)
def test_the_number_of_threads_is_a_flag_or_a_variable_or_recorded_or_two(
    monkeypatch, wanted, named, before, used
):
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setenv("PJRT_NPROC", named or "")
    machine.set_threads(wanted, before)
    assert machine.threads() == used


def test_zero_threads_are_rejected(monkeypatch):
    monkeypatch.setenv("PJRT_NPROC", "")
    with pytest.raises(InputError, match="--threads=0: expected a whole number >= 1"):
        machine.set_threads(0, None)


def test_a_run_resumes_with_the_threads_it_began_with(compiled, tmp_path):
    run = tmp_path / "run"
    for flags in (["--threads=3"], []):
        minute.finish(run, "--stage=prepare", *flags, cache=compiled)
        assert load_json(run / "run.json")["threads"] == 3
