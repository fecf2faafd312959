"""Paths in data sets that lead outside, and a script that reports which files were opened.

    python tests/support/hostile_paths.py FOLDER    prints the files opened outside, and the errors

It prints JSON. Python tells an audit hook of every file that it opens; numpy, Pillow and gzip open
their files through Python, too.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import raw_folders

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.runtime.errors import MufinError
from mufin_jax.runtime.storage.files import save_sealed

CONFIG = PrepareConfig(image_size=8, vocab_size=64, max_tokens=8, records=False)

NAMES = [
    *("../secret.jpg", "images/../../secret.jpg", "a/../../secret.jpg", "./../secret.jpg"),
    *("images/./../../secret.jpg", "../raw/../secret.jpg", "..", "../", "../../../../etc/passwd"),
    *("/etc/passwd", "//etc/passwd", "///etc//passwd", "/proc/self/mem", "/proc/self/environ"),
    *("/dev/zero", "/dev/stdin", "/dev/tty", "/dev/random", "/", "//", "{outside}/secret.jpg"),
    *("~", "~/secret.jpg", "~root/secret.jpg", "$HOME/secret.jpg", "${HOME}/x", "%USERPROFILE%/x"),
    *(
        "..\\secret.jpg",
        "images\\..\\..\\secret.jpg",
        "\\\\host\\share\\x.jpg",
        "C:\\x.jpg",
        "C:/x",
    ),
    *("file:///etc/passwd", "file://{outside}/secret.jpg", "http://localhost:9/x.jpg", "ftp://h/x"),
    *("FILE:/etc/passwd", "data:image/png;base64,AAAA", "images/\0.jpg", "../secret.jpg\0.png"),
    *("\0", "images/out.jpg", "images/outdir/secret.jpg", "images/chain.jpg", "images/zero"),
    *("images/loop", "images/fifo", "images/outfifo", "images", ".", "images/", ""),
    *(" ", "../secret.jpg ", " ../secret.jpg", "images/1.jpg ", "images/../1.jpg", "x" * 4096),
    *(
        "/".join("x" * 2048),
        "../" * 1300 + "etc/passwd",
        "\uff0e\uff0e/secret.jpg",
        "\u2025/secret.jpg",
    ),
    *(
        "..\uff0fsecret.jpg",
        "..\u2215secret.jpg",
        "%2e%2e/secret.jpg",
        "..%2fsecret.jpg",
        "\u202e../gpj",
    ),
    *("..;/secret.jpg", "|cat /etc/passwd", "`id`.jpg", "images/*.jpg", "\ud800/x.jpg", "-", "\n"),
]
"""Names of pictures: none of them is a file of the folder, and none may be read."""


def _linked(name: str) -> Callable[[Path, Path], object]:
    """Move one of the data set's files outside, and leave a link to it."""

    def damage(raw: Path, outside: Path) -> None:
        (raw / name).replace(outside / "secret")
        (raw / name).symlink_to(outside / "secret")

    return damage


def _pipe(name: str) -> Callable[[Path, Path], object]:
    """Replace a file by a pipe that nobody writes to."""
    return lambda raw, outside: ((raw / name).unlink(), os.mkfifo(raw / name))


def _linked_folder(name: str) -> Callable[[Path, Path], object]:
    def damage(raw: Path, outside: Path) -> None:
        (raw / name).rename(outside / "folder")
        (raw / name).symlink_to(outside / "folder")

    return damage


FILES = {
    **{f"link {name}": _linked(name) for name in (
        "raw_data/train.raw.txt", "raw_data/label.raw.txt", "trn_X_Y.txt", "images/img.bin",
        "images/train.img.bin.npz", "categories.txt", "filter_labels_test.txt", "ceiling.json")},
    **{f"pipe {name}": _pipe(name) for name in (
        "raw_data/train.raw.txt", "tst_X_Y.txt", "images/test.img.bin.npz")},
    "linked folder raw_data": _linked_folder("raw_data"),
    "linked folder images": _linked_folder("images"),
}  # fmt: skip
VECTORS = {
    "link to vectors": _linked("trn_embs_imgs_3_4.npy"),
    "link to a map": _linked("lbl_imgs_384_3_map.npy"),
    "pipe of vectors": _pipe("tst_embs_imgs_3_4.npy"),
    "pipe of a map": _pipe("tst_imgs_384_3_map.npy"),
}
LISTED = [
    "../secret.jpg",
    "/etc/passwd",
    "{outside}/secret.jpg",
    "link",
    "a/../../secret.jpg",
    "\0",
]
"""Names for the list of a prepared folder; the files of that list are read to be compared."""


def _titles() -> dict[str, list[tuple[str, str]]]:
    sides = ("train", "test", "label")
    return {side: [(f"{side}{i}", f"red chair {i}") for i in range(9)] for side in sides}


_PAIRS = {side: [[i] for i in range(9)] for side in ("train", "test")}


