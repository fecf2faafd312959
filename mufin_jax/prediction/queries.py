"""A user's items, titles and pictures in any form, turned into a pool and bags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.descriptors import Descriptors
from mufin_jax.data.images import read_image
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import InputError


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
            (paths, bytes or PIL images); either kind may be missing.
        first: number of the first item, for messages.
        dataset: where the tokenizer and the size of pictures come from.
        descriptors: what the model makes of titles and pictures.

    Raises:
        InputError: if an item has nothing that the model sees, or a picture cannot be read.
    """
    titles, pictures = [], []
    for row, item in enumerate(items):
        name = f"item {first + row}"
        own, sources = _seen(item, name, dataset, descriptors)
        titles.append(own)
        pictures.append([_read_picture(source, dataset.processing, name) for source in sources])
    return descriptors.assemble(titles, pictures)


def names_of(items: Sequence[dict]) -> tuple[list[str], list[str | None]]:
    """Return the first title of each item, "" if there is none, and its id, None if there is none.

    Args:
        items: as `read_items` accepts them.
    """
    titles = [(_titles(item, "item") or [""])[0] for item in items]
    return titles, [None if item.get("id") is None else str(item["id"]) for item in items]


def _seen(
    item: dict, name: str, dataset: Dataset, descriptors: Descriptors
) -> tuple[list[str], Sequence[Any]]:
    """Return the titles and pictures of an item that the model sees; reject an item without any."""
    if unknown := set(item) - {"id", "title", "titles", "images"}:
        raise InputError(
            f"{name}: unknown field {sorted(unknown)[0]!r}; expected id, title, titles, images"
        )
    titles = _titles(item, name) if descriptors.sees_texts else []
    images = item.get("images") or [] if descriptors.sees_images else []
    if not titles and not images:
        raise InputError(f"{name}: nothing to see; expected a title, titles or images")
    if descriptors.together and len(titles) > 1:
        raise InputError(f"{name}: {len(titles)} titles; the model reads one with its pictures")
    for given, ready, kind in (
        (titles, dataset.text_vectors, "titles"),
        (images, dataset.image_vectors, "pictures"),
    ):
        if given and ready is not None:
            raise InputError(
                f"{name}: the model knows ready vectors, not {kind}; leave them out, or rank a "
                "side of a prepared folder by Predictor.rank_side"
            )
    return titles, images


def _titles(item: dict, name: str) -> list[str]:
    """Return the titles of an item that are not empty."""
    title, given = item.get("title"), item.get("titles")
    if given is None:
        given = [title]
    elif title or not isinstance(given, list | tuple):
        found = "a title next to them" if title else repr(given)[:80]
        raise InputError(f"{name}: titles: {found}; expected a list of all texts of the item")
    elif wrong := [one for one in given if not isinstance(one, str | None)]:
        raise InputError(f"{name}: titles: one is {wrong[0]!r:.80}; expected texts")
    return [title for title in (str(one or "").strip() for one in given) if title]


def _read_picture(source: Any, processing: ImageProcessing, item: str) -> np.ndarray:
    try:
        return read_image(Path(source) if isinstance(source, str) else source, processing)
    except InputError as error:
        name = f" ({source})" if isinstance(source, str | Path) else ""
        raise InputError(f"{item}: picture{name}: {error}") from None
