"""A run's folder is held by one run, remembers how it was made, and ends with the right code."""

import dataclasses
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mufin_jax import runs
from mufin_jax.ending import main_guard
from mufin_jax.errors import DiskError, Held, InputError, Stopped
from mufin_jax.files import damage, disk_errors, manifest, read_json, replacing, write_json
from mufin_jax.logs import MetricsWriter, set_up_logging
from mufin_jax.runs import Run


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def next_line(stream):
    assert stream is not None
    return stream.readline()


_HOLD = """
import pathlib, sys, time
from mufin_jax.runs import Run
with Run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_folder_names_its_holder_and_is_free_after_kill(tmp_path):
    with python(_HOLD, tmp_path / "run") as holder:
        assert next_line(holder.stdout) == "held\n"
        start = time.monotonic()
        with (
            pytest.raises(Held, match=f"process {holder.pid} on ") as refusal,
            Run(tmp_path / "run"),
        ):
            pass
        assert time.monotonic() - start < 5 and "\n" not in str(refusal.value)
        holder.kill()
        holder.wait()
        with Run(tmp_path / "run") as run:
            assert read_json(run.workdir / "owner.json")["pid"] == os.getpid()
        with Run(tmp_path / "run"):
            pass


def test_a_folder_that_cannot_be_written_is_a_disk_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(DiskError, match=r"new: Read-only file system \(.* MB free\)"),
        Run(tmp_path / "new"),
    ):
        pass


def test_a_stage_is_finished_only_once_marked(tmp_path):
    with Run(tmp_path) as run:
        folder = run.stage_folder("pretrain")
        (folder / "model").mkdir()
        assert not run.finished("pretrain") and not run.finished("retrieve")
        run.mark_finished("pretrain", {"steps": 7})
        assert run.finished("pretrain")
        assert read_json(folder / "done.json")["steps"] == 7


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 2e-4
    layers: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Settings:
    optimizer: Inner = dataclasses.field(default_factory=Inner)
    epochs: int = 5
    data: Path | None = Path("there")


def test_a_folder_is_gone_on_with_under_the_same_settings_and_refused_under_others(tmp_path):
    with Run(tmp_path) as run:
        run.guard("pretrain", Settings())
        run.guard("pretrain", Settings())
        run.guard("finetune", Settings(epochs=6))
        with pytest.raises(InputError) as refusal:
            run.guard("pretrain", Settings(Inner(rate=0.1), epochs=6))
    message = str(refusal.value)
    assert "epochs: 5 -> 6; optimizer.rate: 0.0002 -> 0.1" in message
    assert "layers" not in message and "--workdir" in message and "\n" not in message


def test_fields_that_came_or_went_differ(tmp_path):
    with Run(tmp_path) as run:
        run.guard("a", {"old": 1, "same": {}})
        with pytest.raises(InputError, match="new: absent -> None; old: 1 -> absent"):
            run.guard("a", {"new": None, "same": {}})


def test_run_json_gathers_facts_and_adds_up_the_seconds_of_interrupted_stages(tmp_path):
    for _ in range(2):
        with Run(tmp_path) as run, pytest.raises(Stopped), run.timed("pretrain"):
            run.record(seed=3, config={"rate": np.float32(0.5)})
            time.sleep(0.05)
            raise Stopped("now")
    facts = read_json(tmp_path / "run.json")
    assert facts["seed"] == 3 and facts["config"] == {"rate": 0.5}
    assert 0.1 <= facts["seconds"]["pretrain"] < 2


def test_the_environment_names_versions_and_devices():
    found = runs.environment()
    assert {"python", "jax", "flax", "numpy"} <= found["versions"].keys()
    assert len(found["devices"]) == 8 and found["devices"][0].startswith("cpu:0")


def test_json_that_cannot_be_written_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": np.arange(2), "y": Path("z"), "loss": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == {"x": [0, 1], "y": "z", "loss": None}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "{", ""])
def test_json_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: "):
        read_json(tmp_path / "a.json")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "array.npy"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_wrong_name_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "absent" / "file").write_bytes(b"")


def test_a_manifest_tells_whether_a_folder_changed(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"abc")
    listed = manifest(tmp_path)
    assert list(listed) == ["deep/a"] and listed["deep/a"][0] == 3
    assert damage(tmp_path, listed) is None
    (tmp_path / "deep" / "a").write_bytes(b"abd")
    assert damage(tmp_path, listed) == "deep/a is damaged (wrong SHA-256)"


_STEPS = """
import sys, time
from mufin_jax.errors import Stopped
from mufin_jax.ending import main_guard
from mufin_jax.runs import stop_requested
def main():
    print("ready", flush=True)
    while not (stop_requested() and sys.argv[1] == "polls"):
        time.sleep(0.01)
    raise Stopped("step 5 is saved; run the same command to go on")
