"""Modality dropout: in training, some items of a batch lose all their pictures, or all their texts.

A model that has always seen both may rely on both, and fail where one is missing. An item keeps at
least one: those that have a single modality lose nothing, and nobody loses both.

A draw is a pure function of the seed, the module, the step, the side and the item. So a resumed run
draws the same, and an item that a batch holds twice is the same in both places.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mufin_jax.data.bags import Bags
from mufin_jax.data.loader import Loader, SideRows
from mufin_jax.runtime.draws import Draw, sequence
from mufin_jax.runtime.errors import InputError

SIDES = {"train": 0, "label": 1}
"""The last number of a draw's address, by side."""


def check_probability(stage: str, probability: float) -> None:
    """Reject what is no probability."""
    if not 0 <= probability <= 1:
        raise InputError(f"{stage}.modality_dropout={probability}: expected a number from 0 to 1")


def drop_modalities(
    bags: Sequence[Bags],
    groups: Sequence[SideRows],
    loader: Loader,
    probability: float,
    address: tuple[int, Draw, int],
) -> list[Bags]:
    """Return bags in which some items that have both modalities lack one of them.

    Args:
        bags: what the loader made of the groups.
        groups: the items.
        loader: tells which descriptors are texts.
        probability: that an item loses a modality; which one is even odds.
        address: of the draws: seed, what is drawn, step.
    """
    found = []
    for own, (side, rows) in zip(bags, groups, strict=True):
        numbers, mask = loader.slots(side, rows)
        text = mask & (numbers < loader.num_texts)
        picture = mask & ~text
        both = text.any(1) & picture.any(1)
        drawn = uniform(rows, sequence(*address, SIDES[side.name]))
        no_picture = both & (drawn < probability / 2)
        no_text = both & ~no_picture & (drawn < probability)
        lost = (no_picture[:, None] & picture) | (no_text[:, None] & text)
        mask = np.asarray(own.mask) & ~lost
        found.append(Bags(np.where(mask, own.slots, 0).astype(np.int32), mask))
    return found


def uniform(
    items: Int[np.ndarray, " n"], address: np.random.SeedSequence
) -> Float[np.ndarray, " n"]:
    """Return a number in [0, 1) for each item, which depends on the item and the address alone.

    It is the finaliser of splitmix64 on a key plus the item's number: no generator for each item.
    """
    key, step = address.generate_state(2, np.uint64)
    bits = key + np.asarray(items).astype(np.uint64) * (step | np.uint64(1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)) / 2.0**53
