"""Ready vectors of texts and of pictures take the place of tokens and pixels."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from mufin_jax.data.preparation.resize import Bag
from mufin_jax.data.readers.catalogue import SIDES, Catalogue, RawSide
from mufin_jax.data.readers.named_vectors import Kind, NamedVectors
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.readers.vectors import VectorContent
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.npy import NpyWriter

_log = logging.getLogger(__name__)
_BLOCK = 16_384


def ready_texts(
    path: Path, catalogue: Catalogue, out: Path, tally: Tally
) -> dict[str, Int32[np.ndarray, " n"]]:
    """Write text_vectors.npy, a row an item that has a vector; return the row of each item, or -1.

    Rows stand in the order in which the sides first mention the items. An item of several sides has
    one row.

    Args:
        path: the vectors, by item id.
        catalogue: the items.
        out: the npy file.
        tally: takes the items without a vector.

    Raises:
        InputError: if the vectors cannot be used, or the data are outfits.
    """
    ids, rows = _write(path, catalogue, "text", out, tally)
    return {
        name: np.array([rows.get(ids.get(uid, -1), (-1,))[0] for uid in _kept(side)], np.int32)
        for name, side in catalogue.sides.items()
    }


def ready_images(
    path: Path, catalogue: Catalogue, out: Path, tally: Tally, max_images: int
) -> dict[str, Bag]:
    """Write image_vectors.npy, a row a picture; return by side the rows of each item.

    Args:
        path: the vectors, by item id; rows of the same id are several pictures.
        catalogue: the items; their own pictures are not read.
        out: the npy file.
        tally: takes the items without a vector.
        max_images: the most pictures of an item; the first ones are kept.

    Raises:
        InputError: if the vectors cannot be used, or the data are outfits.
    """
    ids, rows = _write(path, catalogue, "image", out, tally)
    bags = {}
    for name, side in catalogue.sides.items():
        own = [rows.get(ids.get(uid, -1), ())[:max_images] for uid in _kept(side)]
        offsets = np.zeros(len(own) + 1, np.int64)
        np.cumsum([len(some) for some in own], out=offsets[1:])
        flat = np.fromiter((row for some in own for row in some), np.int64, int(offsets[-1]))
        bags[name] = Bag(offsets, flat)
    return bags


def _write(
    path: Path, catalogue: Catalogue, kind: Kind, out: Path, tally: Tally
) -> tuple[dict[str, int], dict[int, range]]:
    """Write the vectors of the catalogue's items; return the items' numbers and their rows."""
    if kind == "text" and catalogue.questions is None:
        if any(side.texts for side in catalogue.sides.values()):
            raise InputError(
                f"--prepare.text-vectors={path}: there is one vector an item, and texts=... in "
                "--prepare.columns names further texts; leave one of the two out"
            )
    if catalogue.questions is not None:
        raise InputError(
            f"--prepare.{kind}-vectors={path}: a point of outfits holds several items, and ready "
            "vectors are of one item each; leave the option out"
        )
    ids: dict[str, int] = {}
    for name in SIDES:
        for uid in _kept(catalogue.sides[name]):
            if uid:
                ids.setdefault(uid, len(ids))
    found = NamedVectors.load(path, ids, kind)
    content = VectorContent()
    with NpyWriter(out, (found.files[0].shape[1],), np.float32) as writer:
        for some in until_stopped(cut(len(found.rows), _BLOCK), "prepare"):
            block = found.read(some)
            content.add(block)
            writer.append(block)
    tally.warnings += content.warnings(f"{path}: ", kind)
    rows = _runs(found.items)
    _report_missing(path, catalogue, kind, ids, rows, tally)
    return ids, rows


def _kept(side: RawSide) -> list[str]:
    """Return the id of each item, "" for one that is not kept."""
    return [uid if kept else "" for uid, kept in zip(side.ids, side.kept.tolist(), strict=True)]


def _runs(items: Int64[np.ndarray, " k"]) -> dict[int, range]:
    """Return the places of each item in a sorted array of items."""
    starts = np.flatnonzero(np.diff(items, prepend=-1))
    stops = np.append(starts[1:], len(items))
    return {
        int(items[start]): range(start, stop)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    }


def _report_missing(
    path: Path,
    catalogue: Catalogue,
    kind: Kind,
    ids: dict[str, int],
    rows: dict[int, range],
    tally: Tally,
) -> None:
    """Record the items without a vector, each once, and log their number and the first one."""
    missing: list[str] = []
    counted: set[int] = set()
    for name in SIDES:
        side = catalogue.sides[name]
        for row, uid in zip(side.rows.tolist(), _kept(side), strict=True):
            number = ids.get(uid, -1)
            if number < 0 or number in rows or number in counted:
                continue
            counted.add(number)
            missing.append(uid)
            tally.note(f"no {kind} vector", side.file, row, f"{uid} is not in {path}")
    if missing:
        _log.warning(
            "%s: %d of %d items have no %s vector; the first one is %r",
            path, len(missing), len(ids), kind, missing[0],
        )  # fmt: skip
