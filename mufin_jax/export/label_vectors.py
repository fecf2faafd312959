"""The labels' vectors for other programs: `vectors.npy`, `ids.txt` and `labels.parquet`.

The vector of a label is z: the cosine with x1 of an item, which `Predictor.encode` returns, is how
near they are before the classifiers come in.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.storage.files import replacing
from mufin_jax.runtime.storage.npy import forget, mapped, whole_npy

_ROWS = 1 << 14
"""Labels that are written together: a group of rows of the Parquet file."""


class Named(NamedTuple):
    """Some labels.

    Attributes:
        ids: of the labels.
        titles: "" where there is none.
        vectors: z of each; zero for a label that shows nothing.
    """

    ids: list[str]
    titles: list[str]
    vectors: Float32[np.ndarray, "n d"]


def save_label_vectors(predictor: Predictor, cache: Path, folder: Path) -> None:
    """Write the vectors of all labels that can be recommended, in one order.

    Args:
        predictor: knows the labels.
        cache: the folder of its label cache.
        folder: is made.
    """
    import pyarrow as arrow
    import pyarrow.parquet

    folder.mkdir()
    dim = predictor.model.dim
    kinds = {"id": arrow.string(), "title": arrow.string()}
    schema = arrow.schema(kinds | {"vector": arrow.list_(arrow.float32(), dim)})
    with (
        whole_npy(folder / "vectors.npy", (dim,)) as vectors,
        replacing(folder / "ids.txt") as ids,
        replacing(folder / "labels.parquet") as file,
        pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as table,
    ):
        for block in _blocks(predictor, cache):
            vectors.append(block.vectors)
            ids.write("".join(f"{' '.join(uid.split())}\n" for uid in block.ids).encode())
            flat = arrow.array(block.vectors.ravel(), arrow.float32())
            columns = [block.ids, block.titles, arrow.FixedSizeListArray.from_arrays(flat, dim)]
            table.write_table(arrow.table(columns, schema=schema))


def _blocks(predictor: Predictor, cache: Path) -> Iterator[Named]:
    """Yield the labels of training that were not removed, then those that were added."""
    catalogue, added = predictor.catalogue, predictor.catalogue.added
    bags, offsets = mapped(cache / "bags.npy"), np.load(cache / "offsets.npy", allow_pickle=False)
    for rows in cut(len(catalogue.base.ids), _ROWS):
        kept = np.flatnonzero(catalogue.recommended[rows])
        vectors = label_vectors(bags, offsets[rows.start : rows.stop + 1])
        labels = rows.start + kept
        names = catalogue.base.ids.at(labels), catalogue.base.titles.at(labels)
        yield Named(*names, vectors[kept])
        forget(bags)
    if len(added):
        yield Named(list(added.ids), list(added.titles), added.z)


def label_vectors(
    bags: Float32[np.ndarray, "e d"], offsets: Int64[np.ndarray, "l1"]
) -> Float32[np.ndarray, "l d"]:
    """Return z of labels, unit(sum of Z1), as `Heads.embed` makes it.

    Args:
        bags: Z1 of the descriptors of all labels.
        offsets: the descriptors of label l are rows offsets[l] to offsets[l + 1].
    """
    sums = np.zeros((len(offsets) - 1, bags.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        own = np.asarray(bags[offsets[0] : offsets[-1]])
        sums[filled] = np.add.reduceat(own, offsets[filled] - offsets[0], axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 1e-6)
