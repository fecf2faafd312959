"""A user's items, titles and pictures in any form, turned into a pool and bags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.descriptors import Descriptors, Vector
from mufin_jax.data.images import read_image
from mufin_jax.data.readers.values import unescaped
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import InputError

_FIELDS = ("id", "title", "titles", "images", "text_vector", "image_vectors")


def check_query(items: object, k: object, shortlist: int) -> None:
    """Reject items that are not a sequence of dicts, and a k that is not a number of labels."""
    expected = "expected a list of dicts, one an item"
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise InputError(f"items: found {type(items).__name__}; {expected}")
    for row, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError(f"item {row}: found {type(item).__name__}; {expected}")
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= shortlist:
        raise InputError(
            f"k={k!r:.80}: expected a whole number from 1 to predict.shortlist={shortlist}"
        )


def read_items(
    items: Sequence[dict],
    first: int,
    dataset: Dataset,
    descriptors: Descriptors,
) -> tuple[Pool, Bags]:
    """Return the pool and the bags of items that are in no dataset.

    Args:
        items: dicts with a "title", or several "titles" (as an outfit has), and "images"
            (paths, bytes or PIL images); either kind may be missing. For a model of ready vectors,
            a "text_vector" and "image_vectors", made as those of its data; a title may stand next
            to its vector, for the part of the score that reads titles.
        first: number of the first item, for messages.
        dataset: where the tokenizer and the size of pictures come from.
        descriptors: what the model makes of titles and pictures.

    Raises:
        InputError: if an item has nothing that the model sees, or a picture cannot be read.
    """
    titles, pictures, words, shown = [], [], [], []
    for row, item in enumerate(items):
        name = f"item {first + row}"
        own, sources, *vectors = _seen(item, name, dataset, descriptors)
        titles.append(own)
        pictures.append([_read_picture(source, dataset.processing, name) for source in sources])
        words.append(vectors[0])
        shown.append(vectors[1])
    return descriptors.assemble(titles, pictures, words, shown)


def names_of(items: Sequence[dict]) -> tuple[list[str], list[str | None]]:
    """Return the first title of each item, "" if there is none, and its id, None if there is none.

    Args:
        items: as `read_items` accepts them.
    """
    titles = [(_titles(item, "item") or [""])[0] for item in items]
    return titles, [None if item.get("id") is None else str(item["id"]) for item in items]


def _seen(
    item: dict, name: str, dataset: Dataset, descriptors: Descriptors
) -> tuple[list[str], Sequence[Any], Sequence[Vector], Sequence[Vector]]:
    """Return what the model sees of an item; reject an item of which it sees nothing.

    Returns:
        titles and pictures; vectors of the text and of the pictures.
    """
    if unknown := set(item).difference(_FIELDS):
        raise InputError(
            f"{name}: unknown field {sorted(unknown)[0]!r}; expected {', '.join(_FIELDS)}"
        )
    joint = descriptors.together  # its text encoder reads pictures, and no ready vectors
    words = _vectors(item, "text_vector", dataset.text_vectors, descriptors.sees_texts, name)
    ready = None if joint else dataset.image_vectors
    shown = _vectors(item, "image_vectors", ready, descriptors.sees_images, name)
    titles = _titles(item, name) if descriptors.sees_texts else []
    images = item.get("images") or [] if descriptors.sees_images else []
    if len(words):
        titles = []  # read by `names_of` alone
    if not titles and not images and not len(words) and not len(shown):
        raise InputError(f"{name}: nothing to see; expected a title, titles or images")
    if descriptors.together and len(titles) > 1:
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
    item: dict, field: str, ready: np.ndarray | None, seen: bool, name: str
) -> Float32[np.ndarray, "v w"]:
    """Return the vectors that an item has in a field, a row each; none if the field is absent.

    Raises:
        InputError: if the model reads no such vectors, or they are not finite numbers of its width.
    """
    given = item.get(field)
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
    return found


def _titles(item: dict, name: str) -> list[str]:
    """Return the titles of an item that are not empty, with HTML entities read as in its data."""
    title, given = item.get("title"), item.get("titles")
    if given is None:
        given = [title]
    elif title or not isinstance(given, list | tuple):
        found = "a title next to them" if title else repr(given)[:80]
        raise InputError(f"{name}: titles: {found}; expected a list of all texts of the item")
    elif wrong := [one for one in given if not isinstance(one, str | None)]:
        raise InputError(f"{name}: titles: one is {wrong[0]!r:.80}; expected texts")
    plain = (unescaped(str(one or "")).strip() for one in given)
    return [title for title in plain if title]


def _read_picture(source: Any, processing: ImageProcessing, item: str) -> np.ndarray:
    try:
        return read_image(Path(source) if isinstance(source, str) else source, processing)
    except InputError as error:
        name = f" ({source})" if isinstance(source, str | Path) else ""
        raise InputError(f"{item}: picture{name}: {error}") from None
