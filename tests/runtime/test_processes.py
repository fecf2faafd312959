"""Several processes run as one: same results, a common end, and none waits for a dead one."""

import json
import os
import signal
import subprocess
import sys
import time

import minute
import numpy as np
import pytest
from places import SUPPORT

from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.storage.files import load_json

TOY = str(SUPPORT.joinpath("hosts_toy.py"))
QUICK = "--hosts.lost-timeout=5"
SHARDED = ("--retrieve.index.backend=sharded",)


def start_toy(workdir, *flags, cache, **more):
    return minute.start_together(workdir, *flags, cache=cache, script=TOY, **more)


def finish_toy(workdir, *flags, cache, **more):
    found = minute.ends(start_toy(workdir, *flags, cache=cache, **more))
    assert [code for code, _ in found] == [0] * len(found), found
    assert not any("still listening" in errors for _, errors in found), found
    return np.load(workdir / "table.npy")


def wait_for(process, line):
    """Read a process's output up to a line."""
    assert process.stdout is not None
    for printed in process.stdout:
        if printed == line + "\n":
            return
    raise AssertionError(f"no {line}: {process.stderr.read()}")


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines]


@pytest.fixture(scope="module")
def through(tmp_path_factory, compiled):
    """The folder of an uninterrupted toy run of two processes with four devices each."""
    workdir = tmp_path_factory.mktemp("through") / "run"
    finish_toy(workdir, cache=compiled)
    return workdir


def test_two_processes_of_four_devices_learn_what_one_of_eight_learns(through, compiled, tmp_path):
    one = finish_toy(tmp_path, cache=compiled, processes=1, devices=8)
    # Sums over devices run in another order: some units in the last place of numbers near one.
    np.testing.assert_allclose(np.load(through / "table.npy"), one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses(through / "toy"), losses(tmp_path / "toy"), rtol=1e-5)
    assert load_json(through / "run.json")["processes"] == 2


def test_only_process_0_writes_and_prints(through, compiled):
    main, other = start_toy(through, cache=compiled)
    outputs = [process.communicate(timeout=60) for process in (main, other)]
    assert "finished" in outputs[0][0] and "finished" not in outputs[1][0]
    assert "resuming at step 20" in outputs[0][1] and outputs[1][1] == ""
    assert [step for step, _ in losses(through / "toy")] == list(range(1, 21))
    assert len(list((through / "toy" / "tensorboard").iterdir())) == 1
    assert not (through / "owner.json").exists()


def check_stacks(errors, own):
    """Assert that a process that lost another prints its threads' stacks before its last line.

    `own`: JAX's runtime may print something, too, which we cannot prevent if it lost process 0.
    """
    lines = errors.splitlines()
    assert any("in fit" in line and "training/loop.py" in line for line in lines), errors
    if not own:
        told = (
            "Thread 0x",
            "Current thread",
            "Traceback",
            " ",
            "jax.",
            "Exception",
            "The above",
            "ValueError",
        )
        assert all(line.startswith(told) for line in lines[:-1] if line), errors


@pytest.mark.rotates("two processes", every=2)
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_others_and_the_same_command_resumes(
    through, compiled, tmp_path, victim
):
    processes = start_toy(tmp_path, "--step-seconds=0.3", QUICK, cache=compiled)
    for _ in range(8):
        wait_for(processes[victim], "step")
    processes[victim].kill()
    killed = time.monotonic()
    code, errors = minute.ends([processes[1 - victim]])[0]
    assert time.monotonic() - killed < 5 + 15  # --hosts.lost-timeout, and what is promised
    assert code == 75
    line = f"error: process {victim} of 2 was lost; run the same command on all hosts to resume"
    assert errors.splitlines()[-1] == line
    check_stacks(errors, own=not victim)
    minute.ends([processes[victim]])
    assert Checkpoints(tmp_path / "toy" / "checkpoints").latest() == 5
    table = finish_toy(tmp_path, cache=compiled)
    np.testing.assert_array_equal(table, np.load(through / "table.npy"))
    assert losses(tmp_path / "toy") == losses(through / "toy")


