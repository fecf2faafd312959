"""The means of the encoders' vectors, which `model/reduction.py` removes from them."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mufin_jax.data.loader import Loader
from mufin_jax.model.embed_side import encode, pictures_a_call
from mufin_jax.model.item_encoder import ItemEncoder
from mufin_jax.model.reduction import Reduction
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed.mesh import put, replicated
from mufin_jax.runtime.signals import until_stopped

SAMPLE = 4096
"""The most descriptors of a kind that a mean is taken of, evenly spaced."""
_BLOCK = 256


def means(model: ItemEncoder, loader: Loader) -> dict[str, Float[np.ndarray, "w"]]:
    """Return the mean of the encoders' vectors for each map that removes one, by its name.

    Args:
        model: its encoders describe, unless the loader reads what they have made.
        loader: of the dataset. Every process must call this function.

    Raises:
        Stopped: after a signal.
    """
    found = {}
    kinds: tuple[tuple[Literal["text", "image"], int], ...] = (
        ("text", loader.num_texts),
        ("image", loader.descriptors.num_images),
    )
    for kind, count in kinds:
        if not count or not isinstance(getattr(model, f"{kind}_reduce"), Reduction):
            continue
        rows = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
        total: Any = 0.0
        block = pictures_a_call(model, loader, _BLOCK) if kind == "image" else _BLOCK
        for part in until_stopped(cut(len(rows), block), "the means of vectors"):
            total = total + encode(model, loader, kind, rows[part]).sum(0)
        found[f"{kind}_reduce"] = np.asarray(total / len(rows), np.float32)
    return found


def centre(model: ItemEncoder, loader: Loader) -> None:
    """Set the means of a model's maps; see `means`."""
    for name, mean in means(model, loader).items():
        getattr(model, name).mean[...] = put(mean, replicated(model.mesh))
