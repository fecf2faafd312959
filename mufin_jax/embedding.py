"""Embedding whole sides of a dataset: every distinct descriptor once, then the bags in blocks.

Describing is nearly all of the cost and depends on the descriptor alone; the bags are cheap. A
picture that is shown by a datapoint of the test set and by a label is encoded once.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from mufin_jax.bags import Bags, Pool
from mufin_jax.data.dataset import Side
from mufin_jax.data.loader import Loader, pad_rows, prefetch
from mufin_jax.files import replacing
from mufin_jax.model import Mufin
from mufin_jax.runs import check_stop
from mufin_jax.sharding import by_row, put, replicated

describe = jax.jit(lambda model, pool: model.describe(pool))
embed = jax.jit(lambda model, vectors, bags: model.embed(vectors, bags))


@dataclasses.dataclass(frozen=True)
class SideEmbedding:
    """The embeddings of all items of a side, on the host.

    Attributes:
        vector: x1 (or z1) of each item.
        bag: X1 (or Z1) of each descriptor of each item; None when only vectors were asked for.
        mask: which descriptors are real.
    """

    vector: Float[np.ndarray, "b d"]
    bag: Float[np.ndarray, "b n d"] | None
    mask: Bool[np.ndarray, "b n"]


def describe_all(
    model: Mufin, loader: Loader, numbers: Int[np.ndarray, "j"] | None = None, block: int = 512
) -> Float[np.ndarray, "p d"]:
    """Return the descriptor vectors of a dataset, row r holding descriptor number r.

    Args:
        model: where E_V and E_T come from.
        loader: which descriptors exist.
        numbers: those to describe; the others' rows stay zero. All by default.
        block: descriptors a call.
    """
    if numbers is None:
        numbers = np.arange(loader.num_descriptors)
    texts = numbers[numbers < loader.num_texts]
    images = numbers[numbers >= loader.num_texts]
    kinds = [texts] * (loader.modalities != "images") + [images] * (loader.modalities != "text")
    blocks = [kind[i : i + block] for kind in kinds for i in range(0, len(kind), block)]
    vectors = np.zeros((loader.num_descriptors, model.dim), np.float32)

    def read(step: int) -> tuple[np.ndarray, Pool]:
        rows = blocks[step]
        text = rows < loader.num_texts
        pool = loader.pool(rows[text], rows[~text] - loader.num_texts)
        if text[0]:
            return rows, Pool(pool.tokens, pool.lengths, None)
        return rows, Pool(None, None, pool.images)

    total = sum(map(len, blocks))
    with tqdm(total=total, desc="describe", unit="descriptor", disable=None, leave=False) as bar:
        for rows, pool in prefetch(read, 0, len(blocks)):
            check_stop("describe")
            result = describe(model, put(pool, by_row(model.mesh)))
            vectors[rows] = np.asarray(result)[: len(rows)]
            bar.update(len(rows))
    return vectors


def describe_once(model: Mufin, loader: Loader, path: Path) -> Float[np.ndarray, "p d"]:
    """Return what `describe_all` returns, kept in a file for as long as the encoders are frozen.

    Raises:
        DiskError: if the file cannot be written.
    """
    if not path.exists():
        with replacing(path) as file:
            np.save(file, describe_all(model, loader))
    return np.load(path, mmap_mode="r", allow_pickle=False)


def embed_side(
    model: Mufin,
    loader: Loader,
    vectors: Float[np.ndarray, "p d"],
    side: Side,
    keep_bags: bool = False,
    block: int = 1024,
) -> SideEmbedding:
    """Return the embeddings of a side from the descriptor vectors of the dataset.

    Args:
        model: where A_S comes from.
        loader: which descriptors fill which bag.
        vectors: what `describe_all` returned.
        side: the items.
        keep_bags: whether X1 is wanted besides x1.
        block: items a call.
    """
    rows = np.arange(len(side))
    vector, bag, masks = [], [], []
    for start in range(0, max(1, len(rows)), block):
        part = rows[start : start + block]
        slots, mask = loader.slots(side, part)
        numbers, place = np.unique(slots, return_inverse=True)
        pool = pad_rows(vectors[numbers], model.mesh.size)
        place = place.reshape(slots.shape).astype(np.int32)
        bags = Bags(pad_rows(place, model.mesh.size), pad_rows(mask, model.mesh.size))
        result = embed(model, put(pool, replicated(model.mesh)), put(bags, by_row(model.mesh)))
        vector.append(np.asarray(result.vector)[: len(part)])
        masks.append(mask)
        if keep_bags:
            bag.append(np.asarray(result.bag)[: len(part)])
    return SideEmbedding(
        np.concatenate(vector), np.concatenate(bag) if keep_bags else None, np.concatenate(masks)
    )
