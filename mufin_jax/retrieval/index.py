"""Module II, augmented retrieval: the labels nearest to a datapoint, by any entry of a label.

"... creates two sets of representations for each label": an index holds all label bag vectors and
one centroid of the label's training points, each entry carrying its label. A datapoint asks with
its vector embedding. Its shortlist is the first k distinct labels. The similarity of a label is its
exact maximum cosine over *all* its entries, not only over those that the search returned. Entries
and queries are unit-normalised, so a dot product is a cosine.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Int

from mufin_jax.retrieval import scann
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.scann import Tree
from mufin_jax.retrieval.searcher import ExactSearcher, Searcher, TreeSearcher, searcher_on
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors

log = logging.getLogger(__name__)

_ROWS = 1 << 16  # entries checked at once


@dataclasses.dataclass(frozen=True)
class LabelIndex:
    """Finds the labels nearest to queries.

    With several processes, each holds the index and asks the same: the sharded search is joint.

    Attributes:
        entries: of all labels.
        config: how the index searches.
        searcher: what finds labels among the entries.
    """

    entries: LabelEntries
    config: IndexConfig
    searcher: Searcher

    def __repr__(self) -> str:
        return f"LabelIndex({self.entries!r}, {type(self.searcher).__name__})"

    @classmethod
    def build(
        cls,
        vectors: Float[np.ndarray, "e d"],
        labels: Int[np.ndarray, " e"],
        config: IndexConfig | None = None,
        num_labels: int | None = None,
        mesh: Mesh | None = None,
    ) -> "LabelIndex":
        """Index unit-normalised entries in any order, each of which carries a label.

        Labels may have no entry, and are then never retrieved.

        Args:
            vectors: the entries.
            labels: the label of each entry.
            config: how the index searches.
            num_labels: the largest label plus one by default.
            mesh: where a sharded search runs; all devices by default.

        Raises:
            InputError: for vectors that are not finite or not unit-normalised, and for labels out
                of range.
        """
        vectors, labels = np.asarray(vectors), np.asarray(labels)
        num_labels = int(labels.max(initial=-1)) + 1 if num_labels is None else num_labels
        if len(labels) and not (labels.min() >= 0 and labels.max() < num_labels):
            raise InputError(
                f"an entry carries label {labels.min() if labels.min() < 0 else labels.max()}; "
                f"expected labels in 0..{num_labels - 1}"
            )
        check_unit(vectors, "entry")  # in the caller's order, to name the caller's row
        return cls.build_grouped(LabelEntries.group(vectors, labels, num_labels), config, mesh)

    @classmethod
    def build_grouped(
        cls, entries: LabelEntries, config: IndexConfig | None = None, mesh: Mesh | None = None
    ) -> "LabelIndex":
        """Index entries that lie label after label; their vectors may be a map of a file.

        Nothing copies the vectors whole except ScaNN, once, while it builds.

        Args:
            entries: of all labels.
            config: how the index searches.
            mesh: where a sharded search runs; all devices by default.

        Raises:
            InputError: for vectors that are not finite or not unit-normalised.
        """
        config = config or IndexConfig()
        check_unit(entries.vectors, "entry")
        how = config.search_over(len(entries.vectors), entries.vectors.shape[1], mesh)
        if how == "scann":
            tree = Tree.build(entries.vectors, config.num_threads())
            return cls(entries, config, TreeSearcher(entries, tree, config))
        return cls(entries, config, searcher_on(how, entries, config, mesh))

    @property
    def exact(self) -> bool:
        """Whether searches look at every entry."""
        return self.searcher.exact

    def shortlist(self, queries: Float32[np.ndarray, "b d"], k: int) -> Shortlist:
        """Return the k labels nearest to each query that the index finds.

        They have their exact similarities and come best first; equal similarities are ordered by
        label.

        Args:
            queries: unit vectors, such as x1 of datapoints.
            k: the length of a shortlist.

        Raises:
            InputError: for queries that are not finite or not unit-normalised.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if k < 1:
            raise InputError(f"k={k}: expected at least 1")
        if queries.ndim != 2 or queries.shape[1] != self.entries.vectors.shape[1]:
            width = self.entries.vectors.shape[1]
            raise InputError(f"queries have shape {queries.shape}; expected (b, {width})")
        check_unit(queries, "query")
        if not len(queries):
            return ExactSearcher(self.entries).shortlist(queries, k)
        return self.searcher.shortlist(queries, k)

    def warm_up(self, queries: Float32[np.ndarray, "b d"], k: int) -> None:
        """Compile what `shortlist` needs for so many queries, also where it has to look further."""
        self.searcher.warm_up(np.ascontiguousarray(queries, np.float32), k)

    def save(self, folder: Path) -> None:
        """Write the index to a folder; see `save_index`."""
        save_index(folder, self.entries, self.config, self.searcher.save)

    @classmethod
    def load(
        cls, folder: Path, mesh: Mesh | None = None, config: IndexConfig | None = None
    ) -> "LabelIndex":
        """Load what `save` wrote, wherever the folder has moved; entries stay on disk (mmap).

        Args:
            folder: the index's.
            mesh: where a sharded search runs; all devices by default.
            config: how the index searches; as it was built by default. Every search but ScaNN's,
                which requires its tree in the folder, needs the entries alone.

        Raises:
            InputError: before anything is parsed, when a file is missing, damaged or not a file of
                an index.
        """
        again = files.MAKE_ANEW
        facts = files.load_sealed(folder / "index.json")
        try:
            config = config or IndexConfig(**facts["config"])
            shape, listed = (facts["entries"], facts["dimensions"], facts["labels"]), facts["files"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}/index.json: not an index ({error!r}); {again}") from error
        entries = _load_entries(folder, shape, listed)
        how = config.search_over(shape[0], shape[1], mesh)
        if how != "scann":
            return cls(entries, config, searcher_on(how, entries, config, mesh))
        if any(name.startswith("tree/") for name in listed):
            tree = Tree.load(folder / "tree", config.num_threads())
            return cls(entries, config, TreeSearcher(entries, tree, config))
        if config.backend == "scann":
            raise InputError(
                f"{folder}: backend=scann, but the index was built without ScaNN's tree; choose "
                f"exact or sharded, or {again}"
            )
        log.warning("%s was built without ScaNN's tree: exact search replaces it", folder)
        return cls(entries, config, ExactSearcher(entries))


