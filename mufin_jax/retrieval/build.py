"""The label side of retrieval: bag vectors Z1_l and centroids mu_l in one index (Module II).

Every label enters with the vectors of its bag and with mu_l, the mean of x1_i over its training
points. All entries are sphere-normalised: the paper leaves them as they are, but a LayerNorm output
has norm ~sqrt(D) and would drown the centroids. Entries and shortlists go to files block by block.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Int64
from scipy import sparse

from mufin_jax.data.dataset import training_pairs
from mufin_jax.data.loader import Loader
from mufin_jax.model.embed_side import SideEmbedding, embed_blocks
from mufin_jax.model.heads import Heads
from mufin_jax.retrieval import scann
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex, check_unit, save_index, shortlist_points
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import check_stop, until_stopped
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.npy import forget, mapped, whole_npy

Consumer = Callable[[Int[np.ndarray, "c"], SideEmbedding], None]
"""Takes the next labels, block after block: which they are, and their embeddings with bags."""


def build_label_index(
    folder: Path,
    heads: Heads,
    loader: Loader,
    vectors: Float[np.ndarray, "p d"],
    x: Float[np.ndarray, "n d"],
    config: IndexConfig,
    pooled: bool = False,
    consumer: Consumer | None = None,
) -> None:
    """Embed the labels of a dataset, and write their index; every process must call this function.

    Args:
        folder: gets the index; `LabelIndex.load` reads it.
        heads: where A_S comes from.
        loader: of the dataset.
        vectors: the descriptor vectors of the dataset (`describe_once`).
        x: x1 of the training datapoints.
        config: how the index searches.
        pooled: index one vector z1 a label instead of its bag and centroid (the ablation P-I-vec).
        consumer: gets the embeddings of all labels, too.
    """
    dataset, keep_bags = loader.dataset, not pooled or consumer is not None
    relevance, _ = training_pairs(dataset.train)
    with entry_writer(folder, relevance, x, pooled) as entries:
        for rows, labels in embed_blocks(heads, loader, vectors, dataset.labels, keep_bags):
            entries.append(rows, labels)
            if consumer is not None:
                consumer(rows, labels)
    complete_index(folder, entries.offsets(), config, heads.mesh)


class EntryWriter:
    """Writes the entries of labels, label after label; `entry_writer` makes it.

    Args:
        append: writes the next vectors.
        relevance: training datapoints x labels, without the pairs of the overlap filter.
        x: x1 of the training datapoints.
        pooled: enter one vector z1 a label instead of its bag.
    """

    def __init__(
        self,
        append: Callable[[np.ndarray], None],
        relevance: sparse.csr_matrix,
        x: Float[np.ndarray, "p d"],
        pooled: bool,
    ):
        self._append, self._x, self._pooled = append, x, pooled
        self._points_of = relevance.astype(bool).astype(np.float32).T.tocsr()
        self._counts = [np.zeros(1, np.int64)]

    def append(self, rows: Int[np.ndarray, "c"], labels: SideEmbedding) -> None:
        """Add the entries of the next labels.

        Args:
            rows: which labels these are: those after the last ones.
            labels: their embeddings, with their bags unless `pooled`.
        """
        if self._pooled:
            owners = np.flatnonzero(labels.mask.any(1))
            vectors = labels.vector[owners]
        else:
            owners = np.nonzero(labels.mask)[0]
            vectors = labels.descriptors()
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            central, means = centroids(self._points_of[rows[0] : rows[-1] + 1], self._x)
            owners, vectors = np.concatenate([owners, central]), np.concatenate([vectors, means])
            forget(self._x)
        entries = LabelEntries.group(vectors, owners, len(rows))
        self._append(entries.vectors)
        self._counts.append(np.diff(entries.offsets))

    def offsets(self) -> Int64[np.ndarray, "l1"]:
        """Return where the entries of each label written so far start, and where the last end."""
        return np.cumsum(np.concatenate(self._counts))


@contextlib.contextmanager
def entry_writer(
    folder: Path, relevance: sparse.csr_matrix, x: Float[np.ndarray, "p d"], pooled: bool = False
) -> Iterator[EntryWriter]:
    """Write `entries.npy` of an index; the file appears at the end, if nothing went wrong.

    Args:
        folder: the index's.
        relevance: training datapoints x labels, without the pairs of the overlap filter.
        x: x1 of the training datapoints.
        pooled: enter one vector z1 a label instead of its bag.
    """
    with whole_npy(folder / "entries.npy", (x.shape[1],)) as file:
        yield EntryWriter(file.append, relevance, x, pooled)


def build_vector_index(
    folder: Path,
    blocks: Iterable[Float[np.ndarray, "b d"]],
    dim: int,
    config: IndexConfig,
    mesh: Mesh,
) -> None:
    """Write an index with one entry for each row of vectors; every process must call this function.

    A row that is zero gets no entry, and is never found. Other rows are sphere-normalised.

    Args:
        folder: gets the index; `LabelIndex.load` reads it.
        blocks: the vectors, block after block; row r stands for label r.
        dim: D.
        config: how the index searches.
        mesh: where a sharded search will run.
    """
    counts = [np.zeros(1, np.int64)]
    with whole_npy(folder / "entries.npy", (dim,)) as file:
        for vectors in until_stopped(blocks, "the index"):
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            real = norms[:, 0] > 1e-6
            file.append(vectors[real] / norms[real])
            counts.append(real.astype(np.int64))
    complete_index(folder, np.cumsum(np.concatenate(counts)), config, mesh)


def complete_index(
    folder: Path, offsets: Int64[np.ndarray, "l1"], config: IndexConfig, mesh: Mesh
) -> None:
    """Complete a folder that has `entries.npy` to what `LabelIndex.load` reads.

    Every process must call this function; process 0 builds and saves the index.

    Args:
        folder: the index's.
        offsets: where the entries of each label start, and where the last ones end.
        config: how the index searches.
        mesh: where a sharded search will run.
    """

    def build() -> None:
        path, tree, save_tree = folder / "entries.npy", folder / "tree.tmp", None
        entries = LabelEntries(mapped(path), offsets)
        count, dim = entries.vectors.shape
        if config.search_over(count, dim, mesh) == "scann":
            check_unit(entries.vectors, "entry")
            stop = functools.partial(check_stop, "the index")
            with disk_errors(tree, scann.least_bytes(count, dim), more=True):
                scann.build_apart(path, tree, config.num_threads(), stop)
            save_tree = functools.partial(_move_tree, tree)
        save_index(folder, entries, config, save_tree)

    processes.once(f"{folder} is built", build)


def _move_tree(tree: Path, folder: Path) -> None:
    """Move a tree to its place in the folder of an index."""
    tree.replace(folder / "tree")


def centroids(
    points_of: sparse.csr_matrix, x: Float[np.ndarray, "p d"]
) -> tuple[Int[np.ndarray, "c"], Float[np.ndarray, "c d"]]:
    """Return the labels that have a training point, and unit(mean of x1_i) of each.

    Args:
        points_of: labels x datapoints, 1 where relevant.
        x: x1 of the datapoints.
    """
    sums = np.asarray(points_of @ np.asarray(x))
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    labels = np.flatnonzero(norms[:, 0] > 1e-6)
    return labels, sums[labels] / norms[labels]


def write_shortlists(
    index: LabelIndex, queries: Iterable[Float[np.ndarray, "b d"]], total: int, k: int, folder: Path
) -> None:
    """Write the shortlists of datapoints that come in blocks; `Shortlist.load` maps them.

    Args:
        index: what is searched.
        queries: x1 of the datapoints, block after block.
        total: how many there will be.
        k: the length of a shortlist.
        folder: gets `labels.npy`, `similarities.npy` and, last, their manifest.

    Raises:
        DiskError: if the files cannot be written.
        Stopped: after a signal.
    """
    bar = progress(total=total, desc=f"retrieve {folder.name}", unit="point", leave=False)
    with (
        whole_npy(folder / "labels.npy", (k,), np.int32, total) as labels,
        whole_npy(folder / "similarities.npy", (k,), np.float32, total) as similarities,
        bar,
    ):
        for x in until_stopped(queries, "retrieve"):
            found = shortlist_points(index, x, k)
            labels.append(found.labels)
            similarities.append(found.similarities)
            bar.update(len(x))
    processes.once(f"the shortlists of {folder.name} are complete", lambda: files.seal(folder))
