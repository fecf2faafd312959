"""Bags of descriptors: what a datapoint or a label is made of (paper, section 3).

A datapoint's bag holds its texts and its images. A batch keeps the *distinct* descriptors of all
its items in one `Pool`. A picture shown by several items, or by a datapoint and a label, is
therefore encoded once. `Bags` gives the row of the pool that fills each slot of each bag. True in a
mask means real.
"""

import dataclasses
from typing import Any, no_type_check

import jax
from jaxtyping import Bool, Float, Int, UInt8

TEXTS_A_ROW = 8
"""Texts that a row of tokens holds, at most."""


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
    """The distinct descriptors of a batch, raw or as far as their vectors are known beforehand.

    The model makes a row of X0 of each, texts first: of token ids, `TEXTS_A_ROW` rows for each row
    of tokens, the places that no text has among them. Of a joint model's pool, it makes one of each
    row of tokens, a single text, with its pictures; those are no descriptors themselves.

    Attributes:
        tokens: token ids, several texts packed to a row; or a vector a text; or None when the
            model sees no texts.
        places: which text of its row, 0 to TEXTS_A_ROW - 1, a token belongs to; -1 for none. None
            where there are vectors.
        images: pixels 0-255; or what the blocks of E_V below the last one make of them; or
            vectors; or None when the model sees no images.
        pictures: which rows of `images` the text of a row of tokens is read with, -1 for none; of a
            joint model's pool alone.
    """

    tokens: Int[Any, "r s"] | Float[Any, "t v"] | None
    places: Int[Any, "r s"] | None
    images: UInt8[Any, "i h w 3"] | Float[Any, "i ..."] | None
    pictures: Int[Any, "r m"] | None = None


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bags:
    """For each item, the pool rows of its descriptors.

    Attributes:
        slots: rows of the pool (texts first, then images); 0 where the mask is False.
        mask: True where the slot holds a descriptor.
    """

    slots: Int[Any, "b n"]
    mask: Bool[Any, "b n"]