@pytest.mark.slow
@pytest.mark.rotates("stopped process", every=2)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_suspended_process_ends_the_others_and_itself_once_it_continues(
    compiled, tmp_path, victim
):
    processes = start_toy(tmp_path, "--step-seconds=0.3", QUICK, cache=compiled)
    for _ in range(8):
        wait_for(processes[victim], "step")
    processes[victim].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        code, errors = minute.ends([processes[1 - victim]])[0]
        assert time.monotonic() - stopped < 5 + 15  # --hosts.lost-timeout, and what is promised
        assert code == 75
        assert f"error: process {victim} of 2 was lost" in errors.splitlines()[-1]
        check_stacks(errors, own=not victim)
    finally:
        processes[victim].send_signal(signal.SIGCONT)
    ((code, errors),) = minute.ends([processes[victim]], 45)
    assert code == 75, errors


@pytest.mark.rotates("two processes", every=2)
@pytest.mark.parametrize(
    "asked",
    [[1], pytest.param([0], marks=pytest.mark.slow), pytest.param([0, 1], marks=pytest.mark.slow)],
)
def test_a_signal_stops_all_processes_after_the_same_step(through, compiled, tmp_path, asked):
    processes = start_toy(tmp_path, "--step-seconds=0.3", "--every=100", cache=compiled)
    for process in processes:
        wait_for(process, "step")
    for process in asked:
        processes[process].send_signal(signal.SIGTERM)
    found = minute.ends(processes)
    assert [code for code, _ in found] == [75, 75], found
    step = Checkpoints(tmp_path / "toy" / "checkpoints").latest()
    assert step in range(2, 10)
    assert sum(f"after step {step} of 20, which is saved" in errors for _, errors in found) == 1
    finish_toy(tmp_path, cache=compiled)
    np.testing.assert_array_equal(np.load(tmp_path / "table.npy"), np.load(through / "table.npy"))


@pytest.mark.slow
def test_a_signal_stops_the_run_while_the_others_wait_for_process_0(compiled, tmp_path):
    main, other = start_toy(tmp_path, "--fault=busy", cache=compiled)
    wait_for(main, "busy")
    other.send_signal(signal.SIGTERM)
    (main_code, main_errors), (code, errors) = minute.ends([main, other], 30)
    assert (main_code, code) == (75, 75)
    assert main_errors == "error: prepare: stopped by a signal; run the same command to resume"
    assert errors.splitlines()[-1].startswith("process 0 ended: prepare: stopped by a signal")


@pytest.mark.slow
def test_the_others_end_if_process_0_dies_while_they_wait_for_it(compiled, tmp_path):
    main, other = start_toy(tmp_path, "--fault=busy", QUICK, cache=compiled)
    wait_for(main, "busy")
    main.kill()
    code, errors = minute.ends([other], 45)[0]
    assert code == 75 and "process 0 of 2 was lost" in errors.splitlines()[-1]
    minute.ends([main])


@pytest.mark.rotates("two processes", every=2)
def test_an_error_of_one_process_ends_all_with_its_code_and_a_line_each(compiled, tmp_path):
    found = minute.ends(start_toy(tmp_path, "--fault=input", cache=compiled), 45)
    assert found == [(2, "process 1 ended: row 7: no title"), (2, "error: row 7: no title")]


@pytest.mark.rotates("two processes", every=2)
def test_an_error_of_all_processes_is_printed_once(compiled, tmp_path):
    found = minute.ends(start_toy(tmp_path, "--fault=all-input", cache=compiled), 45)
    assert found == [(2, "error: row 7: no title"), (2, "")]


@pytest.mark.slow
def test_a_bug_of_one_process_has_its_traceback_there_and_a_line_elsewhere(compiled, tmp_path):
    main, other = minute.ends(start_toy(tmp_path, "--fault=bug", cache=compiled), 45)
    assert main == (1, "process 1 ended: ZeroDivisionError: of rows")
    assert other[0] == 1 and other[1].startswith("Traceback")


@pytest.mark.slow
def test_a_folder_that_another_run_holds_ends_all_processes(through, compiled):
    from mufin_jax.runtime.run_folder import Run

    with Run(through):
        (code, errors), (other_code, other_errors) = minute.ends(start_toy(through, cache=compiled))
    assert (code, other_code) == (73, 73)
    assert errors.startswith(f"error: {through} belongs to process {os.getpid()}")
    assert other_errors.startswith(f"process 0 ended: {through} belongs to")


@pytest.mark.slow
def test_one_process_with_two_devices_resumes_a_run_of_two_processes(through, compiled, tmp_path):
    processes = start_toy(tmp_path, "--step-seconds=0.3", cache=compiled)
    for _ in range(3):
        wait_for(processes[0], "step")
    processes[0].terminate()
    assert [code for code, _ in minute.ends(processes)] == [75, 75]
    table = finish_toy(tmp_path, cache=compiled, processes=1, devices=2)
    np.testing.assert_allclose(table, np.load(through / "table.npy"), rtol=1e-5, atol=1e-6)