def pictures(raw: Path, outside: Path) -> list[str]:
    """Write a catalogue in which each product names one of NAMES, and the last a valid picture."""
    names = [name.replace("{outside}", str(outside)) for name in NAMES]
    side = [
        {"ASIN": f"A{i}", "title": f"lamp {i}", "images": [name], "target_ind": [i]}
        for i, name in enumerate([*names, "images/7.jpg"])
    ]
    raw_folders.write_json_lines(raw, trn=side, tst=side, lbl=side)
    images = raw / "images"
    (images / "1.jpg ").rename(images / "1.jpg")
    (images / "out.jpg").symlink_to(outside / "secret.jpg")
    (images / "chain.jpg").symlink_to("out.jpg")
    (images / "outdir").symlink_to(outside)
    (images / "zero").symlink_to("/dev/zero")
    (images / "loop").symlink_to("loop")
    os.mkfifo(images / "fifo")
    os.mkfifo(outside / "fifo")
    (images / "outfifo").symlink_to(outside / "fifo")
    return names


def repository(raw: Path) -> None:
    images = {side: [[i] for i in range(9)] for side in ("train", "test", "label")}
    raw_folders.write_repository(raw, _titles(), _PAIRS, images)
    raw_folders.write_pairs(raw / "filter_labels_test.txt", [(0, 1)])
    (raw / "categories.txt").write_text("kind\n" * 9)
    (raw / "ceiling.json").write_text("{}")
    (raw / "img.urls.txt").write_text("A\thttp://localhost:9/\n")


def vectors(raw: Path) -> None:
    found = {side: np.ones((9, 4), np.float32) for side in ("train", "test", "label")}
    raw_folders.write_vectors(
        raw, _titles(), _PAIRS, found, {s: [[i] for i in range(9)] for s in found}
    )


class Watch:
    """A record of the files that this process opens, except those it may open."""

    def __init__(self) -> None:
        self.allowed: list[Path] = []
        self.opened: list[str] = []
        self.on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event not in ("open", "socket.connect", "subprocess.Popen", "os.system"):
            return
        if event != "open":
            self.opened.append(f"{event} {arguments!r}")
        elif isinstance(arguments[0], (str, bytes)):  # a number is a file that is open already
            path = Path(os.path.realpath(os.fsdecode(arguments[0])))
            if not any(path.is_relative_to(folder) for folder in self.allowed):
                self.opened.append(str(path))

    def __call__(self, act: Callable[[], object], *allowed: Path) -> dict[str, Any]:
        """Return the files that a call opens elsewhere, and its error message."""
        self.allowed = [Path(os.path.realpath(folder)) for folder in (*_LIBRARIES, *allowed)]
        self.opened, message = [], ""
        self.on = True
        try:
            act()
        except MufinError as error:
            message = str(error)
        finally:
            self.on = False
        return {"opened": self.opened, "message": message}


_LIBRARIES = [*map(Path, (*filter(None, sys.path[1:]), sys.prefix, sys.base_prefix))]


def main(root: Path) -> dict[str, Any]:
    """Return the record of each case."""
    logging.disable()
    watch, out, found = Watch(), root / "out", {}
    outside = root / "outside"
    outside.mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(raw_folders.picture(2))
    (root / "secret.jpg").write_bytes(raw_folders.picture(2))

    repository(root / "valid")
    prepare(CONFIG, root / "valid", root / "warm")  # libraries load their own files now
    found["a file outside"] = watch(lambda: open(root / "secret.jpg").close(), out)

    raw = root / "pictures" / "raw"
    names = pictures(raw, outside)
    (root / "pictures" / "secret.jpg").write_bytes(raw_folders.picture(2))
    config = PrepareConfig(image_size=8, vocab_size=64, max_tokens=8, records=False, max_bad=0.99)
    found["pictures"] = watch(lambda: prepare(config, raw, out), raw, out)
    report = json.loads((out / "prepare_report.json").read_text())
    counts = {
        kind: report["counts"].get(kind, 0)
        for kind in ("broken image", "linked image", "image by URL")
    }
    found["pictures"] |= {"names": len(names), **counts, "images": report["kept"]["images"]}

    for make, cases in ((repository, FILES), (vectors, VECTORS)):
        for number, (name, damage) in enumerate(cases.items()):
            raw, elsewhere = (root / f"{make.__name__}{number}" / part for part in ("raw", "else"))
            elsewhere.mkdir(parents=True)
            make(raw)
            damage(raw, elsewhere)
            found[name] = watch(lambda raw=raw: prepare(CONFIG, raw, out), raw, out)

    folder = root / "warm"
    (folder / "link").symlink_to(outside / "secret.jpg")
    sealed = json.loads((folder / "manifest.json").read_text())
    del sealed["sha256"]
    for name in LISTED:
        name = name.replace("{outside}", str(outside))
        path = folder / name if "\0" not in name else root / "secret.jpg"
        at = {"bytes": path.stat().st_size if path.exists() else 1, "sha256": "0" * 64}
        save_sealed(folder / "manifest.json", sealed | {"files": sealed["files"] | {name: at}})
        found[f"listed {name!r}"] = watch(lambda: Dataset.load(folder, verify=True), folder)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
