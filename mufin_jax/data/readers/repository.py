"""The Extreme Classification Repository's form; MM-AmazonTitles-300K is published in it.

raw_data/{train,test,label}.raw.txt   `UID->title` a line
{trn,tst}_X_Y.txt                     `rows columns`, then `label:value ...` a line
filter_labels_{train,test}.txt        `point label` a line; optional
images/img.bin                        `UID<TAB>base64 of a JPEG` a line; optional
images/{train,test,label}.img.bin.npz CSR of items x image slots, value = byte offset of the
                                      image's line in img.bin, plus one
img.urls.txt                          `UID<TAB>URL` a line; never downloaded
categories.txt                        one category name a label; optional
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from mufin_jax.data.images import BadImage
from mufin_jax.data.readers import matrices
from mufin_jax.data.readers.catalogue import SIDES, Catalogue, NoImages, RawSide, no_test_points
from mufin_jax.data.readers.files import SourceFolder, decode, lines
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.readers.values import clean_id, unescaped
from mufin_jax.runtime.errors import InputError

FORM = "repository"
_PAIRS = {"train": "trn_X_Y.txt", "test": "tst_X_Y.txt"}
_FILTERS = {
    "train": ("filter_labels_train.txt", "trn_filter_labels.txt"),
    "test": ("filter_labels_test.txt", "tst_filter_labels.txt"),
}


class ImageBin:
    """The file img.bin, read at given offsets."""

    def __init__(self, path: Path, name: str, max_bytes: int):
        """Look only at the size of the file; `name` is for messages."""
        self._path = path
        self._size = path.stat().st_size
        self._name = name
        # base64 takes 4 bytes for 3, and the line begins with the UID.
        self._max_line = max_bytes * 4 // 3 + 4096
        self._max_bytes = max_bytes

    def name(self, key: int) -> str:
        """Return the byte offset of the image's line."""
        return f"{self._name} at byte {key}"

    def read(self, key: int) -> bytes:
        """Return the JPEG in the line that starts at byte `key`.

        Raises:
            BadImage: if no line starts there, or the line is too long or not base64.
        """
        if not 0 <= key < self._size:
            raise BadImage(f"byte {key} lies outside the {self._size:,} bytes of {self._name}")
        with self._path.open("rb") as file:  # threads do not share a position
            file.seek(max(key - 1, 0))
            if key and file.read(1) != b"\n":
                raise BadImage(f"no line starts at byte {key} of {self._name}")
            line = file.readline(self._max_line + 1)
        if len(line) > self._max_line:
            raise BadImage(f"larger than {self._max_bytes:,} bytes")
        _, tab, encoded = line.rstrip(b"\r\n").partition(b"\t")
        if not tab:
            raise BadImage("expected `UID<TAB>base64`, found no tab")
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise BadImage(f"not base64 ({error})") from None


def recognises(source: SourceFolder) -> bool:
    """Return whether the folder has this form."""
    return source.find("raw_data/label.raw.txt", "label.raw.txt") is not None


def read(source: SourceFolder, tally: Tally, max_images: int, max_bytes: int) -> Catalogue:
    """Read everything except the images' bytes.

    Args:
        source: the folder.
        tally: takes bad lines, unknown labels, and URLs.
        max_images: the most images of an item; further images are left out.
        max_bytes: the largest encoded image.

    Raises:
        InputError: if a file is missing or does not fit the others.
    """
    sides = {
        name: read_side(source, name, (f"raw_data/{name}.raw.txt", f"{name}.raw.txt"), tally)
        for name in SIDES
    }
    bin_path = source.find("images/img.bin")
    images = NoImages()
    if bin_path is None:
        note_urls(source, tally)
    else:
        images = ImageBin(bin_path, source.name(bin_path), max_bytes)
        for name, side in sides.items():
            if side.may_lack:
                continue
            _read_offsets(source, name, side, tally, max_images)
    read_categories(source, sides["label"])
    relevance, filters = read_pairs(source, sides, tally)
    return Catalogue(FORM, sides, relevance, filters, images)


def read_pairs(
    source: SourceFolder, sides: dict[str, RawSide], tally: Tally
) -> tuple[dict[str, csr_matrix], dict[str, csr_matrix] | None]:
    """Return the relevance of both sides, and the filters if either side has a file (else None)."""
    shapes = {name: (len(sides[name]), len(sides["label"])) for name in _PAIRS}
    relevance = {
        name: matrices.from_rows([], shapes[name][1])
        if sides[name].may_lack
        else matrices.read_relevance(source, source.require(file), shapes[name], tally)
        for name, file in _PAIRS.items()
    }
    return relevance, read_filters(source, sides, tally)


def read_filters(
    source: SourceFolder, sides: dict[str, RawSide], tally: Tally
) -> dict[str, csr_matrix] | None:
    """Return the filters by side, an absent file as an empty filter; None if both are absent."""
    found = {name: source.find(*files) for name, files in _FILTERS.items()}
    if not any(found.values()):
        return None
    shapes = {name: (len(sides[name]), len(sides["label"])) for name in found}
    return {
        name: matrices.read_pairs(source, path, shapes[name], tally)
        if path and not sides[name].may_lack
        else matrices.from_rows([()] * shapes[name][0], shapes[name][1])
        for name, path in found.items()
    }


