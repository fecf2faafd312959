"""A run's folder: who holds it, what is finished and how it was made.

<workdir>/lock, owner.json           one run at a time; the system frees the lock at any death
<workdir>/run.json                   configuration, versions, devices, seconds, memory by stage
<workdir>/<stage>/settings.json      the configuration of a stage; another one is rejected
<workdir>/<stage>/done.json          written last: the stage is finished

With several processes, process 0 holds the folder, writes these files, and tells the others what it
reads.
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import filelock

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import DiskError, Held, InputError
from mufin_jax.runtime.storage.disk import disk_errors, is_disk_error
from mufin_jax.runtime.storage.files import discard, jsonable, load_json, save_json
from mufin_jax.runtime.storage.paths import gone_link

T = TypeVar("T")

MadeWith = Callable[[Path, str, Any], Mapping[str, Any]]
"""Gives the flat settings that a stage was made with, from the run's folder, the stage's name, and
the settings that it is to be compared with."""

_FOLDER = 4096
"""Bytes that a new folder takes on most file systems."""

_COMPILED = "compiled"
"""The folder of compiled programs, inside a run's."""

_PACKAGES = ("mufin_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scann")


class Run:
    """Holds a working folder, as a context manager, for the time of a run.

    Entering raises Held, which names the holder, if another living run holds the folder, and
    DiskError if the folder cannot be written.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._lock = filelock.FileLock(workdir / "lock")

    def __enter__(self) -> "Run":
        processes.once("a run begins", self._hold)
        return self

    def _hold(self) -> None:
        with disk_errors(self.workdir, _FOLDER):
            try:
                self.workdir.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=1)
            except (FileExistsError, NotADirectoryError):
                found = gone_link(self.workdir) or f"{self.workdir} is, or lies in, a file"
                raise InputError(f"{found}; choose another --workdir") from None
            except filelock.Timeout as error:
                raise Held(
                    f"{self.workdir} belongs to {self._owner()}; wait for it, stop it, or choose "
                    "another --workdir"
                ) from error
            except OSError as error:
                if is_disk_error(error):
                    raise
                reason = error.strerror or str(error)
                raise InputError(
                    f"{self.workdir} cannot be made ({reason}); choose another --workdir"
                ) from None
        save_json(
            self.workdir / "owner.json",
            {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()},
        )

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if processes.is_main():
            try:
                if isinstance(error, DiskError):
                    _discard_torn(self.workdir / _COMPILED)
                discard(self.workdir / "owner.json")  # it may stay: only rejected runs read it
            finally:
                self._lock.release()

    def _owner(self) -> str:
        try:
            owner = load_json(self.workdir / "owner.json")
            return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
        except (InputError, KeyError, TypeError):
            return "another run"

    def stage_folder(self, stage: str) -> Path:
        """Return the folder of a stage, and make it if necessary."""
        with disk_errors(self.workdir, _FOLDER):
            (self.workdir / stage).mkdir(exist_ok=True)
        return self.workdir / stage

    def finished(self, stage: str) -> bool:
        """Return whether a stage was marked as finished."""
        return processes.decide((self.workdir / stage / "done.json").is_file)

    def mark_finished(self, stage: str, facts: dict[str, Any] | None = None) -> None:
        """Mark a stage as finished, durably, after everything else that it writes."""
        path = self.stage_folder(stage) / "done.json"
        processes.once(
            f"{stage} is finished", lambda: save_json(path, {"at": _now(), **(facts or {})})
        )

    def guard(self, stage: str, settings: Any, made_with: MadeWith | None = None) -> None:
        """Record the settings that a stage is made with: a dataclass, or what JSON can hold.

        See `check` for the arguments.

        Raises:
            InputError: Its folder was begun with other settings; the message lists what differs.
        """
        self.check(stage, settings, made_with)
        path = self.stage_folder(stage) / "settings.json"
        if processes.is_main() and not path.exists():
            save_json(path, settings)

    def check(
        self,
        stage: str,
        settings: Any,
        made_with: MadeWith | None = None,
        flag: Callable[[str], str] | None = None,
    ) -> None:
        """Check the settings as `guard` does, and record nothing.

        Args:
            stage: The name of the stage.
            settings: What it is going to be made with.
            made_with: Gives what the folder was made with, where settings.json has other words for
                it.
            flag: Gives the option of a setting, as a user writes it; "" if it has none.

        Raises:
            InputError: The folder was begun with other settings; the message lists what differs.
        """

        def check() -> None:
            if changes := self.changes(stage, settings, made_with):
                names = (change.partition(":")[0] for change in changes)
                options = [option for option in map(flag, names) if option] if flag else []
                by = f" by {', '.join(options[:4])}" if options else ""
                raise InputError(
                    f"{self.workdir / stage} was made with other settings ({'; '.join(changes)}): "
                    f"give those{by}, choose another --workdir, or make it and the stages after it "
                    f"again by --redo={stage}"
                )

        processes.once(f"{stage} is checked", check)

    def changes(self, stage: str, settings: Any, made_with: MadeWith | None = None) -> list[str]:
        """Return what differs between the settings of a stage and those that it was begun with.

        See `check` for the arguments.

        Returns:
            A text for each setting that differs; none if the stage has not begun.
        """
        if not (self.workdir / stage / "settings.json").exists():
            return []
        old = (made_with or recorded)(self.workdir, stage, settings)
        new = flatten(jsonable(settings))
        return [
            f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name, ...) != new.get(name, ...)
        ]

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block, however it ends, to the stage's in run.json.

        Next to it stands the most memory that this process had held by the end of the stage.
        """
        start = time.monotonic()

        def note() -> None:
            if processes.is_main():
                seconds = dict(self.facts().get("seconds", {}))
                spent = seconds.get(stage, 0.0) + time.monotonic() - start
                peak = self.facts().get("peak_bytes", {})
                most = max(peak.get(stage, 0), _peak_bytes())
                self.record(
                    seconds=seconds | {stage: round(spent, 3)}, peak_bytes=peak | {stage: most}
                )

        try:
            yield
        except BaseException:
            with contextlib.suppress(DiskError):  # it would hide the first error
                note()
            raise
        note()

    def facts(self) -> dict[str, Any]:
        """Return what run.json holds; empty before the first `record`."""
        path = self.workdir / "run.json"
        return load_json(path) if path.exists() else {}

    def record(self, **facts: Any) -> None:
        """Add facts to run.json, or replace them there."""
        if processes.is_main():
            save_json(self.workdir / "run.json", self.facts() | facts)


