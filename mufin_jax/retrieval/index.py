"""Module II, augmented retrieval: the labels nearest to a datapoint, by any entry of a label.

"... creates two sets of representations for each label": an index holds all label bag vectors and
one centroid of the label's training points, each entry carrying its label. A datapoint asks with
its vector embedding; its shortlist is the first k distinct labels, and the similarity of a label
is its exact maximum cosine over *all* its entries, not only over those that the index returned.
Entries and queries are unit-normalised, so a dot product is a cosine.
"""

import dataclasses
import logging
import math
import shutil
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Int

from mufin_jax.retrieval import scann
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries, best_first, blocks
from mufin_jax.retrieval.scann import Tree
from mufin_jax.retrieval.sharded import MeshSearch
from mufin_jax.retrieval.shortlist import Shortlist, recall
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors

__all__ = ["IndexConfig", "LabelIndex", "Shortlist", "recall"]

log = logging.getLogger(__name__)

_CELLS = 1 << 21  # retrieved entries held at once
_ROWS = 1 << 16  # entries checked at once
_WIDENINGS = 2  # a search that looks further: 3 k entries, 12 k, 48 k
_FEWEST = 200  # entries asked for by codes: fewer do not make the search faster
_CANDIDATES = 0.4  # labels compared exactly, for each entry that approximate search is asked for


