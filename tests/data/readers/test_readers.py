"""Claims about folders: how their form is recognised, and that no path leads out of them."""

import os
import subprocess
import sys

import pytest
from raw_folders import (
    picture,
    write_json_lines,
)

from mufin_jax.data import readers
from mufin_jax.data.images import BadImage
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError


def read(folder, max_bad=0.05, max_images=15):
    tally = Tally(max_bad)
    return readers.load_catalogue(folder, tally, max_images, 10_000_000), tally


HOSTILE = [
    *("../secret.jpg", "images/../../secret.jpg", "/etc/passwd", "~/secret.jpg", "~root/x"),
    *("images\\..\\..\\secret.jpg", "\\\\host\\share\\x.jpg", "images/\0.jpg", "images/out.jpg"),
    *("images/outdir/secret.jpg", "images", ".", "x" * 5000, "images/fifo", "/dev/zero", ""),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_path_in_the_data_leads_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (folder / "images" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "images" / "outdir").symlink_to(tmp_path)
    os.mkfifo(folder / "images" / "fifo")
    with pytest.raises(BadImage):
        SourceFolder(folder).image(name)


def test_a_link_within_the_folder_is_followed(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    assert SourceFolder(tmp_path).image("b.jpg").read_bytes() == picture(1)


def test_an_unknown_folder_says_what_was_found_and_what_is_read(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(InputError, match=r"holds holiday.mp4: expected raw_data.*products.jsonl"):
        read(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read(tmp_path / "absent")


def test_readers_do_not_import_jax():
    code = "import sys, mufin_jax.data.prepare, mufin_jax.data.dataset; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_reasons_are_one_printable_line(tmp_path):
    items = [{"ASIN": f"A{i}", "title": "t", "also_buy": ["A1"]} for i in range(40)]
    items[3]["title"] = ["a\nb"]
    folder = write_json_lines(tmp_path, products=items)
    _, tally = read(folder)
    tally.note("kind", "file", 1, "two\nlines \x1b \ud800" + "x" * 5000)
    for entry in tally.listed:
        entry["reason"].encode("utf-8")
        assert "\n" not in entry["reason"] and len(entry["reason"]) <= 300
