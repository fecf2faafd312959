"""A run that is killed and started again ends where an uninterrupted one does, to the bit."""

import os

import minute
import pytest
from driver import kill_after_first_step, kill_and_finish

from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.runtime.storage.checkpoint import Checkpoints

pytestmark = pytest.mark.apart


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on a quiet machine, five on a busy one
def test_a_run_killed_in_three_stages_resumes_to_the_same_bits(minute_run, compiled, tmp_path):
    stages = ["prepare", "pretrain", "finetune"]  # the test below kills in all of them
    kills = kill_and_finish(tmp_path / "run", stages, cache=compiled, seed=1)
    assert [stage for stage, _ in kills] == stages
    minute.assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.rotates("kills", every=9)
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(2, 11))
def test_a_run_killed_twenty_two_times_resumes_to_the_same_bits(
    minute_run, compiled, tmp_path, seed
):
    times = {"prepare": 3, "pretrain": 5, "retrieve": 3, "initialize": 3, "finetune": 4}
    stages = [stage for stage in minute.STAGES for _ in range(times.get(stage, 2))]
    kills = kill_and_finish(tmp_path / "run", stages, cache=compiled, seed=seed)
    assert [stage for stage, _ in kills] == stages
    minute.assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.rotates("last checkpoint", every=2)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_run_that_trains_for_two_seconds_saves_a_later_checkpoint(
    minute_run, compiled, tmp_path, stage
):
    workdir = minute.begun(minute_run, tmp_path / "run", stage)
    fit = f"--{stage}.fit"
    flags = [f"--stage={stage}", f"--{stage}.epochs=2000"]
    # The intervals that users have; only the losses are written as they come.
    flags += [
        f"{fit}.checkpoint-every=1000000",
        f"{fit}.checkpoint-seconds=60",
        f"{fit}.log-every=1",
    ]
    checkpoints, before = Checkpoints(workdir / stage / "checkpoints"), 0
    for _ in range(3):
        kill_after_first_step(workdir, stage, 2.0, *flags, cache=compiled)
        step = checkpoints.latest()
        assert step is not None and step > before
        before = step


@pytest.mark.slow
@pytest.mark.rotates("scann", every=2)
@pytest.mark.timeout(900)
def test_a_killed_run_with_scann_and_frozen_encoders_resumes_to_the_same_bits(compiled, tmp_path):
    """Its score has parts: the stage select is killed, too."""
    flags = [
        "--miniature.labels=400", "--miniature.points=600", "--prepare.max-images=4",
        *minute.PARTS,
        "--pretrain.batch-size=100", "--finetune.batch-size=100",
        *(f"--{stage}.optimizer.{kind}-encoder=frozen" for stage in ("pretrain", "finetune")
          for kind in ("image", "text")),
    ]  # fmt: skip
    minute.finish(tmp_path / "whole", *flags, cache=compiled)
    assert (tmp_path / "whole" / "retrieve" / "index" / "tree").is_dir()
    stages = [name for name in STAGES if name in {*minute.STAGES, "select"}]
    kill_and_finish(
        tmp_path / "run",
        [stage for stage in stages for _ in range(3 if stage == "select" else 2)],
        *flags,
        cache=compiled,
        seed=4,
    )
    minute.assert_same(tmp_path / "run", tmp_path / "whole")


def cost(process):
    """Wait for a process; return its exit code, its stderr and its CPU time."""
    with process.stdout, process.stderr:
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, errors, usage.ru_utime + usage.ru_stime


@pytest.mark.rotates("interrupted", every=2)
def test_a_second_run_on_a_folder_ends_with_73_and_names_the_first(compiled, tmp_path):
    first = minute.start(tmp_path / "run", cache=compiled)
    try:
        assert first.stderr is not None
        first.stderr.readline()  # the stage prepare has begun
        code, errors, seconds = cost(minute.start(tmp_path / "run", cache=compiled))
        assert code == 73, errors
        assert errors.startswith("error: ") and f"process {first.pid} on " in errors
        assert errors.count("\n") == 1
        # Importing the package is nearly all of its work, as with an unknown flag.
        code, _, least = cost(minute.start(tmp_path / "other", "--unknown", cache=compiled))
        assert code == 2 and seconds < 2 * least
    finally:
        first.kill()
        first.communicate()
