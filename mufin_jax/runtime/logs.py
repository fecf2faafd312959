"""What a run logs: lines for people, metrics as JSON lines and as TensorBoard events."""

import contextlib
import json
import logging
import math
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from tqdm import tqdm

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import replacing, sync


class _AboveBars(logging.Handler):
    """Lets another handler write its lines above progress bars instead of into them."""

    def __init__(self, handler: logging.Handler):
        super().__init__()
        self.handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            self.handler.emit(record)


def set_up_logging(level: int = logging.INFO, process: int | None = None) -> None:
    """Send log lines to stderr: in colour on a terminal, else plain with the time.

    With several processes, process 0 logs everything. The others would repeat it: they log only
    warnings and errors, with their number.

    Libraries log only warnings and errors. Orbax's background threads log nothing: their errors
    reach us as exceptions, and would be printed up to ten times.

    Args:
        level: From which level on this package logs.
        process: The number of this process, if there are several.
    """
    import absl.logging  # its import sets up the logger "absl", so it comes before our settings

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


def show_lines() -> None:
    """Send log lines to stderr where nobody has set up logging, as in a notebook."""
    if not logging.getLogger("mufin_jax").hasHandlers():
        set_up_logging(process=processes.process() if processes.several() else None)


def progress(**options: Any) -> tqdm:
    """Make a progress bar; only process 0 shows it, on a terminal or in a notebook.

    Elsewhere it only counts.
    """
    if "ipykernel" in sys.modules and processes.is_main():
        from tqdm.auto import tqdm as bar  # a widget, or text without ipywidgets

        return bar(**options)
    return tqdm(disable=None if processes.is_main() else True, **options)


class MetricsWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in `tensorboard/`.

    Steps that changed nothing go to `skipped.jsonl`, and validations to `validation.jsonl`. These
    files exist only if there are any.

    With several processes, all have the same metrics, and process 0 writes them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._path, self._skipped = folder / "metrics.jsonl", folder / "skipped.jsonl"
        self._validations = folder / "validation.jsonl"
        self._after = 0
        self._events: Any = None

    def resume(self, step: int) -> None:
        """Remove lines after `step`, from which training resumes, and a torn last line.

        Call it before the first `write`; each step then stands in the file once.
        """
        self._after = step
        for path in (self._path, self._skipped, self._validations):
            if processes.is_main() and path.exists():
                kept = [line for line in path.read_bytes().splitlines(True) if _upto(line, step)]
                with replacing(path) as file:
                    file.writelines(kept)

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Add {"step": step, name: value ...}; NaN and infinity become null."""
        if not processes.is_main():
            return
        values = {name: float(value) for name, value in metrics.items()}
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        _append(self._path, {"step": step, **plain})
        self._event(step, {k: v for k, v in values.items() if math.isfinite(v)})

    def validation(self, step: int, objective: float) -> None:
        """Add {"step": step, "objective": objective} to `validation.jsonl`, durably."""
        if processes.is_main():
            _append(self._validations, {"step": step, "objective": objective})
            sync(self._validations)
            self._event(step, {"validation": objective})

    def validations(self) -> list[tuple[int, float]]:
        """Return the steps that were validated, each with its objective."""
        if not self._validations.exists():
            return []
        lines = map(json.loads, self._validations.read_bytes().splitlines())
        return [(line["step"], line["objective"]) for line in lines]

    def _event(self, step: int, values: Mapping[str, float]) -> None:
        if self._events is None:
            self._events = _Events(self.folder / "tensorboard", self._after + 1)
        self._events.write(step, values)

    @staticmethod
    def get_ready() -> None:
        """Import what writes TensorBoard's events, which takes a second."""
        import tensorboardX.event_file_writer
        import tensorboardX.summary  # noqa: F401

    def skip(self, step: int, metrics: Mapping[str, float], ids: Mapping[str, list[str]]) -> Path:
        """Record a step that changed nothing, with the ids of its batch, and return the file."""
        if processes.is_main():
            line = {"step": step, **{name: str(value) for name, value in metrics.items()}, **ids}
            _append(self._skipped, line)
        return self._skipped

    def close(self) -> None:
        """Close the events."""
        if self._events is not None:
            self._events.close()
            self._events = None


class _Events:
    """TensorBoard's events of one process, from a step on.

    tensorboardX writes them in a thread. A full disk ends that thread with a traceback, or is not
    noticed. Here they are written in the caller's thread, which gets the error.
    """

    def __init__(self, folder: Path, first: int):
        from tensorboardX.proto import event_pb2  # its names are made at run time
        from tensorboardX.summary import scalar

        made: Any = event_pb2
        self._event, self._scalar = made.Event, scalar
        # TensorBoard ignores what an earlier process wrote for this step and later ones.
        session = made.SessionLog(status=made.SessionLog.START)
        start = made.Event(step=first, session_log=session)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        with disk_errors(folder, start.ByteSize()):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / name, "wb")
        self._add([made.Event(file_version="brain.Event:2"), start])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add finite values.

        Raises:
            DiskError: The disk does not take them.
        """
        self._add(
            self._event(step=step, summary=self._scalar(name, value))
            for name, value in values.items()
        )

    def _add(self, events: Iterable[Any]) -> None:
        records = []
        for event in events:
            event.wall_time = time.time()
            records.append(_record(event.SerializeToString()))
        content = b"".join(records)
        with disk_errors(Path(self._file.name).parent, len(content)):
            try:
                self._file.write(content)
                self._file.flush()
            except OSError:
                with contextlib.suppress(OSError):  # Python would try again at exit
                    self.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _record(content: bytes) -> bytes:
    """Return a record of TensorFlow's files: its length and the content, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(sums), content, next(sums)))


def _append(path: Path, line: dict[str, Any]) -> None:
    """Add a JSON line. It is one write: a kill leaves the whole line, or nothing."""
    content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    with disk_errors(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(content)


def _upto(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
