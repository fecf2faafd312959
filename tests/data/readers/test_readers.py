"""How the format of a folder is recognised, and that no path leads out of it."""

import os
import subprocess
import sys

import pytest
from raw_folders import picture, read_catalogue, write_json_lines

from mufin_jax.data.images import BadImage
from mufin_jax.data.readers import files
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.runtime.errors import InputError

HOSTILE = [
    *("../secret.jpg", "images/../../secret.jpg", "/etc/passwd", "~/secret.jpg", "~root/x"),
    *("images\\..\\..\\secret.jpg", "\\\\host\\share\\x.jpg", "images/\0.jpg", "images/out.jpg"),
    *("images/outdir/secret.jpg", "images", ".", "x" * 5000, "images/fifo", "/dev/zero", ""),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_path_in_the_data_leads_out_of_the_folder(name, tmp_path):
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (folder / "images" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "images" / "outdir").symlink_to(tmp_path)
    os.mkfifo(folder / "images" / "fifo")
    with pytest.raises(BadImage):
        SourceFolder(folder).image(name)


@pytest.mark.parametrize("name", ["front..v2.jpg", "..x.jpg", "a...b/c..jpg"])
def test_two_dots_within_a_name_lead_nowhere(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture(1))
    assert SourceFolder(tmp_path).image(name).read_bytes() == picture(1)


def test_a_link_within_the_folder_is_followed(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    assert SourceFolder(tmp_path).image("b.jpg").read_bytes() == picture(1)


def test_a_line_beyond_the_limit_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 100)
    (tmp_path / "a.txt").write_bytes(b"x" * 99 + b"\n" + b"y" * 99 + b"\n")
    assert [len(line) for _, line in files.lines(tmp_path / "a.txt")] == [99, 99]
    (tmp_path / "a.txt").write_bytes(b"x" * 99 + b"\n" + b"y" * 101)
    with pytest.raises(InputError, match=r"a\.txt:2: expected lines of at most 100 bytes"):
        list(files.lines(tmp_path / "a.txt"))


def test_the_error_for_an_unknown_folder_lists_its_files_and_the_known_forms(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(InputError, match=r"holds holiday.mp4: expected raw_data.*products.jsonl"):
        read_catalogue(tmp_path)
    with pytest.raises(InputError, match="absent: no such folder, nor a file of products"):
        read_catalogue(tmp_path / "absent")


def test_readers_do_not_import_jax():
    modules = "mufin_jax.data.preparation.prepare, mufin_jax.data.dataset"
    code = f"import sys, {modules}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_reported_reasons_are_one_printable_line(tmp_path):
    items = [{"ASIN": f"A{i}", "title": "t", "also_buy": ["A1"]} for i in range(40)]
    items[3]["title"] = ["a\nb"]
    folder = write_json_lines(tmp_path, products=items)
    _, tally = read_catalogue(folder)
    tally.note("kind", "file", 1, "two\nlines \x1b \ud800" + "x" * 5000)
    for entry in tally.listed:
        entry["reason"].encode("utf-8")
        assert "\n" not in entry["reason"] and len(entry["reason"]) <= 300
