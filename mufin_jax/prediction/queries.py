"""A user's items turned into a pool and bags, as the model of a run sees them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.descriptors import Descriptors, Vector
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.items import Item
from mufin_jax.prediction.pictures import read_picture
from mufin_jax.retrieval.barred import Barred, Within
from mufin_jax.runtime.errors import InputError


def read_items(
    items: Sequence[Item], dataset: Dataset, descriptors: Descriptors
) -> tuple[Pool, Bags]:
    """Return the pool and the bags of items that are in no dataset.

    Args:
        items: a model of ready vectors requires a text vector and image vectors, made as those of
            its data; a title may stand next to its vector, for the part of the score that reads
            titles.
        dataset: where the tokenizer and the size of pictures come from.
        descriptors: what the model makes of titles and pictures.

    Raises:
        InputError: if an item has nothing that the model sees, or a picture cannot be read.
    """
    titles, pictures, words, shown = [], [], [], []
    for item in items:
        own, sources, *vectors = seen(item, dataset, descriptors)
        titles.append(own)
        pictures.append([read_picture(source, dataset, item.name) for source in sources])
        words.append(vectors[0])
        shown.append(vectors[1])
    return descriptors.assemble(titles, pictures, words, shown)


def names_of(items: Sequence[Item]) -> tuple[list[str], list[str | None]]:
    """Return the first title of each item, "" if there is none, and its id, None if there is none.

    Args:
        items: of a query.
    """
    return [(item.titles or [""])[0] for item in items], [item.id for item in items]


def barred_labels(
    items: Sequence[Item],
    catalogue: Catalogue,
    everywhere: Int32[np.ndarray, " e"],
    within: Within | None,
) -> Barred | None:
    """Return the labels that items must not get: themselves, their own excluded ones, those of all.

    Args:
        items: of a query.
        catalogue: finds labels by their ids.
        everywhere: labels that no item gets, ascending.
        within: the labels that are allowed at all; None allows all.

    Returns:
        None where nothing is barred.
    """
    named = [(*item.exclude, item.id) if item.id else item.exclude for item in items]
    if not len(everywhere) and within is None and not any(named):
        return None
    found = [catalogue.labels_of(ids) for ids in named]
    own = np.full((len(items), max(map(len, found))), -1, np.int32)
    for row, labels in enumerate(found):
        own[row, : len(labels)] = labels
    return Barred(own, everywhere, within)


def seen(
    item: Item, dataset: Dataset, descriptors: Descriptors
) -> tuple[list[str], list[Any], Sequence[Vector], Sequence[Vector]]:
    """Return what the model sees of an item; reject an item of which it sees nothing.

    Returns:
        titles and pictures; vectors of the text and of the pictures.
    """
    name, joint = item.name, descriptors.together
    words = _vectors(item, "text_vector", dataset.text_vectors, descriptors.sees_texts)
    # The text encoder of a joint model reads pictures, and no ready vectors.
    ready = None if joint else dataset.image_vectors
    shown = _vectors(item, "image_vectors", ready, descriptors.sees_images)
    titles = item.titles if descriptors.sees_texts else []
    images = item.pictures if descriptors.sees_images else []
    if len(words):
        titles = []  # read by `names_of` alone
    if not titles and not images and not len(words) and not len(shown):
        raise InputError(f"{name}: nothing to see; expected a title, titles or images")
    if joint and len(titles) > 1:
        raise InputError(f"{name}: {len(titles)} titles; the model reads one with its pictures")
    for given, ready, kind, field in (
        (titles, dataset.text_vectors, "titles", "text_vector"),
        (images, dataset.image_vectors, "pictures", "image_vectors"),
    ):
        if given and ready is not None:
            raise InputError(
                f"{name}: the model knows ready vectors, not {kind}; expected {field} of "
                f"{ready.shape[1]} numbers, made as those of its data"
            )
    return titles, images, list(words), list(shown)


def _vectors(
    item: Item, field: str, ready: np.ndarray | None, seen: bool
) -> Float32[np.ndarray, "v w"]:
    """Return the vectors that an item has in a field, a row each; none if the field is absent.

    Raises:
        InputError: if the model reads no such vectors, or they are not finite numbers of its width.
    """
    given, name = getattr(item, field), item.name
    if given is None or not seen:
        return np.zeros((0, 1), np.float32)
    if ready is None:
        raise InputError(f"{name}: {field}: the model reads no ready vectors; leave it out")
    found: np.ndarray = np.full(1, np.nan, np.float32)
    try:
        found = np.array(given, np.float32)
    except (ValueError, TypeError, OverflowError):
        pass
    found = found[None] if field == "text_vector" or found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != ready.shape[1] or not np.isfinite(found).all():
        raise InputError(f"{name}: {field}: expected finite numbers, {ready.shape[1]} a vector")
    if len(found) and not found.any():
        raise InputError(f"{name}: {field} is zero: expected what the encoder makes of the item")
    return found
