"""Starts a run, kills it at random moments, and starts it again until it is done."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import minute

SECONDS = {
    "prepare": 0.3,
    "pretrain": 4.0,
    "retrieve": 0.3,
    "initialize": 0.4,
    "finetune": 3.0,
    "evaluate": 1.5,
}
"""About how long the stages of the minute experiment take once they are compiled."""


def kill_and_finish(
    workdir: Path, stages: Sequence[str], *flags: str, cache: Path, seed: int
) -> list[tuple[str, float]]:
    """Kills a run at a random moment in each of the stages, then lets it finish.

    A stage that is done before its signal comes is put back and tried again with a shorter delay.

    Args:
        workdir: the run's folder.
        stages: where to kill, in their order; a stage may stand there several times.
        flags: of the experiment.
        cache: where compiled programs are kept.
        seed: of the moments.

    Returns:
        The stage and the delay, in seconds after it began, of each kill.
    """
    rng = random.Random(seed)
    before = workdir.with_name(workdir.name + "-before")
    workdir.mkdir(exist_ok=True)
    kills = []
    for stage in stages:
        longest = SECONDS[stage]
        shutil.copytree(workdir, before)
        while True:
            delay = rng.uniform(0, longest)
            if kill_at(workdir, stage, delay, *flags, cache=cache) == -signal.SIGKILL:
                break
            longest /= 2
            shutil.rmtree(workdir)
            shutil.copytree(before, workdir)
        kills.append((stage, delay))
        shutil.rmtree(before)
    minute.finish(workdir, *flags, cache=cache)
    return kills


def kill_at(
    workdir: Path,
    stage: str,
    delay: float,
    *flags: str,
    cache: Path,
    number: signal.Signals = signal.SIGKILL,
) -> int | None:
    """Sends a run a signal so many seconds after it took up a stage, and returns its exit code.

    None if the stage was done, or the run at its end, before that.
    """
    done = workdir / stage / "done.json"
    process = minute.start(workdir, *flags, cache=cache)
    try:
        _read_until(stage, process)
        end = time.monotonic() + delay
        while time.monotonic() < end:
            if done.exists():
                return None
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=120)
        return None if done.exists() else process.returncode
    finally:
        process.kill()
        process.communicate()


def _read_until(stage: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.split()[1:] == ["INFO", stage]:
            return
    raise AssertionError(f"the run ended before {stage}: {''.join(said)}")
