"""Preparation under Apache Beam gives the same folder as a single process."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw_folders import (
    LABEL,
    SIDES,
    break_pictures,
    many_pictures,
    numbered_products,
    picture,
    tiny_repository,
    write_json_lines,
    write_repository,
)

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.manifest import MANIFEST, load_manifest
from mufin_jax.data.preparation import resize_beam
from mufin_jax.data.preparation.beam import Beam
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.preparation.records import write_records
from mufin_jax.data.record_images import load_split
from mufin_jax.data.synthetic.catalogue import MiniatureConfig, write_miniature
from mufin_jax.runtime.errors import InputError, TooManyBadRows

SIZES: dict[str, Any] = {"image_size": 16, "max_tokens": 8, "vocab_size": 200}
HERE: dict[str, Any] = {"beam_runner": "DirectRunner"}
PROCESSES = ("direct_num_workers=2", "--direct_running_mode=multi_processing")


def test_without_beam_the_error_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    raw = tiny_repository(tmp_path / "raw")
    with pytest.raises(InputError, match=r"pip install 'mufin_jax\[beam\]'$"):
        prepare(PrepareConfig(**HERE), raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def both_ways(raw: Path, folder: Path, **config) -> tuple[Path, Path]:
    """Prepare in one process and under Beam; fail unless every file is the same."""
    pytest.importorskip("apache_beam")
    alone, beam = folder / "alone", folder / "beam"
    beam_fields = HERE | {"beam_options": config.pop("beam_options", ())}
    prepare(PrepareConfig(**SIZES, **config), raw, alone)
    prepare(PrepareConfig(**SIZES, **config, **beam_fields), raw, beam)
    files = {out: sorted(path.relative_to(out) for path in files_of(out)) for out in (alone, beam)}
    assert files[alone] == files[beam] and len(files[alone]) > 18
    # The bytes of records differ between any two runs, and so do the checksums in records.json.
    for name in files[alone]:
        if name.parts[0] not in ("records", "records.json"):
            assert (alone / name).read_bytes() == (beam / name).read_bytes(), name
    if config.get("records", True):
        for side in SIDES:
            assert contents(alone, side) == contents(beam, side)
    load_manifest(beam, verify=True)
    return alone, beam


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def contents(folder: Path, side: str) -> list[tuple]:
    records = load_split(folder / "records", side)
    return [(record["uid"], record["title"], list(record["images"])) for record in records]


@pytest.mark.parametrize("store", ["array and records", "records alone", "array alone"])
def test_a_catalogue_with_broken_pictures_gives_the_same_folder(store, tmp_path, monkeypatch):
    sizes = MiniatureConfig(points=60, test_points=20, labels=40, picture=16)
    write_miniature(sizes, tmp_path / "raw")
    path = tmp_path / "raw" / "images" / "img.bin"
    lines = path.read_bytes().split(b"\n")
    # Pictures 3 and 30 are in different shards. Lines keep their lengths, so offsets stay right.
    for number in (3, 30):
        lines[number] = lines[number].replace(b"\t/9j/", b"\tAAAA")
    path.write_bytes(b"\n".join(lines))
    monkeypatch.setattr(resize_beam, "SHARD", 7)
    fields: dict[str, Any] = {
        "array and records": {},
        "records alone": {"image_array_gb": 0.0},
        "array alone": {"records": False},
    }
    _, beam = both_ways(tmp_path / "raw", tmp_path, **fields[store])
    assert (beam / "images.npy").exists() == ("array" in store)
    assert (beam / "records").exists() == ("records" in store)
    report = json.loads((beam / "prepare_report.json").read_text())
    assert report["counts"]["broken image"] == 2


def test_workers_in_other_processes_read_picture_files_by_name(tmp_path, monkeypatch):
    items = numbered_products(30)
    items[4]["images"] += ["images/200.png", "../x.jpg", "images/4.jpg"]
    items[5]["title"] = ""
    raw = write_json_lines(tmp_path / "raw", trn=items, tst=items[:9], lbl=[LABEL])
    (raw / "images" / "5.jpg").write_bytes(picture(5)[:200])
    monkeypatch.setattr(resize_beam, "SHARD", 7)
    _, beam = both_ways(raw, tmp_path, beam_options=PROCESSES, max_bad=0.1)
    report = json.loads((beam / "prepare_report.json").read_text())
    # On both sides, item A5 keeps neither title nor picture.
    assert report["counts"] == {"broken image": 2, "empty item": 2}
    assert [uid for uid, *_ in contents(beam, "train")][4:6] == [b"A4", b"A6"]


def test_too_many_broken_pictures_stop_with_the_same_error(tmp_path):
    pytest.importorskip("apache_beam")
    raw = tiny_repository(tmp_path / "raw")
    break_pictures(raw, 5)
    words = []
    for fields in ({}, HERE):
        with pytest.raises(TooManyBadRows) as caught:
            prepare(PrepareConfig(**SIZES, **fields), raw, tmp_path / "out")
        words.append(str(caught.value))
        assert not (tmp_path / "out" / MANIFEST).exists()
    assert words[0] == words[1] and "3 of 40 images" in words[0]


def test_a_catalogue_without_pictures_and_with_a_validation_part_is_prepared(tmp_path):
    titles = {side: [(f"{side}{i}", f"title {i}") for i in range(9)] for side in SIDES}
    relevance = {side: [[i] for i in range(9)] for side in SIDES[:2]}
    raw = write_repository(tmp_path / "raw", titles, relevance)
    _, beam = both_ways(raw, tmp_path, validation_share=0.5)
    assert Dataset.load(beam, verify=True).validation is not None


class Numbers:
    """Records of their numbers; their claimed size fills many files."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def num_bytes(self) -> int:
        return 2 * 10**9

    def read(self, start: int, stop: int):
        return ({"uid": str(i), "title": "", "images": []} for i in range(start, stop))