def save_index(
    folder: Path,
    entries: LabelEntries,
    config: IndexConfig,
    save_tree: Callable[[Path], object] | None = None,
) -> None:
    """Write entries.npy, offsets.npy, tree/ (if ScaNN searches) and, last, index.json.

    An entries.npy in the folder that the entries map stays as it is.

    Args:
        folder: the index's.
        entries: of all labels.
        config: recorded, for those who load the index.
        save_tree: puts tree/ into the folder, if there is one: the `save` of a searcher, or a
            function that moves what `scann.build_apart` made of these entries there.
    """
    with disk_errors(folder, entries.vectors.nbytes):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("index.json", "index.json.tmp"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tree", ignore_errors=True)
        if not _maps(entries.vectors, folder / "entries.npy"):
            files.save_array(folder / "entries.npy", entries.vectors)
        files.save_array(folder / "offsets.npy", entries.offsets)
        if save_tree is not None:
            save_tree(folder)
        for path in folder.glob("tree?*"):  # what an interrupted build has left
            shutil.rmtree(path, ignore_errors=True)
    facts = {
        "entries": len(entries.vectors),
        "dimensions": entries.vectors.shape[1],
        "labels": len(entries.offsets) - 1,
        "config": dataclasses.asdict(config),
        "files": files.manifest(folder),
    }
    files.save_sealed(folder / "index.json", facts)


def _load_entries(folder: Path, shape: tuple[int, int, int], listed: dict) -> LabelEntries:
    """Return the entries of a folder, once its files are what index.json lists.

    Raises:
        InputError: if a file is missing, damaged or not a file of an index.
    """
    again = files.MAKE_ANEW
    own = {"entries.npy", "offsets.npy", *(f"tree/{name}" for name in scann.FILES)}
    if strange := sorted(set(listed) - own):
        raise InputError(f"{folder}: {strange[0]} is not a file of an index; {again}")
    if damage := files.damage(folder, listed, ignore={"index.json"}):
        raise InputError(f"{folder}: {damage}; {again}")
    mode = "r" if shape[0] else None  # an empty file cannot be mapped
    vectors = np.load(folder / "entries.npy", mmap_mode=mode, allow_pickle=False)
    offsets = np.load(folder / "offsets.npy", allow_pickle=False)
    if (*vectors.shape, len(offsets) - 1) != shape:
        raise InputError(
            f"{folder}: entries {vectors.shape} and offsets {offsets.shape} do not have the "
            f"shapes in index.json; {again}"
        )
    return LabelEntries(vectors, offsets)


def _maps(vectors: np.ndarray, path: Path) -> bool:
    """Return whether the vectors are what a file holds, mapped."""
    if not (isinstance(vectors, np.memmap) and vectors.filename and path.exists()):
        return False
    if not path.samefile(vectors.filename) or not vectors.flags.c_contiguous:
        return False
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    facts = (vectors.shape, vectors.dtype, vectors.offset)
    return facts == (stored.shape, stored.dtype, stored.offset)


def check_unit(vectors: np.ndarray, what: str) -> None:
    """Raise InputError, which names the first by its row, unless vectors are finite and of norm 1.

    Args:
        vectors: row by row.
        what: the word for a row, in the error.
    """
    first, count = None, 0
    for block in cut(len(vectors), _ROWS):
        squares = np.einsum("ed,ed->e", vectors[block], vectors[block])
        wrong = ~(np.abs(squares - 1) < 0.02)  # written so that NaN is wrong, too
        if wrong.any():
            first = first or (block.start + int(wrong.argmax()), squares[wrong][0] ** 0.5)
            count += int(wrong.sum())
    if first:
        raise InputError(
            f"{what} {first[0]} has norm {first[1]:.4g}; expected vectors that are finite and "
            f"unit-normalised ({count} of {len(vectors)} are not)"
        )


def shortlist_points(index: LabelIndex, x: Float[np.ndarray, "b d"], k: int) -> Shortlist:
    """Return the shortlists of datapoints; one without any descriptor gets an empty list.

    Args:
        index: what is searched.
        x: x1 of the datapoints, zero for one without any descriptor.
        k: the length of a shortlist.
    """
    real = np.linalg.norm(x, axis=1) > 0.5
    labels = np.full((len(x), k), -1, np.int32)
    similarities = np.full((len(x), k), -np.inf, np.float32)
    if real.any():
        found = index.shortlist(x[real], k)
        labels[real], similarities[real] = found.labels, found.similarities
    return Shortlist(labels, similarities)
