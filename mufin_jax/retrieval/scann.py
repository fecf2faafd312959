"""ScaNN, the approximate search behind Module II's index, with its pitfalls kept in this file.

A tree of 4 sqrt(e) leaves, of which a query visits some; asymmetric hashing with a code of four
bits a dimension. Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector
Quantization", ICML 2020. A code for two dimensions would halve what is scanned. But it separates
neighbours so badly that three times as many have to be compared exactly, which costs more. We do
not let ScaNN compute exact cosines: it would hold a copy of all vectors for them, in memory and on
disk. `LabelEntries` computes them, from a map of a file.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from mufin_jax.runtime.errors import DiskError
from mufin_jax.runtime.printing import print_everything
from mufin_jax.runtime.storage.disk import disk_error_in

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

_TRAINING_SAMPLE = 100_000  # vectors that suffice to place the leaves ...
_PER_LEAF = 40  # ... or so many a leaf, where that is more
_DIMENSIONS_PER_CODE = 1
_QUANTIZATION_THRESHOLD = 0.2  # the value of the paper's experiments on cosines
_ROWS_PER_TASK = 64  # queries a thread takes at once; ScaNN's 256 leaves small batches to one
_TOKENS = "datapoint_to_token.npy"  # the leaf of each vector
_ASSETS = "scann_assets.pbtxt"  # names other files ...
_LISTED = FILES - {_ASSETS, "scann_config.pb"}  # ... these
_ROOM = 1 << 20  # if the disk takes so many bytes, it was not the reason why ScaNN failed


def importable() -> bool:
    """Return whether ScaNN is installed: it has no wheels for some platforms."""
    return importlib.util.find_spec("scann") is not None


@dataclasses.dataclass(frozen=True)
class Tree:
    """A ScaNN searcher over unit vectors, which it knows by their codes alone.

    Attributes:
        searcher: ScaNN's own object.
        size: how many vectors there are.
        leaves: how many leaves the tree was built with.
    """

    searcher: Any
    size: int
    leaves: int

    @classmethod
    def build(cls, vectors: Float32[np.ndarray, "e d"], threads: int) -> "Tree":
        """Index at least FEWEST_VECTORS finite vectors; the index does not depend on the threads.

        Vectors that are not finite end the process: check them before. While it builds, ScaNN
        holds memory of twice their size (a copy, and the differences to their leaves' centres).

        Args:
            vectors: of norm 1.
            threads: that build, and later search.
        """
        from scann import scann_ops_pybind

        builder = scann_ops_pybind.builder(vectors, 100, "dot_product")
        builder.set_n_training_threads(threads)
        leaves = _num_leaves(len(vectors))
        builder.tree(
            num_leaves=leaves,
            num_leaves_to_search=leaves,
            training_sample_size=min(len(vectors), max(_TRAINING_SAMPLE, _PER_LEAF * leaves)),
            random_init=False,  # the default places other leaves in every process
        )
        builder.score_ah(
            _DIMENSIONS_PER_CODE, anisotropic_quantization_threshold=_QUANTIZATION_THRESHOLD
        )
        with _without_chatter():
            tree = cls(builder.build(), len(vectors), leaves)
        tree.searcher.set_num_threads(threads)
        return tree

    def search(
        self, queries: Float32[np.ndarray, "b d"], wanted: int, share: float = 1.0
    ) -> tuple[Int64[np.ndarray, "b m"], Float32[np.ndarray, "b m"]]:
        """Return the `wanted` entries nearest by their codes, with the cosines that the codes give.

        A row ends in -1 and -inf where the leaves that it visits hold too few entries.

        Args:
            queries: unit vectors.
            wanted: entries of a row.
            share: of the leaves that a query visits.
        """
        search = self.searcher.search_batched  # in this thread: others take longer to wake
        if len(queries) > _ROWS_PER_TASK:
            search = functools.partial(
                self.searcher.search_batched_parallel, batch_size=_ROWS_PER_TASK
            )
        ids, cosines = search(
            queries,
            final_num_neighbors=wanted,
            leaves_to_search=min(math.ceil(share * self.leaves), self.leaves),
        )
        padding = np.isnan(cosines)  # ScaNN pads short rows with NaN and id 0, a valid entry
        return np.where(padding, -1, ids.astype(np.int64)), np.where(padding, -np.inf, cosines)

    def save(self, folder: Path) -> None:
        """Write FILES to a folder that exists and may move afterwards.

        Raises:
            OSError: if the disk does not take them.
        """
        try:
            self.searcher.serialize(str(folder), relative_path=True)
            # Written last, and never checked by ScaNN.
            listed = (folder / _ASSETS).read_text("utf-8", "replace")
            if missing := [name for name in _LISTED if name not in listed]:
                raise RuntimeError(f"{folder}: ScaNN has left {missing} out of {_ASSETS}")
        except RuntimeError:
            (folder / "room").write_bytes(bytes(_ROOM))  # its error has the reason; ScaNN's has not
            (folder / "room").unlink()
            raise

    @classmethod
    def load(cls, folder: Path, threads: int) -> "Tree":
        """Load what `save` wrote. The caller has verified that the folder holds nothing else."""
        from scann import scann_ops_pybind

        with _without_chatter():
            searcher = scann_ops_pybind.load_searcher(str(folder), assets_backcompat_shim=False)
        searcher.set_num_threads(threads)
        leaf_of = np.load(folder / _TOKENS, mmap_mode="r", allow_pickle=False)
        return cls(searcher, len(leaf_of), _num_leaves(len(leaf_of)))


def build_apart(vectors: Path, folder: Path, threads: int, stop: Callable[[], None]) -> None:
    """Build a tree over a npy file of vectors and save it to a new folder, in another process.

    A build takes minutes inside one call, which no signal interrupts. So this process, when it is
    asked to stop, ends the process that builds. The other process also ends with this one.

    Args:
        vectors: the npy file.
        folder: made again.
        threads: that build.
        stop: called several times a second; what it raises ends the build and leaves no file.

    Raises:
        OSError: if the disk does not take the folder, in either process.
        RuntimeError: if the other process fails for another reason, with its last output.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = [str(vectors), str(folder), str(threads)]
    command = [sys.executable, "-m", "mufin_jax.retrieval.scann", *arguments]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True
        ) as child,
    ):
        try:
            while child.poll() is None:
                stop()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
            if child.returncode:
                said.seek(0)
                text = said.read()[-2000:].decode(errors="replace")
                if child.returncode == DiskError.exit_code and (error := disk_error_in(text)):
                    raise error
                raise RuntimeError(f"building the index ended with code {child.returncode}: {text}")
        except BaseException:
            child.kill()
            child.wait()  # it may be writing
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _main(vectors: str, folder: str, threads: str) -> None:
    """Build and save the tree, in the other process of `build_apart`."""
    print_everything()  # an error names the folder

    def end_with_parent() -> None:
        os.read(0, 1)  # until the parent closes it, or is no more
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    tree = Tree.build(np.load(vectors, mmap_mode="r", allow_pickle=False), int(threads))
    try:
        tree.save(Path(folder))
    except OSError as error:
        print(error, flush=True)
        os._exit(DiskError.exit_code)


def least_bytes(vectors: int, dim: int) -> int:
    """Return what a tree takes on the disk at least: codes, and the leaf of each vector."""
    return vectors * (dim + 4)


def _num_leaves(size: int) -> int:
    """Return how many leaves a tree gets; where vectors are alike, some stay empty."""
    return round(4 * size**0.5)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Turn what ScaNN's C++ code prints to stderr, whatever its settings, into debug lines."""
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


if __name__ == "__main__":
    _main(*sys.argv[1:])
