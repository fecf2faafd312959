"""Ready vectors of items in memory, written in the form of `data/readers/named_vectors.py`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mufin_jax.data.readers.named_vectors import IDS
from mufin_jax.prediction.items import Item
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import save_array


def write_vectors(items: Iterable[Item], folder: Path) -> dict[str, Any]:
    """Write the vectors that items bring, if any; return the settings that name the files.

    An id that stands on several sides has the vectors of the first item with it.

    Raises:
        InputError: if a vector is none, or has another width than the first one.
    """
    items, settings = list({item.id: item for item in reversed([*items])}.values())[::-1], {}
    for setting, field in (("text_vectors", "text_vector"), ("image_vectors", "image_vectors")):
        rows: list[np.ndarray] = []
        ids: list[str] = []
        for item in items:
            found = _vectors(item, field, rows[0].size if rows else None)
            rows += [*found]
            ids += [item.id or ""] * len(found)
        if rows:
            save_array(folder / f"{setting}.npy", np.stack(rows))
            (folder / f"{setting}{IDS}").write_text("".join(f"{uid}\n" for uid in ids), "utf-8")
            settings[f"prepare.{setting}"] = str(folder / f"{setting}.npy")
    return settings


def _vectors(item: Item, field: str, width: int | None) -> Float32[np.ndarray, "v w"]:
    """Return the vectors that an item has in a field, a row each.

    Raises:
        InputError: if they are no finite numbers, or of another width.
    """
    given = getattr(item, field)
    if given is None:
        return np.zeros((0, width or 1), np.float32)
    found: np.ndarray = np.full((1, 1), np.nan, np.float32)
    try:
        found = np.array(given, np.float32)
    except (ValueError, TypeError, OverflowError):
        pass
    found = found[None] if field == "text_vector" or found.ndim == 1 else found
    sound = found.ndim == 2 and np.isfinite(found).all() and found.any(1).all()
    if not sound or (width is not None and found.shape[1] != width):
        expected = (
            f"{width} numbers a vector, as in the first one" if width else "a list of numbers"
        )
        raise InputError(f"{item.name}: {field}: expected {expected}; finite, and not all zero")
    return found