def _peak_bytes() -> int:
    """Return the most memory that this process has held."""
    # Linux counts in kilobytes, macOS in bytes.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def environment() -> dict[str, Any]:
    """Return versions, platform and devices, for run.json; starts JAX's backend."""
    import jax

    from mufin_jax.runtime import machine

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    return {
        "versions": versions,
        "platform": platform.platform(),
        "processes": jax.process_count(),
        "devices": devices,
        "threads": machine.threads(),
    }


def read_only(workdir: Path) -> bool:
    """Return whether a folder exists and cannot be written."""
    return workdir.is_dir() and not os.access(workdir, os.W_OK)


def threads_of(workdir: Path) -> int | None:
    """Return the threads that the run in a folder began with; None if it does not tell."""
    with contextlib.suppress(InputError):  # whoever needs the file will report the error
        facts = load_json(workdir / "run.json")
        found = facts.get("threads") if isinstance(facts, dict) else None
        return found if isinstance(found, int) and found > 0 else None
    return None


def use_compile_cache(folder: Path) -> None:
    """Keep compiled programs in the run's folder, from which a resumed run loads them.

    Programs that compile in less than 0.1 s would save nothing. A cache that the user has named
    (JAX_COMPILATION_CACHE_DIR) is used instead, with its own threshold.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str((folder / _COMPILED).resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _discard_torn(cache: Path) -> None:
    """Delete programs that the disk took in part: JAX keeps them, to compile again every time."""
    from mufin_jax.runtime.jax_internals import is_whole_program

    for path in cache.glob("*-cache"):
        if not is_whole_program(path.read_bytes()):
            discard(path)


def recorded(workdir: Path, stage: str, settings: Any) -> Mapping[str, Any]:
    """Return the settings that a stage has recorded: the plainest `MadeWith`."""
    del settings
    return flatten(load_json(workdir / stage / "settings.json"))


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested settings as one dict, with names joined by dots."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    prefix = f"{name}." if name else ""
    return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}{key}").items()}


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
