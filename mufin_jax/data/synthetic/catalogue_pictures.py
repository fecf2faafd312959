"""The miniature catalogue's pictures on disk: drawn JPEGs in img.bin, or ready vectors.

img.bin is one file for all splits in its own order. The matrices next to it give the place of each
item's pictures. A product that is a datapoint and a label has one set of pictures.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix, save_npz

from mufin_jax.data.synthetic import draw
from mufin_jax.data.synthetic.catalogue_world import (
    NUM_HUES,
    NUM_KINDS,
    NUM_STYLES,
    NUM_TEXTURES,
    World,
)
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import save_array
from mufin_jax.runtime.storage.npy import NpyWriter

Rng = Callable[..., np.random.Generator]

VECTOR_WIDTH = 64
VECTOR_NOISE = 0.5

_CHUNK = 1 << 15


def write_images(world: World, uids: list[str], side: int, rng: Rng, out: Path) -> None:
    """Draw every product; write images/img.bin and images/{train,test,label}.img.bin.npz.

    Args:
        world: the products.
        uids: their ids.
        side: height and width of a picture.
        rng: `rng(*address)` gives the generator of an address.
        out: the catalogue's folder.
    """
    folder = out / "images"
    folder.mkdir(exist_ok=True)
    counts = world.num_pictures
    first = np.cumsum(counts) - counts
    places = np.zeros(counts.sum(), np.int64)
    attributes = zip(world.kind.tolist(), world.hue.tolist(), world.texture.tolist(), strict=True)
    looks = [draw.Look(*look) for look in attributes]
    with (folder / "img.bin").open("wb") as file:
        for product in until_stopped(rng("order").permutation(len(looks)).tolist(), "prepare"):
            own = rng("pictures", product)
            for n in range(counts[product]):
                scene = n == world.pictures[product]
                companion = looks[world.companion[product]] if scene else None
                picture = draw.draw_picture(looks[product], companion, side, own)
                jpeg = io.BytesIO()
                picture.save(jpeg, "JPEG", quality=90, subsampling=0)
                places[first[product] + n] = file.tell()
                line = uids[product].encode() + b"\t" + base64.b64encode(jpeg.getvalue())
                file.write(line + b"\n")
    for split, products in world.splits.items():
        offsets, images = pictures_of(counts, products)
        # Plus one, as published: a sparse matrix cannot store 0.
        matrix = csr_matrix(
            (places[images] + 1, np.arange(len(images)), offsets),
            shape=(len(products), len(images)),
        )
        save_npz(folder / f"{split}.img.bin.npz", matrix)


def write_vectors(world: World, rng: Rng, out: Path) -> None:
    """Write <split>_embs_imgs_64.npy and <split>_imgs_64_map.npy for the splits trn, tst, lbl.

    A vector is the sum of its product's attribute vectors (for a scene, plus half the companion's)
    and noise. The memory for each picture is a few integers.
    """
    codes = rng("attributes")
    tables = {
        name: codes.normal(size=(values, VECTOR_WIDTH)).astype(np.float32)
        for name, values in (
            *(("kind", NUM_KINDS), ("hue", NUM_HUES)),
            *(("style", NUM_STYLES), ("texture", NUM_TEXTURES)),
        )
    }
    counts = world.num_pictures
    places = {
        "label": "lbl",
        "train": "trn",
        "test": "tst",
    }  # others copy the labels' vectors
    path = {split: out / f"{short}_embs_imgs_64.npy" for split, short in places.items()}
    num_label_pictures = counts[: world.num_labels].sum()
    for split, short in places.items():
        products = world.splits[split]
        offsets, images = pictures_of(counts, products)
        rows = np.full((len(products), max(1, counts.max())), -1, np.int64)
        taken = np.arange(rows.shape[1]) < counts[products][:, None]
        rows[taken] = np.arange(len(images))
        save_array(out / f"{short}_imgs_64_map.npy", rows)

        owner = np.repeat(products, counts[products])
        last = np.arange(len(images)) - np.repeat(offsets[:-1], counts[products])
        scene = last == world.pictures[owner]
        starts = range(0, len(images), _CHUNK)
        # Not through a memory map: a full disk would cause SIGBUS.
        with NpyWriter(path[split], (VECTOR_WIDTH,), np.float32) as vectors:
            for number, start in enumerate(until_stopped(starts, "prepare")):
                part = slice(start, min(start + _CHUNK, len(images)))
                block = _codes(world, tables, owner[part])
                behind = _codes(world, tables, world.companion[owner[part]])
                block += 0.5 * scene[part, None] * behind
                block += VECTOR_NOISE * rng("vectors", split, number).normal(size=block.shape)
                if split != "label":
                    known = images[part] < num_label_pictures
                    labels = np.load(path["label"], mmap_mode="r", allow_pickle=False)
                    block[known] = labels[images[part][known]]
                vectors.append(block)
            if not len(images):
                vectors.append(np.zeros((1, VECTOR_WIDTH)))


def pictures_of(
    counts: Int[np.ndarray, " products"], products: Int[np.ndarray, " items"]
) -> tuple[Int[np.ndarray, " items+1"], Int[np.ndarray, " images"]]:
    """Return offsets of the items' pictures in a flat list, and their overall numbers."""
    first = np.cumsum(counts) - counts
    offsets = np.concatenate([[0], np.cumsum(counts[products])])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts[products])
    return offsets, np.repeat(first[products], counts[products]) + within


def _codes(
    world: World, tables: dict[str, np.ndarray], products: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "b d"]:
    """Return the sum of the attribute vectors of `products`."""
    style = tables["style"][world.hue[products] // 2]
    hue, kind = tables["hue"][world.hue[products]], tables["kind"][world.kind[products]]
    return style + hue + kind + 0.5 * tables["texture"][world.texture[products]]
