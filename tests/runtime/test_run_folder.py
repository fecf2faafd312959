"""A run's folder: only one run uses it, and it records settings and finished stages."""

import dataclasses
import errno
import os
from pathlib import Path

import filelock
import numpy as np
import pytest
from processes import next_line, python

from mufin_jax.runtime import run_folder
from mufin_jax.runtime.errors import DiskError, Held, InputError, Stopped
from mufin_jax.runtime.run_folder import Run
from mufin_jax.runtime.storage.files import load_json

_HOLD = """
import pathlib, sys, time
from mufin_jax.runtime.run_folder import Run
with Run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_folder_names_its_holder_and_is_free_after_kill(tmp_path, monkeypatch):
    acquire, waits = filelock.FileLock.acquire, []

    def recorded(lock, timeout=None):
        waits.append(timeout)
        return acquire(lock, timeout)

    monkeypatch.setattr(filelock.FileLock, "acquire", recorded)
    with python(_HOLD, tmp_path / "run") as holder:
        assert next_line(holder.stdout) == "held\n"
        with (
            pytest.raises(Held, match=f"process {holder.pid} on ") as refusal,
            Run(tmp_path / "run"),
        ):
            pass
        assert waits == [1] and "\n" not in str(refusal.value)  # a second
        holder.kill()
        holder.wait()
        with Run(tmp_path / "run") as run:
            assert load_json(run.workdir / "owner.json")["pid"] == os.getpid()
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
        assert load_json(folder / "done.json")["steps"] == 7


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 2e-4
    layers: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Settings:
    optimizer: Inner = dataclasses.field(default_factory=Inner)
    epochs: int = 5
    data: Path | None = Path("there")


def test_a_folder_is_used_again_with_the_same_settings_and_rejected_with_others(tmp_path):
    with Run(tmp_path) as run:
        run.guard("pretrain", Settings())
        run.guard("pretrain", Settings())
        run.guard("finetune", Settings(epochs=6))
        with pytest.raises(InputError) as refusal:
            run.guard("pretrain", Settings(Inner(rate=0.1), epochs=6))
    message = str(refusal.value)
    assert "epochs: 5 -> 6; optimizer.rate: 0.0002 -> 0.1" in message
    assert "layers" not in message and "--workdir" in message and "\n" not in message


def test_new_and_removed_fields_count_as_other_settings(tmp_path):
    with Run(tmp_path) as run:
        run.guard("a", {"old": 1, "same": {}})
        with pytest.raises(InputError, match="new: absent -> None; old: 1 -> absent"):
            run.guard("a", {"new": None, "same": {}})


def test_run_json_gathers_facts_and_adds_up_the_seconds_of_interrupted_stages(
    tmp_path, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: clock[0])
    for seconds in (1.5, 2.25):
        with Run(tmp_path) as run, pytest.raises(Stopped), run.timed("pretrain"):
            run.record(seed=3, config={"rate": np.float32(0.5)})
            clock[0] += seconds
            raise Stopped("now")
    facts = load_json(tmp_path / "run.json")
    assert facts["seed"] == 3 and facts["config"] == {"rate": 0.5}
    assert facts["seconds"]["pretrain"] == 3.75


def test_the_environment_names_versions_and_devices():
    found = run_folder.environment()
    assert {"python", "jax", "flax", "numpy"} <= found["versions"].keys()
    assert len(found["devices"]) == 8 and found["devices"][0].startswith("cpu:0")
