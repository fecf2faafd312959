"""The command that writes `images/img.bin` of the repository's form from folders of pictures.

    python -m mufin_jax.pipeline.img_bin --data=DIR --pictures=PICTURES

The pictures of an item are `PICTURES/UID/*` in the order of their numbers, and `PICTURES/UID.jpg`.
Every ending of a picture that preparation reads counts. Files whose name begins with a dot do not:
macOS and editors leave them. The folder's own files are only replaced when all is written.
"""

import base64
import contextlib
import dataclasses
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from scipy.sparse import csr_matrix, save_npz

from mufin_jax.data.images import MAX_BYTES
from mufin_jax.data.readers.catalogue import SIDES
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.repository import read_titles
from mufin_jax.data.readers.tally import Tally
from mufin_jax.pipeline.cli_messages import reject_empty
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.logs import progress, set_up_logging
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import replacing
from mufin_jax.runtime.storage.paths import settle_paths

ENDINGS = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"))
"""Of the files that count as pictures, in small or capital letters."""
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ImgBinConfig:
    """Which pictures are written where."""

    data: Path
    """The catalogue, with raw_data/{train,test,label}.raw.txt; `images/` is written in it."""
    pictures: Path
    """The pictures: PICTURES/UID/0.jpg, PICTURES/UID/1.png and so on, or PICTURES/UID.jpg."""
    max_bytes: int = MAX_BYTES
    """Larger files are left out."""

    def __post_init__(self) -> None:
        """Take paths as text, and ~ as the home folder."""
        settle_paths(self, fields=["data", "pictures"])


def write_img_bin(config: ImgBinConfig) -> dict[str, int]:
    """Write img.bin and the offsets of each side.

    Returns:
        The numbers of items, of items without a picture, of pictures, and of files left out.

    Raises:
        InputError: if a folder or a list of titles is missing, or no item has a picture.
        DiskError: if a file cannot be written.
        Stopped: after a signal; the same call starts again.
    """
    source = SourceFolder(config.data)
    if not config.pictures.is_dir():
        raise InputError(f"{config.pictures} is not a folder: expected the folder of the pictures")
    paths = [source.require(f"raw_data/{side}.raw.txt", f"{side}.raw.txt") for side in SIDES]
    items = [read_titles(source, path, Tally(1.0)) for path in paths]
    ids = dict.fromkeys(uid for side in items for uid in side.ids if uid)
    folder = source.path / "images"
    folder.mkdir(exist_ok=True)
    places: dict[str, list[int]] = {}
    counts = {"items": len(ids), "without a picture": 0, "pictures": 0, "left out": 0}
    with contextlib.ExitStack() as files:
        images = files.enter_context(replacing(folder / "img.bin"))
        offsets = [files.enter_context(replacing(folder / f"{s}.img.bin.npz")) for s in SIDES]
        bar = files.enter_context(progress(total=len(ids), desc="img.bin", unit="item"))
        for uid in until_stopped(ids, "img.bin"):
            places[uid] = []
            for path in pictures_of(config.pictures, uid):
                if path.stat().st_size > config.max_bytes:
                    _log.warning("%s: larger than %d bytes: left out", path, config.max_bytes)
                    counts["left out"] += 1
                    continue
                places[uid].append(images.tell() + 1)
                name = " ".join(uid.split()).encode("utf-8", "replace")
                images.write(name + b"\t" + base64.b64encode(path.read_bytes()) + b"\n")
            counts["pictures"] += len(places[uid])
            counts["without a picture"] += not places[uid]
            bar.update()
        if not counts["pictures"]:
            raise InputError(
                f"{config.pictures}: none of the {len(ids):,} items has a picture; expected "
                f"{next(iter(ids), 'UID')}/0.jpg or {next(iter(ids), 'UID')}.jpg"
            )
        for file, side in zip(offsets, items, strict=True):
            rows = [places.get(uid, []) for uid in side.ids]
            flat = np.array([place for row in rows for place in row], np.int64)
            ends = np.cumsum([0, *map(len, rows)])
            shape = (len(rows), max(1, len(flat)))
            save_npz(file, csr_matrix((flat, np.arange(len(flat)), ends), shape))
    _log.info(
        "%s: %d pictures of %d items; %d items without a picture, %d files left out",
        folder / "img.bin", counts["pictures"], len(ids), counts["without a picture"],
        counts["left out"],
    )  # fmt: skip
    return counts


def pictures_of(folder: Path, uid: str) -> list[Path]:
    """Return the pictures of an item, in the order of the numbers in their names.

    An id that is no plain name, such as `..` or one with a slash, has none.
    """
    if not uid or uid.startswith(".") or set(uid) & set("/\\\0") or len(uid.encode()) > 200:
        return []
    own = folder / uid
    found = sorted(filter(_is_picture, own.iterdir()), key=_order) if own.is_dir() else []
    names = [f"{uid}.{ending}" for ending in sorted(ENDINGS)]
    names += [f"{uid}.{ending.upper()}" for ending in sorted(ENDINGS)]
    return [*found, *(folder / name for name in names if (folder / name).is_file())]


def _is_picture(path: Path) -> bool:
    ending = path.suffix.removeprefix(".").lower()
    return not path.name.startswith(".") and ending in ENDINGS and path.is_file()


def _order(path: Path) -> list[tuple[int, int | str]]:
    """Return a key that sorts 2.jpg before 10.jpg."""
    parts = re.split(r"(\d{1,18})", path.name)
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    set_up_logging()

    def begin() -> None:
        reject_empty(sys.argv[1:] if argv is None else argv)
        write_img_bin(tyro.cli(ImgBinConfig, args=argv))

    return main_guard(begin)


if __name__ == "__main__":
    sys.exit(main())
