"""What a run logs: lines for people, metrics for programs."""

import io
import json
import logging
import sys

import numpy as np
import pytest

from mufin_jax.runtime.logs import MetricsWriter, progress, set_up_logging, show_lines


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
    """Restore the root logger at the end."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
    set_up_logging()
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)


def test_processes_other_than_0_log_only_warnings_with_their_number(own_handlers, capsys):
    set_up_logging(process=3)
    logging.getLogger("mufin_jax.training.loop").info("resuming at step %d", 5)
    logging.getLogger("mufin_jax.training.loop").warning("a file is damaged")
    assert capsys.readouterr().err.partition(" ")[2] == "WARNING process 3: a file is damaged\n"


def test_a_session_without_logging_sees_the_lines_and_one_with_logging_keeps_its_own(capsys):
    root, line = logging.getLogger(), "pretrain: already finished"
    root.handlers[:] = []
    show_lines()
    show_lines()
    logging.getLogger("mufin_jax.pipeline.runner").info(line)
    assert capsys.readouterr().err.endswith(f"INFO {line}\n") and len(root.handlers) == 1
    root.handlers[:] = [mine := logging.NullHandler()]
    logging.getLogger("mufin_jax").setLevel(logging.NOTSET)
    show_lines()
    assert root.handlers == [mine] and logging.getLogger("mufin_jax").level == logging.NOTSET


@pytest.mark.parametrize("notebook", [True, False])
def test_a_progress_bar_is_a_widget_in_a_notebook_only(monkeypatch, notebook):
    import tqdm.auto

    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", logging)
    widget = type("Widget", (tqdm.std.tqdm,), {})
    monkeypatch.setattr(tqdm.auto, "tqdm", widget)
    with progress(iterable=range(2), desc="titles", file=io.StringIO()) as bar:
        assert isinstance(bar, widget) == notebook and list(bar) == [0, 1]


def test_log_lines_are_plain_off_a_terminal_and_libraries_are_quiet(capsys):
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        set_up_logging()
        set_up_logging()  # replaces, not repeats
        logging.getLogger("mufin_jax.training.loop").info("resuming at step %d", 5)
        logging.getLogger("jax._src.compiler").info("chatter")
        logging.getLogger("absl").error("a thread failed, and the exception is on its way")
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
    errors = capsys.readouterr().err
    assert errors.endswith("INFO resuming at step 5\n") and errors.count("\n") == 1
    assert "\x1b" not in errors and "\r" not in errors