def test_record_i_is_item_i_across_many_files(tmp_path):
    pytest.importorskip("apache_beam")
    write_records({"train": Numbers(45), "test": Numbers(21)}, tmp_path, Beam("DirectRunner"))
    assert len(list(tmp_path.rglob("*train*-of-00016"))) == 16
    for side, count in (("train", 45), ("test", 21)):
        found = [int(record["uid"]) for record in load_split(tmp_path, side)]
        assert found == list(range(count))


@pytest.mark.parametrize(
    "runner, options, reason",
    [
        ("NoSuchRunner", (), "NoSuchRunner cannot be used: Unexpected pipeline runner"),
        ("no.such.Runner", (), "no.such.Runner cannot be used: No module named 'no'"),
        ("DirectRunner", ("direct_num_workers=many",), "direct_num_workers=many"),
    ],
)
def test_an_unknown_runner_or_option_is_rejected(runner, options, reason):
    pytest.importorskip("apache_beam")
    with pytest.raises(InputError, match=re.escape(reason)):
        Beam(runner, options)


def test_the_direct_runner_is_silent_and_offline_and_its_memory_is_bounded(tmp_path):
    pytest.importorskip("apache_beam")
    code = (
        "import resource, socket, sys; from pathlib import Path\n"
        "def reject(*_): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = socket.getaddrinfo = reject\n"
        "from mufin_jax.data.preparation.prepare import PrepareConfig, prepare\n"
        "config = PrepareConfig(image_size=96, beam_runner='DirectRunner')\n"
        "prepare(config, Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {}
    for count in (100, 3000):  # 27 kB a picture: 80 MB if they were held
        raw = many_pictures(tmp_path / f"raw{count}", count)
        command = [sys.executable, "-c", code, str(raw), str(tmp_path / f"out{count}")]
        (tmp_path / "home").mkdir(exist_ok=True)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env={"HOME": str(tmp_path / "home"), "PATH": ""},
        )
        ours = "WARNING:mufin_jax.data.preparation.prepare:labels without a training pair: "
        assert all(line.startswith(ours) for line in done.stderr.splitlines()), done.stderr
        peaks[count] = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert not list((tmp_path / "home").iterdir())
    assert peaks[3000] - peaks[100] < 40e6
