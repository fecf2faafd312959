"""Hostile paths in data: none makes the package open a file outside of the data folder."""

import json
import subprocess
import sys

import hostile_paths
import pytest

from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The output of hostile_paths.py: files opened and errors. Opening a pipe would hang it."""
    folder = tmp_path_factory.mktemp("paths")
    command = [sys.executable, hostile_paths.__file__, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_audit_sees_a_file_that_is_opened_outside(found):
    (opened,) = found.pop("a file outside")["opened"]
    assert opened.endswith("secret.jpg")


def test_60_hostile_paths_of_pictures_open_nothing_outside_and_are_counted(found):
    pictures = found["pictures"]
    assert pictures["opened"] == []
    assert pictures["names"] == len(set(hostile_paths.NAMES)) >= 60
    urls = sum("://" in name for name in hostile_paths.NAMES)
    assert pictures["image by URL"] == 3 * urls  # by each side
    blank = sum(not name.strip() for name in hostile_paths.NAMES)  # these count as absent
    assert pictures["linked image"] == 5
    assert pictures["broken image"] + 5 == pictures["names"] - urls - blank
    assert pictures["images"] == 1  # the valid one


@pytest.mark.parametrize("name", [*hostile_paths.FILES, *hostile_paths.VECTORS])
def test_no_link_or_pipe_instead_of_a_file_is_followed(name, found):
    assert found[name]["opened"] == []
    message = found[name]["message"]
    assert "\n" not in message
    if name.startswith("link"):
        assert "is a link that leads out of the data folder" in message
    elif name != "pipe of vectors":  # a side without vectors is one of titles only
        assert "lacks" in message


def test_a_prepared_folder_does_not_lead_to_files_outside(found):
    listed = {name: case for name, case in found.items() if name.startswith("listed")}
    assert len(listed) == len(hostile_paths.LISTED)
    for name, case in listed.items():
        assert case["opened"] == [], name
        assert "prepare the data again" in case["message"] and "\n" not in case["message"], name


def test_a_link_to_a_file_of_the_folder_is_followed_and_the_folder_may_be_a_link(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("a")
    (tmp_path / "raw" / "b.txt").symlink_to("a.txt")
    (tmp_path / "link").symlink_to("raw")
    assert SourceFolder(tmp_path / "link").require("b.txt").read_text() == "a"
    (tmp_path / "raw" / "c.txt").symlink_to(__file__)
    with pytest.raises(InputError, match=r"c\.txt is a link that leads out of the data folder"):
        SourceFolder(tmp_path / "raw").find("c.txt")
