"""A signal in any phase ends the run within 15 s with code 75, and the same command resumes."""

import importlib
import json
import operator
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import minute
import numpy as np
import pytest
from driver import SECONDS, Stopwatch, signal_at

from mufin_jax.runtime.storage.checkpoint import Checkpoints

HALTING = str(Path(minute.__file__).with_name("halting.py"))
WITHIN = 15
"""Seconds from the signal to the end of the process."""
SCANN = [
    "--miniature.labels=400", "--miniature.points=600", "--prepare.max-images=4",
    "--pretrain.epochs=1", "--pretrain.batch-size=100",
]  # fmt: skip


class Phase(NamedTuple):
    """Some work of a stage: the call to halt at, and the name in the line about the stop."""

    stage: str
    halt: str
    where: str


PHASES = {
    "drawing": Phase("prepare", "mufin_jax.data.synthetic.draw:draw_picture", "prepare"),
    "reading": Phase("prepare", "mufin_jax.data.readers.repository:decode", "prepare"),
    "resizing": Phase("prepare", "mufin_jax.data.preparation.resize_one:encode_jpeg", "prepare"),
    "tokenizing": Phase("prepare", "mufin_jax.data.tokenizer:_clean", "prepare"),
    "records": Phase("prepare", "mufin_jax.data.preparation.spool:JpegSpool.read", "prepare"),
    "checksums": Phase("prepare", "mufin_jax.data.manifest:checksums", "the checksums"),
    "checking": Phase("pretrain", "mufin_jax.data.manifest:checksums", "the checksums"),
    "refreshing": Phase("pretrain", "mufin_jax.model.embed_side:describe", "describe"),
    "training": Phase("pretrain", "mufin_jax.training.follower:Follower.__call__", "pretrain"),
    "embedding": Phase("retrieve", "mufin_jax.model.embed_side:embed", "embed"),
    "retrieving": Phase("retrieve", "mufin_jax.retrieval.build:shortlist_points", "embed"),
    "training IV": Phase("finetune", "mufin_jax.training.follower:Follower.__call__", "finetune"),
    "label side": Phase("finetune", "mufin_jax.prediction.build:embed_once", "embed"),
    "evaluating": Phase("evaluate", "mufin_jax.prediction.ranker:allowed_points", "evaluate"),
    "floors": Phase("evaluate", "mufin_jax.baselines.untrained:tfidf", "the floors"),
    "reporting": Phase("report", "mufin_jax.report.tables:by_category", "report"),
    "index": Phase("retrieve", "mufin_jax.retrieval.build:check_unit", "the index"),
}
pytestmark = pytest.mark.apart
DEFAULT = {"resizing", "training"}
TOGETHER = ["resizing", "refreshing", "training", "index", "evaluating"]


@pytest.mark.parametrize("name", PHASES)
def test_the_call_that_a_phase_halts_at_exists(name):
    module, _, path = PHASES[name].halt.partition(":")
    assert callable(operator.attrgetter(path)(importlib.import_module(module)))


def phases_and_signals():
    """Yield every phase with both signals; SIGINT, with the same handler, is rarely tried."""
    for name in PHASES:
        slow = [pytest.mark.slow, pytest.mark.rotates("stops", every=3)]
        usual = [pytest.mark.rotates("usual stops", every=2)]
        yield pytest.param(name, signal.SIGTERM, id=name, marks=usual if name in DEFAULT else slow)
    for name in PHASES:
        slow = [pytest.mark.slow, pytest.mark.rotates("interrupts", every=len(PHASES))]
        yield pytest.param(name, signal.SIGINT, id=f"{name} INT", marks=slow)


def here(process: subprocess.Popen[str]) -> None:
    """Wait until a process has reached the call that it halts at."""
    assert process.stdout is not None
    for printed in process.stdout:
        if printed == "here\n":
            return
    assert process.stderr is not None
    raise AssertionError(f"it did not come there: {process.stderr.read()}")


