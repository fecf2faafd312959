"""What a run says: lines for people, metrics as JSON lines and TensorBoard events."""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from tqdm import tqdm

from mufin_jax import hosts
from mufin_jax.files import replacing


class _AboveBars(logging.Handler):
    """Has another handler write its lines above progress bars instead of through them."""

    def __init__(self, handler: logging.Handler):
        super().__init__()
        self.handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            self.handler.emit(record)


def set_up_logging(level: int = logging.INFO, process: int | None = None) -> None:
    """Sends log lines to stderr: in colour on a terminal, else plain with the time.

    Of several processes the main one, 0, is heard; the others, who would say the same, are heard
    from warnings on, with their number.

    Libraries are heard from warnings on; Orbax's background threads not at all, because their
    errors reach us as exceptions, and would be printed up to ten times.
    """
    import absl.logging  # sets up the logger "absl" when imported, so it comes before our setting

    if process:
        level = logging.WARNING
    if sys.stderr.isatty() and not process:
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=False)
    else:
        handler = logging.StreamHandler()
        who = f"process {process}: " if process else ""
        form = f"%(asctime)s %(levelname)s {who}%(message)s"
        handler.setFormatter(logging.Formatter(form, "%X"))
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if isinstance(one, _AboveBars)]:
        root.removeHandler(earlier)
    root.addHandler(_AboveBars(handler))
    for name in ("mufin_jax", "experiments"):
        logging.getLogger(name).setLevel(level)
    absl.logging.set_verbosity(absl.logging.FATAL)


def progress(**options: Any) -> tqdm:
    """A progress bar on the terminal of the main process; elsewhere it only counts."""
    return tqdm(disable=None if hosts.is_main() else True, **options)


class MetricsWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in `tensorboard/`.

    Steps that changed nothing go to `skipped.jsonl`, which there is only if there are such.

    Of several processes, all of which have the same metrics, the main one writes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._path, self._skipped = folder / "metrics.jsonl", folder / "skipped.jsonl"
        self._after = 0
        self._events: Any = None

    def resume(self, step: int) -> None:
        """Forgets lines beyond `step`, where training goes on, and a torn last line.

        Call it before the first `write`, so that each step stands in the file once.
        """
        self._after = step
        for path in (self._path, self._skipped):
            if hosts.is_main() and path.exists():
                kept = [line for line in path.read_bytes().splitlines(True) if _upto(line, step)]
                with replacing(path) as file:
                    file.writelines(kept)

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Adds {"step": step, name: value ...}; NaN and infinity become null."""
        if not hosts.is_main():
            return
        values = {name: float(value) for name, value in metrics.items()}
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab") as file:  # one write: a kill leaves the line, or none of it
            os.write(file.fileno(), json.dumps({"step": step, **plain}).encode() + b"\n")
        if self._events is None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(
                str(self.folder / "tensorboard"), purge_step=self._after + 1, flush_secs=10
            )
        for name, value in values.items():
            if math.isfinite(value):  # tensorboardX warns of each that is not
                self._events.add_scalar(name, value, step)

    def skip(self, step: int, metrics: Mapping[str, float], ids: Mapping[str, list[str]]) -> Path:
        """Adds a step that changed nothing, and the ids of its batch, to the file it returns."""
        if hosts.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            line = {"step": step, **{name: str(value) for name, value in metrics.items()}, **ids}
            with open(self._skipped, "ab") as file:
                os.write(file.fileno(), json.dumps(line, ensure_ascii=False).encode() + b"\n")
        return self._skipped

    def close(self) -> None:
        """Flushes the events."""
        if self._events is not None:
            self._events.close()
            self._events = None


def _upto(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
