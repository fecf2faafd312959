"""ScaNN, the approximate search behind Module II's index, with its pitfalls kept in this file.

A tree of sqrt(e) leaves, of which a query visits some; asymmetric hashing of two dimensions a
code; exact cosines for the best. Guo et al., "Accelerating Large-Scale Inference with
Anisotropic Vector Quantization", ICML 2020. The exact cosines are computed here, not by ScaNN,
which would hold a copy of all vectors for them, in memory and on disk: without it an entry of 192
dimensions costs about 150 bytes, and the vectors can be a map of a file.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

log = logging.getLogger(__name__)

FEWEST_VECTORS = 1_000
"""Below this number a tree loses recall and saves no time."""

BUILD = 2
"""Bytes held while it builds, per byte of its vectors: a copy, and what quantising leaves."""

FILES = frozenset(
    "scann_assets.pbtxt scann_config.pb ah_codebook.pb serialized_partitioner.pb "
    "hashed_dataset.npy datapoint_to_token.npy".split()
)
"""What `Tree.save` writes. Never load a folder that holds more: ScaNN unpickles a docids file."""

_TRAINING_SAMPLE = 250_000  # vectors that suffice to place the leaves
_DIMENSIONS_PER_CODE = 2
_QUANTIZATION_THRESHOLD = 0.2  # the value of the paper's experiments on cosines
_ROWS_PER_TASK = 64  # queries a thread takes at once; ScaNN's 256 leaves small batches to one


def importable() -> bool:
    """Whether ScaNN is installed: it has no wheels for some platforms."""
    return importlib.util.find_spec("scann") is not None


@dataclasses.dataclass(frozen=True)
class Tree:
    """A ScaNN searcher over unit vectors: its codes find, the vectors themselves decide."""

    searcher: Any
    vectors: Float32[np.ndarray, "e d"]

    @property
    def size(self) -> int:
        """How many vectors there are."""
        return len(self.vectors)

    @classmethod
    def build(cls, vectors: Float32[np.ndarray, "e d"], threads: int) -> "Tree":
        """Indexes at least FEWEST_VECTORS finite vectors; the same index whatever the threads.

        Vectors that are not finite end the process: check them before. While it builds, ScaNN
        holds memory of twice their size (a copy, and the differences to their leaves' centres).
        """
        from scann import scann_ops_pybind

        builder = scann_ops_pybind.builder(vectors, 100, "dot_product")
        builder.set_n_training_threads(threads)
        leaves = _num_leaves(len(vectors))
        builder.tree(
            num_leaves=leaves,
            num_leaves_to_search=leaves,
            training_sample_size=min(len(vectors), _TRAINING_SAMPLE),
            random_init=False,  # the default places other leaves in every process
        )
        builder.score_ah(
            _DIMENSIONS_PER_CODE, anisotropic_quantization_threshold=_QUANTIZATION_THRESHOLD
        )
        with _without_chatter():
            tree = cls(builder.build(), vectors)
        tree.searcher.set_num_threads(threads)
        return tree

    def search(
        self, queries: Float32[np.ndarray, "b d"], wanted: int, share: float = 1.0
    ) -> tuple[Int64[np.ndarray, "b m"], Float32[np.ndarray, "b m"]]:
        """The `wanted` entries nearest by their codes and their exact cosines, in no order.

        A row short of entries, for want of them in the share of leaves that it visits, ends in
        -1 and -inf.
        """
        leaves = _num_leaves(self.size)
        ids, scores = self.searcher.search_batched_parallel(
            queries,
            final_num_neighbors=wanted,
            leaves_to_search=min(math.ceil(share * leaves), leaves),
            batch_size=_ROWS_PER_TASK,
        )
        ids = ids.astype(np.int64)
        ids[np.isnan(scores)] = -1  # ScaNN pads short rows with NaN and id 0, a valid entry
        vectors = np.asarray(self.vectors)  # a view: indexing a memmap object costs more
        cosines = np.full(ids.shape, -np.inf, np.float32)
        for i, row in enumerate(ids):
            real = row >= 0
            cosines[i, real] = vectors[row[real]] @ queries[i]
        return ids, cosines

    def save(self, folder: Path) -> None:
        """Writes FILES to a folder that exists and may move afterwards."""
        self.searcher.serialize(str(folder), relative_path=True)

    @classmethod
    def load(cls, folder: Path, vectors: Float32[np.ndarray, "e d"], threads: int) -> "Tree":
        """Reads what `save` wrote. The caller has verified that the folder holds that only."""
        from scann import scann_ops_pybind

        with _without_chatter():
            searcher = scann_ops_pybind.load_searcher(str(folder), assets_backcompat_shim=False)
        searcher.set_num_threads(threads)
        return cls(searcher, vectors)


def _num_leaves(size: int) -> int:
    return round(size**0.5)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Makes debug lines of what ScaNN's C++ code prints to stderr whatever its settings say."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if line.startswith(
                    (b"I0000 ", b"W0000 ", b"WARNING: All log messages before absl")
                ):
                    log.debug("%s", line.decode(errors="replace").rstrip())
                else:
                    os.write(2, line)
