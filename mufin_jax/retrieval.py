"""Module II, augmented retrieval: the labels nearest to a datapoint, by any entry of a label.

"... creates two sets of representations for each label": an index holds all label bag vectors and
one centroid of the label's training points, each entry carrying its label. A datapoint asks with
its vector embedding; its shortlist is the first k distinct labels, and the similarity of a label
is its exact maximum cosine over *all* its entries, not only over those that the index returned.
Entries and queries are unit-normalised, so a dot product is a cosine.
"""

import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from mufin_jax import files, scann_tree
from mufin_jax.errors import InputError
from mufin_jax.label_entries import LabelEntries, blocks
from mufin_jax.scann_tree import Tree
from mufin_jax.shortlist import Shortlist, recall

__all__ = ["IndexConfig", "LabelIndex", "Shortlist", "recall"]

log = logging.getLogger(__name__)

_CELLS = 1 << 21  # retrieved entries held at once


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How the index of Module II searches."""

    backend: Literal["auto", "scann", "exact"] = "auto"
    """scann, exact, or auto: scann where it is installed."""
    leaves_searched: float = 0.05
    """Share of the tree's leaves that a query visits, at least."""
    entries_searched: int = 20_000
    """Entries that a query visits, at least (in expectation): 5% of a small tree is too little."""
    reorder: int = 10
    """Entries whose exact cosine is computed, in multiples of k: the knob for recall."""
    over_fetch: int = 3
    """Entries asked for in multiples of k, so that k distinct labels are among them."""
    threads: int = 0
    """Threads for building and searching; 0: one a core."""

    def __post_init__(self) -> None:
        if not 0 < self.leaves_searched <= 1:
            raise InputError(f"leaves_searched={self.leaves_searched} should be in (0, 1]")
        for name in ("reorder", "over_fetch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} should be at least 1")
        for name in ("entries_searched", "threads"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} should be 0 or more")


