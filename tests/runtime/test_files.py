"""Files are complete or absent, and a manifest shows which file changed."""

import errno
from pathlib import Path

import numpy as np
import pytest

from mufin_jax.runtime.errors import InputError, Stopped
from mufin_jax.runtime.storage import disk, files
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import damage, load_json, manifest, replacing, save_json


def test_json_that_cannot_be_written_leaves_the_old_file_unchanged(tmp_path):
    path = tmp_path / "a.json"
    save_json(path, {"x": np.arange(2), "y": Path("z"), "loss": float("nan")})
    with pytest.raises(TypeError):
        save_json(path, {"x": object()})
    assert load_json(path) == {"x": [0, 1], "y": "z", "loss": None}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "{", ""])
def test_json_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: "):
        load_json(tmp_path / "a.json")


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


def test_a_file_is_on_disk_before_it_gets_its_name_and_the_name_before_writing_ends(
    tmp_path, disk_calls
):
    path = tmp_path / "array.npy"
    with replacing(path) as file:
        file.write(b"new")
    expected = [("sync", path.stat().st_ino), ("replace", path), ("sync", tmp_path.stat().st_ino)]
    assert disk_calls == expected


def test_a_wrong_file_name_is_no_disk_error(tmp_path):
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "absent" / "file").write_bytes(b"")


def test_a_manifest_detects_a_changed_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"abc")
    listed = manifest(tmp_path)
    assert list(listed) == ["deep/a"] and listed["deep/a"][0] == 3
    assert damage(tmp_path, listed) is None
    (tmp_path / "deep" / "a").write_bytes(b"abd")
    assert damage(tmp_path, listed) == "deep/a is damaged (wrong SHA-256)"


def test_a_disk_that_does_not_report_its_space_still_gives_one_line(tmp_path, monkeypatch):
    def usage(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    line = str(disk.disk_error(tmp_path / "no" / "such", "Input/output error", 7))
    assert "such: Input/output error (7 bytes needed); make room" in line


@pytest.mark.parametrize(
    ("raised", "passes"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (MemoryError(), True),
        (Stopped("by a signal"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (ValueError("a header\nof two lines"), False),
    ],
)
def test_errors_of_the_disk_and_of_memory_are_not_reported_as_damage(raised, passes):
    with (
        pytest.raises(type(raised) if passes else InputError) as error,
        files.damaged("x.npy cannot be read ({reason}): make it again"),
    ):
        raise raised
    if not passes:
        message = str(error.value)
        assert message.startswith(f"x.npy cannot be read ({type(raised).__name__}: ")
        assert "\n" not in message
