"""A run that is killed and started again ends where an uninterrupted one does, to the bit."""

import signal
from pathlib import Path

import minute
import numpy as np
import pytest
from driver import SECONDS, kill_and_finish, kill_at

from mufin_jax.experiment import STAGES


def assert_same(one: Path, other: Path) -> None:
    """Weights, tables, checkpoints, shortlists, rankings and metrics are those of the other."""
    found, wanted = minute.results(one), minute.results(other)
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)
    assert minute.metrics(one) == minute.metrics(other)
    for stage in ("pretrain", "finetune"):
        one_log, other_log = ((at / stage / "metrics.jsonl").read_text() for at in (one, other))
        assert one_log == other_log


def test_a_run_killed_in_every_stage_ends_the_same(minute_run, compiled, tmp_path):
    kills = kill_and_finish(tmp_path / "run", STAGES, cache=compiled, seed=1)
    assert [stage for stage, _ in kills] == list(STAGES)
    assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_run_killed_twenty_times_ends_the_same(minute_run, compiled, tmp_path, seed):
    times = {"prepare": 3, "pretrain": 5, "retrieve": 3, "initialize": 3, "finetune": 4}
    stages = [stage for stage in SECONDS for _ in range(times.get(stage, 2))]
    kills = kill_and_finish(tmp_path / "run", stages, cache=compiled, seed=seed)
    assert len(kills) == 20, kills
    assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_index_is_scann_and_whose_encoders_are_frozen_ends_the_same(compiled, tmp_path):
    flags = [
        "--miniature.labels=400", "--miniature.points=600", "--prepare.max-images=4",
        "--pretrain.batch-size=100", "--finetune.batch-size=100",
        *(f"--{stage}.optimizer.{kind}-encoder=frozen" for stage in ("pretrain", "finetune")
          for kind in ("image", "text")),
    ]  # fmt: skip
    minute.finish(tmp_path / "whole", *flags, cache=compiled)
    assert (tmp_path / "whole" / "retrieve" / "index" / "tree").is_dir()
    kill_and_finish(
        tmp_path / "run", sorted(STAGES * 2, key=STAGES.index), *flags, cache=compiled, seed=4
    )
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_gentle_stop_in_training_ends_with_75_and_resumes_to_the_same(
    minute_run, compiled, tmp_path
):
    code = kill_at(tmp_path / "run", "pretrain", 0.5, cache=compiled, number=signal.SIGTERM)
    assert code == 75
    assert list((tmp_path / "run" / "pretrain" / "checkpoints").iterdir())
    minute.finish(tmp_path / "run", "--stage=pretrain", cache=compiled)
    found, wanted = minute.results(tmp_path / "run"), minute.results(minute_run)
    assert len(found) > 100
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], name)


def test_a_second_run_on_a_folder_ends_with_73_and_names_the_first(compiled, tmp_path):
    first = minute.start(tmp_path / "run", cache=compiled)
    try:
        assert first.stderr is not None
        first.stderr.readline()  # the stage prepare has begun
        second = minute.start(tmp_path / "run", cache=compiled)
        _, said = second.communicate()
        assert second.returncode == 73, said
        assert said.startswith("error: ") and f"process {first.pid} on " in said
        assert said.count("\n") == 1
    finally:
        first.kill()
        first.communicate()