def check_stopped(workdir: Path, phase: Phase, errors: str, together: bool = False) -> None:
    """Assert that the phase itself was stopped, and that training saved its last step.

    Several processes agree on a stop a step later, and before it an epoch may end: its state is
    saved, and the stop comes while the data are described again. Process 0 may report the other's
    end.
    """
    assert not (workdir / phase.stage / "done.json").exists()
    last = errors.splitlines()[-1]
    if together:
        last = last.replace("process 1 ended:", "error:")
    if together and "Follower" in phase.halt and last.startswith("error: describe: stopped by"):
        lines = (workdir / phase.stage / "metrics.jsonl").read_text().splitlines()
        done = json.loads(lines[-1])["step"]
        assert Checkpoints(workdir / phase.stage / "checkpoints").latest() == done
        return
    assert last.startswith(f"error: {phase.where}: stopped by a signal"), errors
    if "Follower" in phase.halt:
        step = Checkpoints(workdir / phase.stage / "checkpoints").latest()
        assert f"after step {step} of " in last and "which is saved" in last


@pytest.fixture(scope="module")
def scann_run(tmp_path_factory, compiled) -> Path:
    """The folder of a run with enough labels for ScaNN, before its index is built."""
    workdir = tmp_path_factory.mktemp("scann") / "run"
    for stage in ("prepare", "pretrain"):
        minute.finish(workdir, f"--stage={stage}", *SCANN, cache=compiled)
    return workdir


def prepared_for(request, name: str, workdir: Path) -> tuple[Path, list[str]]:
    """Return a run's folder in which a phase comes next, and the flags to run the phase."""
    phase = PHASES[name]
    finished = request.getfixturevalue("scann_run" if name == "index" else "minute_run")
    flags = [f"--stage={phase.stage}", *(SCANN if name == "index" else [])]
    return minute.begun(finished, workdir, phase.stage), flags


@pytest.mark.parametrize(("name", "number"), list(phases_and_signals()))
def test_a_signal_in_any_phase_ends_the_run_and_the_same_command_resumes(
    name, number, request, compiled, tmp_path
):
    phase = PHASES[name]
    workdir, flags = prepared_for(request, name, tmp_path / "run")
    process = minute.start(workdir, f"--halt={phase.halt}", *flags, cache=compiled, script=HALTING)
    here(process)
    process.send_signal(number)
    watch = Stopwatch(process)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 75, errors
    assert watch.seconds() < WITHIN
    check_stopped(workdir, phase, errors)
    if number == signal.SIGTERM and name != "index":
        minute.finish(workdir, *flags, cache=compiled)
        minute.assert_same(workdir, request.getfixturevalue("minute_run"), phase.stage)


@pytest.mark.slow
@pytest.mark.rotates("stops together", every=5)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("name", TOGETHER)
def test_a_signal_to_one_of_two_processes_ends_both(name, asked, request, compiled, tmp_path):
    phase = PHASES[name]
    workdir, flags = prepared_for(request, name, tmp_path / "run")
    processes = minute.start_together(
        workdir, f"--halt={phase.halt}", *flags, cache=compiled, devices=1, script=HALTING
    )
    here(processes[0])
    processes[asked].send_signal(signal.SIGTERM)
    watch = Stopwatch(*processes)
    found = minute.ends(processes)
    assert [code for code, _ in found] == [75, 75], found
    assert watch.seconds() < WITHIN
    check_stopped(workdir, phase, found[0][1], together=True)


@pytest.mark.slow
@pytest.mark.rotates("stops at random", every=3)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_signals_at_random_moments_lose_at_most_a_step(minute_run, compiled, tmp_path, seed):
    rng, workdir = np.random.default_rng(seed), tmp_path / "run"
    for stage in minute.STAGES:
        delay, number = rng.uniform(0, SECONDS[stage]), rng.choice([signal.SIGTERM, signal.SIGINT])
        code, seconds = signal_at(workdir, stage, delay, cache=compiled, number=number)
        assert code in (None, 75) and seconds < WITHIN
    minute.finish(workdir, cache=compiled)
    minute.assert_same(workdir, minute_run)