@dataclasses.dataclass(frozen=True)
class LabelIndex:
    """Finds the labels nearest to queries, by its searcher; by numpy, exactly, if that is None.

    Over several processes, each holds the index and asks the same: the sharded search is joint.
    """

    entries: LabelEntries
    config: IndexConfig
    searcher: Tree | MeshSearch | None = None

    @classmethod
    def build(
        cls,
        vectors: Float[np.ndarray, "e d"],
        labels: Int[np.ndarray, " e"],
        config: IndexConfig | None = None,
        num_labels: int | None = None,
        mesh: Mesh | None = None,
    ) -> "LabelIndex":
        """Indexes unit-normalised entries in any order, of which each carries a label.

        num_labels defaults to the largest label plus one; labels may have no entry, and are then
        never retrieved. Raises InputError for vectors that are not finite or not unit-normalised
        and for labels out of range.
        """
        vectors, labels = np.asarray(vectors), np.asarray(labels)
        num_labels = int(labels.max(initial=-1)) + 1 if num_labels is None else num_labels
        if len(labels) and not (labels.min() >= 0 and labels.max() < num_labels):
            raise InputError(
                f"an entry carries label {labels.min() if labels.min() < 0 else labels.max()}; "
                f"labels should be in 0..{num_labels - 1}"
            )
        check_unit(vectors, "entry")  # in the caller's order, to name the caller's row
        return cls.over(LabelEntries.group(vectors, labels, num_labels), config, mesh)

    @classmethod
    def over(
        cls, entries: LabelEntries, config: IndexConfig | None = None, mesh: Mesh | None = None
    ) -> "LabelIndex":
        """Indexes entries that lie label after label; their vectors may be a map of a file.

        Nothing copies the vectors whole except ScaNN, once, while it builds. The mesh, of all
        devices by default, is where a sharded search runs. Raises InputError for vectors that
        are not finite or not unit-normalised.
        """
        config = config or IndexConfig()
        check_unit(entries.vectors, "entry")
        how = config.search_over(len(entries.vectors), entries.vectors.shape[1], mesh)
        if how == "scann":
            return cls(entries, config, Tree.build(entries.vectors, config.num_threads()))
        return cls(entries, config, _on_mesh(how, entries.vectors, mesh))

    @property
    def exact(self) -> bool:
        """Whether searches look at every entry."""
        searcher = self.searcher
        return not isinstance(searcher, Tree) and not (searcher and searcher.approximate)

    def shortlist(self, queries: Float32[np.ndarray, "b d"], k: int) -> Shortlist:
        """The k labels nearest to each query that the index finds, with their exact similarities.

        Best first; equal similarities are ordered by label. Raises InputError for queries that
        are not finite or not unit-normalised.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if k < 1:
            raise InputError(f"k={k} should be at least 1")
        if queries.ndim != 2 or queries.shape[1] != self.entries.vectors.shape[1]:
            wanted = self.entries.vectors.shape[1]
            raise InputError(f"queries have shape {queries.shape}; the index wants (b, {wanted})")
        check_unit(queries, "query")
        if self.searcher is None or not len(queries):
            return Shortlist(*self.entries.exact_search(queries, k))
        if self.exact:  # the best entry of a label that it found is the label's best of all
            return self._distinct(self.searcher, queries, k, k, self.config.over_fetch * k)
        fetch = self.config.over_fetch * k
        if isinstance(self.searcher, Tree):
            fetch = max(self.config.reorder * k, _FEWEST)
        most = max(k, math.ceil(_CANDIDATES * fetch))
        candidates = self._distinct(self.searcher, queries, k, most, fetch)
        similarities = self.entries.exact_similarity(queries, candidates.labels)
        return Shortlist(*best_first(candidates.labels, similarities, k))

    def _distinct(
        self, searcher: Tree | MeshSearch, queries: np.ndarray, k: int, most: int, fetch: int
    ) -> Shortlist:
        """The `most` best distinct labels among `fetch` entries or, where they are not k, more.

        A label's similarity is that of the best of its entries, as the searcher knows it.
        """
        size, wanted = searcher.size, min(k, len(self.entries.filled))
        fetch = min(fetch, size)
        share = self.config.share(size, fetch)
        labels = np.full((len(queries), most), -1, np.int32)
        similarities = np.full((len(queries), most), -np.inf, np.float32)
        short = np.arange(len(queries))
        while len(short):
            for block in blocks(len(short), _CELLS // fetch):
                rows = short[block]
                found = searcher.search(queries[rows], fetch, share)
                labels[rows], similarities[rows] = self.entries.first_distinct(*found, most)
            if fetch == size and share >= 1:
                break
            # Where few labels own the nearest entries, look further, for those rows alone.
            short = short[(labels[short] >= 0).sum(1) < wanted]
            fetch, share = min(4 * fetch, size), 4 * share
        return Shortlist(labels, similarities)

    def warm_up(self, queries: Float32[np.ndarray, "b d"], k: int) -> None:
        """Compiles what `shortlist` needs for so many queries, also where it has to look further.

        It looks further where few labels own the nearest entries, which these queries may not meet.
        """
        self.shortlist(queries, k)
        if isinstance(self.searcher, MeshSearch):
            for further in range(1, _WIDENINGS + 1):
                wanted = min(4**further * self.config.over_fetch * k, self.searcher.size)
                self.searcher.search(np.ascontiguousarray(queries, np.float32), wanted)

    def save(self, folder: Path, tree: Path | None = None) -> None:
        """Writes entries.npy, offsets.npy, tree/ (if ScaNN searches) and, last, index.json.

        An entries.npy in the folder that the entries map stays as it is; a folder that
        `scann.build_apart` made of them, if any, becomes tree/.
        """
        with disk_errors(folder, self.entries.vectors.nbytes):
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("index.json", "index.json.tmp"):
                (folder / name).unlink(missing_ok=True)
            for path in folder.glob("tree*"):
                if path != tree:
                    shutil.rmtree(path, ignore_errors=True)
            if not _maps(self.entries.vectors, folder / "entries.npy"):
                files.save_array(folder / "entries.npy", self.entries.vectors)
            files.save_array(folder / "offsets.npy", self.entries.offsets)
            if isinstance(self.searcher, Tree):
                (folder / "tree").mkdir(exist_ok=True)
                self.searcher.save(folder / "tree")
            elif tree is not None:
                tree.replace(folder / "tree")
        facts = {
            "entries": len(self.entries.vectors),
            "dimensions": self.entries.vectors.shape[1],
            "labels": len(self.entries.offsets) - 1,
            "config": dataclasses.asdict(self.config),
            "files": files.manifest(folder),
        }
        files.write_sealed(folder / "index.json", facts)

    @classmethod
    def load(
        cls, folder: Path, mesh: Mesh | None = None, config: IndexConfig | None = None
    ) -> "LabelIndex":
        """Reads what `save` wrote, wherever the folder has moved; entries stay on disk (mmap).

        The config, by default the one that the index was built with, chooses the backend again;
        any but ScaNN, which wants its tree in the folder, needs the entries alone. Raises
        InputError, before anything is parsed, when a file is missing, damaged or not one of the
        index's.
        """
        again = files.MAKE_ANEW
        facts = files.read_sealed(folder / "index.json")
        try:
            config = config or IndexConfig(**facts["config"])
            shape, listed = (facts["entries"], facts["dimensions"], facts["labels"]), facts["files"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}/index.json: not an index ({error!r}); {again}") from error
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
        entries, how = LabelEntries(vectors, offsets), config.search_over(shape[0], shape[1], mesh)
        if how != "scann":
            return cls(entries, config, _on_mesh(how, vectors, mesh))
        if any(name.startswith("tree/") for name in listed):
            return cls(entries, config, Tree.load(folder / "tree", config.num_threads()))
        if config.backend == "scann":
            raise InputError(
                f"{folder}: backend=scann, but the index was built without ScaNN's tree; choose "
                f"exact or sharded, or {again}"
            )
        log.warning("%s was built without ScaNN's tree: exact search takes its place", folder)
        return cls(entries, config)


def _on_mesh(how: str, vectors: np.ndarray, mesh: Mesh | None) -> MeshSearch | None:
    if how == "exact":
        return None
    return MeshSearch.build(vectors, mesh or make_mesh(), how == "sharded_approx")


def _maps(vectors: np.ndarray, path: Path) -> bool:
    """Whether the vectors are what a file holds, mapped."""
    if not (isinstance(vectors, np.memmap) and vectors.filename and path.exists()):
        return False
    if not path.samefile(vectors.filename) or not vectors.flags.c_contiguous:
        return False
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    facts = (vectors.shape, vectors.dtype, vectors.offset)
    return facts == (stored.shape, stored.dtype, stored.offset)


def check_unit(vectors: np.ndarray, what: str) -> None:
    """InputError, which names the first by its row, unless vectors are finite and of norm 1."""
    first, count = None, 0
    for block in blocks(len(vectors), _ROWS):
        squares = np.einsum("ed,ed->e", vectors[block], vectors[block])
        wrong = ~(np.abs(squares - 1) < 0.02)  # written so that NaN is wrong, too
        if wrong.any():
            first = first or (block.start + int(wrong.argmax()), squares[wrong][0] ** 0.5)
            count += int(wrong.sum())
    if first:
        raise InputError(
            f"{what} {first[0]} has norm {first[1]:.4g}; vectors should be finite and "
            f"unit-normalised ({count} of {len(vectors)} are not)"
        )


def shortlist(index: LabelIndex, x: Float[np.ndarray, "b d"], k: int) -> Shortlist:
    """Return the shortlists of datapoints; one without any descriptor gets an empty list."""
    real = np.linalg.norm(x, axis=1) > 0.5
    labels = np.full((len(x), k), -1, np.int32)
    similarities = np.full((len(x), k), -np.inf, np.float32)
    if real.any():
        found = index.shortlist(x[real], k)
        labels[real], similarities[real] = found.labels, found.similarities
    return Shortlist(labels, similarities)
