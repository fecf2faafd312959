"""Bags of descriptors: what a datapoint or a label is made of (paper, section 3).

A datapoint's bag holds its texts and its images. A batch keeps the *distinct* descriptors of all
its items in one `Pool`. A picture shown by several items, or by a datapoint and a label, is
therefore encoded once. `Bags` gives the row of the pool that fills each slot of each bag. True in a
mask means real.

To JAX these containers are pytrees; `pytrees.py` registers them.
"""

import dataclasses
from typing import Any, no_type_check

from jaxtyping import Bool, Int

from mufin_jax.data.sources import ImageSource, Vectors

TEXTS_A_ROW = 8
"""Texts that a row of tokens holds, at most."""


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@dataclasses.dataclass(frozen=True)
class PackedTexts:
    """Token ids, several texts to a row; the model makes `TEXTS_A_ROW` vectors of each row.

    Attributes:
        tokens: token ids.
        places: which text of its row, 0 to TEXTS_A_ROW - 1, a token belongs to; -1 for none.
    """

    tokens: Int[Any, "r s"]
    places: Int[Any, "r s"]


@no_type_check
@dataclasses.dataclass(frozen=True)
class JointTexts:
    """Token ids, one text to a row, read with its pictures; a joint model makes one vector of each.

    Attributes:
        tokens: token ids.
        places: 0 where a token is real, else -1.
        pictures: which rows of the pool's images the text is read with; -1 for none.
    """

    tokens: Int[Any, "r s"]
    places: Int[Any, "r s"]
    pictures: Int[Any, "r m"]


TextPart = PackedTexts | JointTexts | Vectors


@no_type_check
@dataclasses.dataclass(frozen=True)
class Pool:
    """The distinct descriptors of a batch, raw or as far as their vectors are known beforehand.

    The model makes the rows of X0 from it, those of texts first. Images that are read with texts
    (`JointTexts`) are no descriptors themselves.

    Attributes:
        texts: None if there are none, or the model sees none.
        images: None if there are none, or the model sees none.
        known: X0 itself; then there is nothing else.
    """

    texts: TextPart | None
    images: ImageSource | None
    known: Vectors | None = None


@no_type_check
@dataclasses.dataclass(frozen=True)
class Bags:
    """For each item, the pool rows of its descriptors.

    Attributes:
        slots: rows of the pool (texts first, then images); 0 where the mask is False.
        mask: True where the slot holds a descriptor.
    """

    slots: Int[Any, "b n"]
    mask: Bool[Any, "b n"]
