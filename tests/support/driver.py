"""Start a run, kill it at random moments, and start it again until it is finished."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import minute

from mufin_jax.runtime.storage.checkpoint import Checkpoints

SECONDS = {
    "prepare": 0.3,
    "pretrain": 4.0,
    "retrieve": 0.3,
    "initialize": 0.4,
    "finetune": 3.0,
    "select": 2.0,
    "evaluate": 1.5,
    "report": 0.2,
}
"""Approximate seconds of each stage of the minute experiment, when its programs are compiled."""


def kill_and_finish(
    workdir: Path, stages: Sequence[str], *flags: str, cache: Path, seed: int
) -> list[tuple[str, float]]:
    """Kill a run at a random moment in each of the stages, then let it finish.

    If a stage finishes before its signal comes, it is tried again with a shorter delay.

    Args:
        workdir: The run's folder.
        stages: Stages to kill the run in, in order; a stage may occur several times.
        flags: Flags of the experiment.
        cache: The folder of compiled programs.
        seed: Seed of the random moments.

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
            code, _ = signal_at(workdir, stage, delay, *flags, cache=cache)
            if code == -signal.SIGKILL:
                break
            longest /= 2
            shutil.rmtree(workdir)
            shutil.copytree(before, workdir)
        kills.append((stage, delay))
        shutil.rmtree(before)
    minute.finish(workdir, *flags, cache=cache)
    return kills


def signal_at(
    workdir: Path,
    stage: str,
    delay: float,
    *flags: str,
    cache: Path,
    number: signal.Signals = signal.SIGKILL,
) -> tuple[int | None, float]:
    """Send a run a signal, `delay` seconds after it began a stage.

    Returns:
        The exit code, or None if the stage was finished before; and the seconds until the end.
    """
    done = workdir / stage / "done.json"
    process = minute.start(workdir, *flags, cache=cache)
    try:
        _read_until(stage, process)
        end = time.monotonic() + delay
        while time.monotonic() < end:
            if done.exists():
                return None, 0.0
            time.sleep(0.002)
        process.send_signal(number)
        watch = Stopwatch(process)
        process.communicate(timeout=120)
        return None if done.exists() else process.returncode, watch.seconds()
    finally:
        process.kill()
        process.communicate()


class Stopwatch:
    """Measures how long processes take to end; start it before any of them was waited for.

    On a busy machine, their own CPU time counts instead, if they end within 30 s.
    """

    def __init__(self, *processes: subprocess.Popen[str]):
        self._begun = time.monotonic()
        self._computed = _of_children() + sum(_cpu_seconds(one.pid) for one in processes)

    def seconds(self) -> float:
        """Return the seconds since the start; call it when all processes have ended."""
        passed = time.monotonic() - self._begun
        computed = _of_children() - self._computed
        return min(passed, computed) if passed < 30 and _STAT.exists() else passed


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def kill_after_first_step(
    workdir: Path, stage: str, seconds: float, *flags: str, cache: Path
) -> None:
    """Start a run, and kill it some seconds after it wrote the first loss of a stage.

    On a busy machine it lives longer, until it has used as many seconds of CPU time.
    """
    before = Checkpoints(workdir / stage / "checkpoints").latest() or 0
    process = minute.start(workdir, *flags, cache=cache)
    try:
        _read_until(stage, process)
        begun = time.time()
        while _last_step(workdir / stage / "metrics.jsonl", since=begun) <= before:
            assert process.poll() is None, "the run ended"
            time.sleep(0.01)
        computed = _cpu_seconds(process.pid)
        time.sleep(seconds)
        while _cpu_seconds(process.pid) < computed + seconds:
            assert process.poll() is None, "the run ended"
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()


def _last_step(losses: Path, since: float) -> int:
    """Return the last step in a file of losses; 0 if it was not changed `since` then.

    A resumed run first removes the steps after its last checkpoint.
    """
    if not losses.exists() or losses.stat().st_mtime < since:
        return 0
    lines = losses.read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


_STAT = Path("/proc/self/stat")


def _cpu_seconds(process: int) -> float:
    """Return the CPU time of a process; without /proc, the time of day."""
    if not _STAT.exists():
        return time.monotonic()
    stat = Path(f"/proc/{process}/stat")
    ticks = stat.read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _read_until(stage: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.split()[1:] == ["INFO", stage]:
            return
    raise AssertionError(f"the run ended before {stage}: {''.join(lines)}")
