"""Ready image vectors instead of pictures, as in ViXML's release.

{trn,tst,lbl}.raw.txt            titles, as `UID->title` or without ids; or the repository's files
<split>_embs_imgs_*.npy          float rows, one an image
<split>_imgs_*_map.npy           for each item the list of its rows, or -1
{trn,tst}_X_Y.txt, filter_labels_{train,test}.txt, categories.txt as in the repository's form
"""

from pathlib import Path

import numpy as np

from mufin_jax.data.readers import repository
from mufin_jax.data.readers.catalogue import Catalogue, RawSide
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.matrices import CountsFromOne
from mufin_jax.data.readers.objects import read_lists
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import damaged

FORM = "image vectors"
_SPLITS = {"train": ("trn", "train"), "test": ("tst", "test"), "label": ("lbl", "label")}
_CHUNK = 65_536
ZERO_SHARE = 0.05
"""A larger share of vectors that are zero is a warning."""


def recognises(source: SourceFolder) -> bool:
    """Return whether the folder has this form."""
    return source.find("lbl.raw.txt") is not None or any(source.path.glob("*_embs_imgs_*.npy"))


def read(source: SourceFolder, tally: Tally, max_images: int, max_bytes: int) -> Catalogue:
    """Read titles, relevance, and the rows of each item's vectors.

    Without any vector file the catalogue has only titles.

    Args:
        source: the folder.
        tally: takes bad lines and unknown labels.
        max_images: the most images of an item; further images are left out.
        max_bytes: unused; there are no encoded images.

    Raises:
        InputError: if a file is missing or does not fit the others, or a vector is not finite.
    """
    del max_bytes
    sides = {}
    for name, stems in _SPLITS.items():
        files = (f"{stems[0]}.raw.txt", f"raw_data/{stems[1]}.raw.txt")
        sides[name] = repository.read_side(source, name, files, tally, ids_optional=True)
    vectors: list[Path] = []
    widths: dict[str, int] = {}
    first = 0
    for name, side in sides.items():
        path = _one(source, name, "_embs_imgs_*.npy")
        if path is None or side.may_lack:
            continue
        array = load_vectors(path)
        widths[path.name] = array.shape[1]
        _read_map(source, name, side, tally, max_images, first, len(array))
        vectors.append(path)
        first += len(array)
    if len(set(widths.values())) > 1:
        raise InputError(f"image vectors of different widths: {widths}")
    repository.read_categories(source, sides["label"])
    relevance, filters = repository.read_pairs(source, sides, tally)
    return Catalogue(FORM, sides, relevance, filters, vectors=vectors)


class VectorContent:
    """Whether vectors tell items apart: zeros and copies of one vector do not.

    Attributes:
        count: how many there are.
        zeros: how many of them are zero.
    """

    def __init__(self) -> None:
        """Start without a vector."""
        self.count = self.zeros = 0
        self._first: np.ndarray | None = None
        self._differ = False

    def add(self, vectors: np.ndarray) -> None:
        """Look at some more vectors, a row each."""
        if not len(vectors):
            return
        if self._first is None:
            self._first = np.array(vectors[0])
        self.count += len(vectors)
        self.zeros += int(np.count_nonzero(~vectors.any(axis=1)))
        self._differ = self._differ or bool((vectors != self._first).any())

    def warnings(self, place: str, kind: str) -> list[str]:
        """Return what is odd about all vectors.

        Args:
            place: begins the error.
            kind: of vectors, in words.

        Raises:
            InputError: if all are zero.
        """
        if self.count and self.zeros == self.count:
            raise InputError(
                f"{place}all {self.count:,} vectors are zero: expected vectors that an encoder has "
                "made"
            )
        if self.count > 1 and not self._differ:
            return [f"all {self.count:,} {kind} vectors are equal: they tell no items apart"]
        if self.zeros > ZERO_SHARE * self.count:
            share = self.zeros / self.count
            return [f"{self.zeros:,} of {self.count:,} {kind} vectors are zero ({share:.0%})"]
        return []


def load_vectors(path: Path) -> np.memmap:
    """Map a vector file after checking, chunk by chunk, that it is a finite float matrix."""
    with damaged(f"{path.name} is not an npy file of vectors ({{reason}})"):
        array = np.lib.format.open_memmap(path, mode="r")  # np.load would open archives too
    if array.ndim != 2 or not array.shape[1] or not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path.name} holds {array.dtype} {array.shape}: expected floats, 2 axes")
    for start in until_stopped(range(0, len(array), _CHUNK), "prepare"):
        finite = np.isfinite(array[start : start + _CHUNK]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise InputError(f"{path.name}: row {row} holds NaN or infinity: fix or remove it")
    return array


def _one(source: SourceFolder, side: str, ending: str) -> Path | None:
    paths = {path for stem in _SPLITS[side] for path in source.path.glob(stem + ending)}
    found = sorted(path for path in paths if source.find(path.name))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{source.path} contains {names}: keep only the file to use")
    return found[0] if found else None


def _read_map(
    source: SourceFolder,
    name: str,
    side: RawSide,
    tally: Tally,
    max_images: int,
    first: int,
    num_vectors: int,
) -> None:
    """Fill the side's image keys; they count the rows of all vector files, from `first` on."""
    path = _one(source, name, "_imgs_*_map.npy")
    if path is None:
        raise InputError(f"{source.path} lacks the map of the {name} vectors: *_imgs_*_map.npy")
    lists = read_lists(path)
    if len(lists) != len(side):
        raise InputError(
            f"{path.name} has {len(lists):,} entries, but {side.file} has {len(side):,} items"
        )
    keys: list[int] = []
    counts_from_one = CountsFromOne(num_vectors)
    tally.seen("images", num_vectors)
    for item, rows in enumerate(lists):
        for row in rows[:max_images]:
            counts_from_one.see(row)
            if 0 <= row < num_vectors:
                keys.append(first + row)
            else:
                reason = f"vector {row} of {num_vectors:,}"
                tally.bad("images", "unknown vector", path.name, item, reason)
        side.image_offsets[item + 1] = len(keys)
    counts_from_one.warn(tally, path.name, nearly_all=False)
    side.image_keys = np.array(keys, np.int64)