def test_a_missing_coordinator_is_one_line_after_the_timeout(compiled, tmp_path):
    flags = ["--hosts.coordinator=localhost:9", "--hosts.processes=2", "--hosts.process=1"]
    process = subprocess.run(
        [sys.executable, TOY, f"--workdir={tmp_path}", *flags, "--hosts.start-timeout=2"],
        env=minute.environment(compiled), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 75
    assert process.stderr.count("\n") == 1
    assert (
        "did not all start within 2 s (process 1 of 2, coordinator localhost:9)" in process.stderr
    )


# The whole of a run, by all stages of the minute experiment.


def _same_metrics(one, other):
    """Sums over devices and processes run in another order, which may swap two labels with nearly
    equal scores: of 24 points, one is 4.2% of P@1, and 0.8% of P@5."""
    for name in ("P@5", "nDCG@5", "R@10", "R@100"):
        assert abs(one[name] - other[name]) < 1.0, name
    assert abs(one["AUC"] - other["AUC"]) < 0.01


def finish_minute(workdir, *flags, cache):
    processes = minute.start_together(workdir, *minute.PARTS, *SHARDED, *flags, cache=cache)
    found = minute.ends(processes, 600)
    assert [code for code, _ in found] == [0, 0], found
    return minute.metrics(workdir)


@pytest.fixture(scope="module")
def minute_through(tmp_path_factory, compiled):
    """The folder of an uninterrupted minute run of two processes with four devices each.

    Its score has all parts, whose indices are split over the devices.
    """
    workdir = tmp_path_factory.mktemp("minute-through") / "run"
    finish_minute(workdir, cache=compiled)
    return workdir


@pytest.mark.slow
def test_a_run_of_two_processes_gives_the_metrics_of_one(minute_through, compiled, tmp_path):
    flags = (*minute.PARTS, *SHARDED)
    minute.finish(tmp_path / "run", *flags, cache=compiled, devices=8)
    one, other = (minute.metrics(at) for at in (tmp_path / "run", minute_through))
    _same_metrics(one, other)
    assert one["rows"].keys() == other["rows"].keys() >= {"part v", "part sg", "part t"}
    for name in one["rows"]:
        _same_metrics(one["rows"][name], other["rows"][name])
    fits = [load_json(at / "select" / "fits.json") for at in (tmp_path / "run", minute_through)]
    for name in fits[0]:
        first, second = (fit[name] for fit in fits)
        assert abs(first["objective"] - second["objective"]) < 1.0, name
        assert first["alone"] == pytest.approx(second["alone"], abs=1.0)
    for stage in ("pretrain", "finetune"):
        one, other = losses(tmp_path / "run" / stage), losses(minute_through / stage)
        np.testing.assert_allclose(one, other, rtol=1e-4)


def _interrupt(workdir, cache, stage, how):
    """Start a run of two processes, and do something to them in the middle of a stage."""
    processes = minute.start_together(workdir, *minute.PARTS, *SHARDED, QUICK, cache=cache)
    until = time.monotonic() + 300
    while not (workdir / stage / "metrics.jsonl").exists():
        assert time.monotonic() < until and all(one.poll() is None for one in processes)
        time.sleep(0.05)
    how(processes[1])
    return minute.ends(processes, 300)


@pytest.mark.slow
@pytest.mark.rotates("lost process", every=2)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_run_that_lost_a_process_resumes_to_the_bit(minute_through, compiled, tmp_path, stage):
    (code, errors), _ = _interrupt(tmp_path, compiled, stage, subprocess.Popen.kill)
    assert code == 75
    assert errors.splitlines()[-1].startswith(
        "error: process 1 of 2 was lost; run the same command"
    )
    finish_minute(tmp_path, cache=compiled)
    assert minute.metrics(tmp_path) == minute.metrics(minute_through)
    one, other = minute.results(tmp_path), minute.results(minute_through)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)


@pytest.mark.slow
def test_a_run_resumes_after_a_signal_to_one_of_its_processes(minute_through, compiled, tmp_path):
    found = _interrupt(tmp_path, compiled, "finetune", subprocess.Popen.terminate)
    assert [code for code, _ in found] == [75, 75], found
    finish_minute(tmp_path, cache=compiled)
    assert minute.metrics(tmp_path) == minute.metrics(minute_through)