sys.exit(main_guard(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_polls_with_code_75(number):
    with python(_STEPS, "polls") as process:
        assert next_line(process.stdout) == "ready\n"
        process.send_signal(number)
        errors = process.communicate(timeout=10)[1]
    assert process.returncode == 75
    assert (
        errors.splitlines()[-1].startswith("error: step 5 is saved") and "Traceback" not in errors
    )


def test_a_second_signal_ends_a_run_at_once():
    with python(_STEPS, "does not poll") as process:
        assert next_line(process.stdout) == "ready\n"
        process.send_signal(signal.SIGINT)
        assert next_line(process.stderr) == "\n" and "once more" in next_line(process.stderr)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


def test_a_request_to_stop_ends_with_the_run_it_was_made_to():
    before = signal.getsignal(signal.SIGTERM)
    with runs.signals_stop_gently():
        os.kill(os.getpid(), signal.SIGTERM)
        assert runs.stop_requested()
        with pytest.raises(Stopped, match="retrieve"):
            runs.check_stop("retrieve")
    assert not runs.stop_requested() and signal.getsignal(signal.SIGTERM) is before


def test_off_the_main_thread_signals_are_left_alone():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main_guard(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def fail(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.txt, row 3: no id\nwanted"), 2, "error: a.txt, row 3: no id wanted\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device", "/no/x"), 74, "error: /no/x: No space"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line_and_a_code(error, code, line, capsys):
    assert main_guard(fail(error)) == code
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == (1 if line else 0)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main_guard(lambda: 1 / 0)


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from mufin_jax.ending import main_guard\n" \
        "sys.exit(main_guard(lambda: [print('x' * 999) for _ in range(9999)]))"  # fmt: skip
    with python(code) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 141 and process.stderr.read() == ""


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_has_each_step_once_in_its_metrics(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.resume(0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1 / step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 15, "lo')  # as a kill leaves it
    again = MetricsWriter(tmp_path)
    again.resume(20)
    for step in (30, 40):
        again.write(step, {"loss": np.float32(-step)})
    again.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40]
    assert lines(tmp_path)[2] == {"step": 30, "loss": -30.0}
    assert any("tfevents" in path.name for path in (tmp_path / "tensorboard").iterdir())


def test_metrics_that_are_not_finite_are_null(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": float("inf")})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "loss": None}]


@pytest.fixture
def own_handlers():
    """Leaves the root logger as it was."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
    set_up_logging()
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)


def test_of_several_processes_the_others_say_warnings_and_who_they_are(own_handlers, capsys):
    set_up_logging(process=3)
    logging.getLogger("mufin_jax.training").info("resuming at step %d", 5)
    logging.getLogger("mufin_jax.training").warning("a file is damaged")
    assert capsys.readouterr().err.partition(" ")[2] == "WARNING process 3: a file is damaged\n"


def test_log_lines_are_plain_off_a_terminal_and_libraries_are_quiet(capsys):
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        set_up_logging()
        set_up_logging()  # replaces, not repeats
        logging.getLogger("mufin_jax.training").info("resuming at step %d", 5)
        logging.getLogger("jax._src.compiler").info("chatter")
        logging.getLogger("absl").error("a thread failed, and the exception is on its way")
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
    said = capsys.readouterr().err
    assert said.endswith("INFO resuming at step 5\n") and said.count("\n") == 1
    assert "\x1b" not in said and "\r" not in said