@dataclasses.dataclass(frozen=True)
class LabelIndex:
    """Finds the labels nearest to queries: approximately by ScaNN, or exactly (tree None)."""

    entries: LabelEntries
    config: IndexConfig
    tree: Tree | None = None

    @classmethod
    def build(
        cls,
        vectors: Float[np.ndarray, "e d"],
        labels: Int[np.ndarray, " e"],
        config: IndexConfig | None = None,
        num_labels: int | None = None,
    ) -> "LabelIndex":
        """Indexes unit-normalised entries, of which each carries a label.

        num_labels defaults to the largest label plus one; labels may have no entry, and are then
        never retrieved. Raises InputError for vectors that are not finite or not unit-normalised
        and for labels out of range.
        """
        config = config or IndexConfig()
        vectors, labels = np.asarray(vectors), np.asarray(labels)
        num_labels = int(labels.max(initial=-1)) + 1 if num_labels is None else num_labels
        if len(labels) and not (labels.min() >= 0 and labels.max() < num_labels):
            raise InputError(
                f"an entry carries label {labels.min() if labels.min() < 0 else labels.max()}; "
                f"labels should be in 0..{num_labels - 1}"
            )
        _check_unit(vectors, "entry")
        entries = LabelEntries.group(vectors, labels, num_labels)
        tree = None
        if len(vectors) >= scann_tree.FEWEST_VECTORS and _wants_scann(config.backend):
            tree = Tree.build(entries.vectors, _threads(config))
        return cls(entries, config, tree)

    def search(self, queries: Float32[np.ndarray, "b d"], k: int) -> Shortlist:
        """The first k distinct labels of each query, by the best entry that the index found.

        Equal similarities are ordered by label. Raises InputError for queries that are not finite
        or not unit-normalised.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if k < 1:
            raise InputError(f"k={k} should be at least 1")
        if queries.ndim != 2 or queries.shape[1] != self.entries.vectors.shape[1]:
            wanted = self.entries.vectors.shape[1]
            raise InputError(f"queries have shape {queries.shape}; the index wants (b, {wanted})")
        _check_unit(queries, "query")
        if self.tree is None or not len(queries):
            return Shortlist(*self.entries.exact_search(queries, k))
        return self._search_tree(self.tree, queries, k)

    def shortlist(self, queries: Float32[np.ndarray, "b d"], k: int) -> Shortlist:
        """`search`, then the exact similarity of every label found, best first."""
        found = self.search(queries, k)
        if self.tree is None:
            return found  # exact search already looked at every entry
        similarities = self.entries.exact_similarity(
            np.ascontiguousarray(queries, np.float32), found.labels
        )
        order = np.lexsort((found.labels, -similarities))
        return Shortlist(
            np.take_along_axis(found.labels, order, 1), np.take_along_axis(similarities, order, 1)
        )

    def _search_tree(self, tree: Tree, queries: np.ndarray, k: int) -> Shortlist:
        size, wanted = tree.size, min(k, len(self.entries.filled))
        fetch, reorder = min(self.config.over_fetch * k, size), self.config.reorder * k
        share = max(self.config.leaves_searched, max(self.config.entries_searched, reorder) / size)
        labels = np.full((len(queries), k), -1, np.int32)
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        short = np.arange(len(queries))
        while len(short):
            for block in blocks(len(short), _CELLS // fetch):
                rows = short[block]
                found = tree.search(queries[rows], fetch, reorder, share)
                labels[rows], similarities[rows] = self.entries.first_distinct(*found, k)
            if fetch == size and share >= 1:
                break
            # Where few labels own the nearest entries, look further, for those rows alone.
            short = short[(labels[short] >= 0).sum(1) < wanted]
            fetch, share = min(4 * fetch, size), 4 * share
        return Shortlist(labels, similarities)

    def save(self, folder: Path) -> None:
        """Writes entries.npy, offsets.npy, tree/ (unless exact) and, last, index.json."""
        with files.disk_errors(folder, 2 * self.entries.vectors.nbytes):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "index.json").unlink(missing_ok=True)
            shutil.rmtree(folder / "tree", ignore_errors=True)
            np.save(folder / "entries.npy", self.entries.vectors)
            np.save(folder / "offsets.npy", self.entries.offsets)
            if self.tree is not None:
                (folder / "tree").mkdir(exist_ok=True)
                self.tree.save(folder / "tree")
        facts = {
            "backend": "exact" if self.tree is None else "scann",
            "entries": len(self.entries.vectors),
            "dimensions": self.entries.vectors.shape[1],
            "labels": len(self.entries.offsets) - 1,
            "config": dataclasses.asdict(self.config),
            "files": files.manifest(folder),
        }
        files.write_json(folder / "index.json", facts)

    @classmethod
    def load(cls, folder: Path) -> "LabelIndex":
        """Reads what `save` wrote, wherever the folder has moved; entries stay on disk (mmap).

        Raises InputError, before anything is parsed, when a file is missing, damaged or not
        one of the index's.
        """
        again = f"delete {folder} and run --stage=retrieve"
        facts = files.read_json(folder / "index.json")
        try:
            config, backend = IndexConfig(**facts["config"]), facts["backend"]
            shape, listed = (facts["entries"], facts["dimensions"], facts["labels"]), facts["files"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}/index.json: not an index ({error!r}); {again}") from error
        own = {"entries.npy", "offsets.npy", *(f"tree/{name}" for name in scann_tree.FILES)}
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
        tree = None
        if backend == "scann" and _wants_scann(config.backend):
            tree = Tree.load(folder / "tree", len(vectors), _threads(config))
        return cls(LabelEntries(vectors, offsets), config, tree)


def _check_unit(vectors: np.ndarray, what: str) -> None:
    squares = np.einsum("ed,ed->e", vectors, vectors)
    wrong = ~(np.abs(squares - 1) < 0.02)  # written so that NaN is wrong, too
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{what} {row} has norm {squares[row] ** 0.5:.4g}; vectors should be finite and "
            f"unit-normalised ({wrong.sum()} of {len(vectors)} are not)"
        )


def _wants_scann(backend: str) -> bool:
    if backend == "exact" or scann_tree.importable():
        return backend != "exact"
    if backend == "scann":
        raise InputError("backend=scann, but ScaNN is not installed; pip install scann, or auto")
    log.warning("ScaNN is not installed: exact search takes its place, slower for many labels")
    return False


def _threads(config: IndexConfig) -> int:
    if config.threads or not hasattr(os, "sched_getaffinity"):
        return config.threads or os.cpu_count() or 1
    return len(os.sched_getaffinity(0))  # in a container, fewer than cpu_count
