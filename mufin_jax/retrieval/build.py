"""The label side of retrieval: bag vectors Z1_l and centroids mu_l in one index (Module II).

Every label enters with the vectors of its bag and with mu_l, the mean of x1_i over its training
points. All entries are sphere-normalised: the paper leaves them as they are, but a LayerNorm output
has norm ~sqrt(D) and would drown the centroids. Entries and shortlists go to files as they come.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from scipy import sparse

from mufin_jax.model.embed_side import SideEmbedding
from mufin_jax.retrieval import scann
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import IndexConfig, LabelIndex, check_unit, shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import check_stop, until_stopped
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.npy import forget, mapped, whole_npy


class EntryWriter:
    """Writes `entries.npy` of an index, label after label; a context manager.

    Args:
        folder: the index's.
        relevance: training datapoints x labels, without the pairs of the overlap filter.
        x: x1 of the training datapoints.
        pooled: enter one vector z1 a label instead of its bag (the ablation P-I-vec).
    """

    def __init__(
        self,
        folder: Path,
        relevance: sparse.csr_matrix,
        x: Float[np.ndarray, "p d"],
        pooled: bool = False,
    ):
        self.folder, self.x, self.pooled = folder, x, pooled
        self._points_of = relevance.astype(bool).astype(np.float32).T.tocsr()
        self._counts = [np.zeros(1, np.int64)]
        self._file = whole_npy(folder / "entries.npy", (x.shape[1],))

    def __enter__(self) -> "EntryWriter":
        """Itself."""
        self._writer = self._file.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        """The file appears, if nothing went wrong."""
        self._file.__exit__(*exception)

    def append(self, rows: Int[np.ndarray, "c"], labels: SideEmbedding) -> None:
        """Add the entries of the next labels.

        Args:
            rows: which labels these are: those after the last ones.
            labels: their embeddings, with their bags unless `pooled`.
        """
        if self.pooled:
            owners = np.flatnonzero(labels.mask.any(1))
            vectors = labels.vector[owners]
        else:
            assert labels.bag is not None
            owners = np.nonzero(labels.mask)[0]
            vectors = labels.bag[labels.mask]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            central, means = centroids(self._points_of[rows[0] : rows[-1] + 1], self.x)
            owners, vectors = np.concatenate([owners, central]), np.concatenate([vectors, means])
            forget(self.x)
        entries = LabelEntries.group(vectors, owners, len(rows))
        self._writer.append(entries.vectors)
        self._counts.append(np.diff(entries.offsets))

    def build(self, config: IndexConfig, mesh: Mesh) -> None:
        """Complete the folder, once all labels are written, to what `LabelIndex.load` reads.

        Every process must call it; the main one builds and saves the index.
        """

        def build() -> None:
            offsets = np.cumsum(np.concatenate(self._counts))
            path, tree = self.folder / "entries.npy", None
            entries = LabelEntries(mapped(path), offsets)
            count, dim = entries.vectors.shape
            if config.search_over(count, dim, mesh) == "scann":
                check_unit(entries.vectors, "entry")
                tree, stop = self.folder / "tree.tmp", functools.partial(check_stop, "the index")
                with disk_errors(tree, scann.least_bytes(count, dim), more=True):
                    scann.build_apart(path, tree, config.num_threads(), stop)
            LabelIndex(entries, config).save(self.folder, tree)

        processes.once(f"{self.folder} is built", build)


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
            found = shortlist(index, x, k)
            labels.append(found.labels)
            similarities.append(found.similarities)
            bar.update(len(x))
    processes.once(f"the shortlists of {folder.name} are complete", lambda: files.seal(folder))
