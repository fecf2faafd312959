"""Files are whole or absent, and a manifest tells what changed."""

from pathlib import Path

import numpy as np
import pytest

from mufin_jax.disk import disk_errors
from mufin_jax.errors import InputError
from mufin_jax.files import damage, manifest, read_json, replacing, write_json


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