def read_categories(source: SourceFolder, label: RawSide) -> None:
    """Give the labels their categories, if there is a file of categories."""
    path = source.find("categories.txt")
    if path is None:
        return
    names = [unescaped(decode(line)).strip() for _, line in lines(path, trailing_blanks=True)]
    if len(names) != len(label):
        raise InputError(
            f"{source.name(path)} has {len(names):,} lines, but there are {len(label):,} labels"
        )
    label.categories = names


def read_side(
    source: SourceFolder, name: str, files: Sequence[str], tally: Tally, ids_optional: bool = False
) -> RawSide:
    """Read the titles of a side; the file of the test points may be absent or empty.

    Args:
        source: the folder.
        name: of the side.
        files: names that its file may have.
        tally: takes bad lines.
        ids_optional: as for `read_titles`.

    Raises:
        InputError: if test points have relevant labels and no titles.
    """
    path = source.find(*files) if name == "test" else source.require(*files)
    if path is None or (name == "test" and not path.stat().st_size):
        if source.find(_PAIRS["test"]):
            raise InputError(
                f"{files[0]} is absent or empty, but there is {_PAIRS['test']}: bring the titles "
                "of the test points, or leave out both to train without test points"
            )
        tally.warnings.append(f"{files[0]} is absent or empty: there are no test points")
        return no_test_points(files[0])
    return read_titles(source, path, tally, ids_optional)


def read_titles(
    source: SourceFolder, path: Path, tally: Tally, ids_optional: bool = False
) -> RawSide:
    """Read `UID->title` lines; return a side without images.

    Args:
        source: the folder.
        path: the file in it.
        tally: takes bad lines.
        ids_optional: accept a file without any `->`: its lines are titles, and the ids are made
            from the file's name and the row.
    """
    name = source.name(path)
    numbered = [(row, decode(line)) for row, line in lines(path)]
    if not numbered:
        raise InputError(f"{name} is empty: expected `UID->title` lines")
    bare = ids_optional and not any("->" in line for _, line in numbered)
    tally.seen("lines", len(numbered))
    known: set[str] = set()
    ids, titles, kept = [], [], np.ones(len(numbered), bool)
    for i, (row, line) in enumerate(numbered):
        uid, arrow, title = (f"{path.stem}-{row}", "->", line) if bare else line.partition("->")
        uid, plain = clean_id(uid) or "", unescaped(title)
        if plain != title:
            reason = "HTML entities such as &amp; became characters"
            tally.count("HTML entities", name, row, reason)
        if not line.strip() and not bare:  # it keeps its place, which relevance counts
            tally.count("blank line", name, row, "left out")
            kept[i] = False
        elif not arrow or not uid:
            tally.bad("lines", "bad line", name, row, "expected `UID->title`")
            kept[i] = False
        elif uid in known:
            tally.bad("lines", "repeated id", name, row, f"{uid} occurs in an earlier line")
            kept[i] = False
        known.add(uid)
        ids.append(uid)
        titles.append(plain.strip())
    rows = np.array([row for row, _ in numbered], np.int64)
    none = np.zeros(0, np.int64)
    return RawSide(name, rows, ids, titles, kept, np.zeros(len(ids) + 1, np.int64), none)


def note_urls(source: SourceFolder, tally: Tally) -> None:
    """Count the images that are known only by URL."""
    path = source.find("img.urls.txt")
    if path is None:
        return
    reason = "not downloaded: download the pictures and write them to images/img.bin"
    for row, line in lines(path):
        if line.strip():
            tally.note("image by URL", source.name(path), row, reason)


def _read_offsets(
    source: SourceFolder, name: str, side: RawSide, tally: Tally, max_images: int
) -> None:
    path = source.require(f"images/{name}.img.bin.npz")
    matrix = matrices.read_csr(source, path, len(side))
    matrix.sort_indices()
    matrix.eliminate_zeros()
    offsets = matrix.data
    odd = (offsets < 1) | (offsets >= 2**53) | (offsets != np.floor(offsets))
    if odd.any():
        raise InputError(
            f"{source.name(path)}: an offset is {offsets[np.argmax(odd)]}: expected whole numbers "
            "from 1, the byte of a line of img.bin plus one"
        )
    keep = np.ones(matrix.nnz, bool)
    counts = np.diff(matrix.indptr)
    for row in np.flatnonzero(counts > max_images):
        keep[matrix.indptr[row] + max_images : matrix.indptr[row + 1]] = False
        reason = f"{counts[row] - max_images} images beyond the first {max_images} left out"
        tally.note("more images than max_images", side.file, int(side.rows[row]), reason)
    side.image_keys = matrix.data[keep].astype(np.int64) - 1
    np.cumsum(np.minimum(counts, max_images), out=side.image_offsets[1:])
