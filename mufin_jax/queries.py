"""A user's items, titles and pictures in any form, turned into a pool and bags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mufin_jax.bags import TEXTS_A_ROW, Bags, Pool
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import read_image
from mufin_jax.data.packing import pack_texts, unpacked
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.errors import InputError


def read_items(
    items: Sequence[dict],
    first: int,
    dataset: Dataset,
    modalities: Literal["both", "text", "images", "joint"],
) -> tuple[Pool, Bags]:
    """Return the pool and the bags of items that are in no dataset.

    Args:
        items: dicts with a "title" and "images" (paths, bytes or PIL images), either may be
            missing.
        first: number of the first item, for messages.
        dataset: where the tokenizer and the size of pictures come from.
        modalities: what the model sees.

    Raises:
        InputError: if an item has nothing that the model sees, or a picture cannot be read.
    """
    titles, pictures, owners = [], [], []
    for row, item in enumerate(items):
        name = f"item {first + row}"
        if unknown := set(item) - {"title", "images"}:
            raise InputError(f"{name}: unknown field {sorted(unknown)[0]!r}; wanted title, images")
        titles.append(str(item.get("title") or "").strip() if modalities != "images" else "")
        sources = item.get("images") or [] if modalities != "text" else []
        if not titles[-1] and not sources:
            raise InputError(f"{name}: nothing to see; wanted a title or images")
        for given, ready, kind in (
            (titles[-1], dataset.text_vectors, "titles"),
            (sources, dataset.image_vectors, "pictures"),
        ):
            if given and ready is not None:
                raise InputError(
                    f"{name}: the model knows ready vectors, not {kind}; leave them out, or rank a "
                    "side of a prepared folder by Predictor.rank_side"
                )
        pictures += [_read_picture(source, dataset.processing, name) for source in sources]
        owners += [row] * len(sources)
    tokens = places = images = read_with = None
    columns, first_image, joint = [], 0, modalities == "joint"
    if modalities != "images" and dataset.text_vectors is None:
        ids, counts = dataset.tokenizer.encode(titles, dataset.texts.shape[1])
        named = np.flatnonzero([bool(title) or joint for title in titles])
        if joint:
            tokens, places = unpacked(ids, counts)
            homes, read_with = named, np.full((len(items), 1), -1, np.int32)
        else:
            tokens, places, homes = pack_texts(ids[named], counts[named])
        first_image = TEXTS_A_ROW * len(tokens)
        columns.append(np.full((len(items), 1), -1))
        columns[0][named, 0] = homes
    if modalities != "text" and dataset.image_vectors is None:
        size = dataset.processing.size
        images = np.stack(pictures) if pictures else np.zeros((0, size, size, 3), np.uint8)
        counts = np.bincount(np.array(owners, int), minlength=len(items))
        place = np.cumsum(counts)[:, None] - counts[:, None] + np.arange(max(1, counts.max()))
        real = np.arange(place.shape[1]) < counts[:, None]
        if joint:
            read_with = np.where(real, place, -1).astype(np.int32)
        else:
            columns.append(np.where(real, first_image + place, -1))
    elif joint and dataset.image_vectors is not None:
        images = np.asarray(dataset.image_vectors[:0])  # none was given
    slots = np.concatenate(columns, 1)
    bags = Bags(np.maximum(slots, 0).astype(np.int32), slots >= 0)
    return Pool(tokens, places, images, read_with), bags


def _read_picture(source: Any, processing: ImageProcessing, item: str) -> np.ndarray:
    try:
        return read_image(Path(source) if isinstance(source, str) else source, processing)
    except InputError as error:
        name = f" ({source})" if isinstance(source, str | Path) else ""
        raise InputError(f"{item}: picture{name}: {error}") from None
