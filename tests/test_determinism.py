"""Two runs are one, to the bit, whatever the cores, the compile cache and the loader's threads."""

import contextlib
import os
from collections.abc import Iterator

import minute
import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes cannot be held to some cores"
)
FROZEN = [
    f"--{stage}.optimizer.{kind}-encoder=frozen"
    for stage in ("pretrain", "finetune")
    for kind in ("image", "text")
]
SCANN = ["--miniature.labels=400", "--miniature.points=600", "--prepare.max-images=4"]
SCANN += ["--pretrain.batch-size=100", "--finetune.batch-size=100", *FROZEN]


@contextlib.contextmanager
def held_to(cores: int) -> Iterator[None]:
    """Processes started meanwhile see so many cores."""
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
        (1, 0, True),
        pytest.param(1, 1, False, marks=pytest.mark.slow),
        pytest.param(2, 1, True, marks=pytest.mark.slow),
        pytest.param(2, 2, False, marks=pytest.mark.slow),
    ],
)
def test_a_second_run_is_the_first(minute_run, compiled, tmp_path, cores, threads, warm):
    with held_to(cores):
        cache = compiled if warm else tmp_path / "cold"
        minute.finish(tmp_path / "run", *loading(threads), cache=cache)
    minute.assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_index_is_scann_s_is_the_same_on_one_core_and_on_two(compiled, tmp_path):
    for cores in (2, 1):
        with held_to(cores):
            minute.finish(tmp_path / str(cores), *SCANN, *loading(cores), cache=compiled)
    assert (tmp_path / "2" / "retrieve" / "index" / "tree").is_dir()
    minute.assert_same(tmp_path / "1", tmp_path / "2")
    one, two = (
        {
            path.name: path.read_bytes()
            for path in (tmp_path / run / "retrieve/index/tree").iterdir()
        }
        for run in ("1", "2")
    )
    assert one == two
