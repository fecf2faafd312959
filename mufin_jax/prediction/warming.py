"""Compiling all that a server's queries need, before the first one comes."""

from typing import TYPE_CHECKING

import numpy as np

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.prediction import shapes
from mufin_jax.prediction.config import check_count
from mufin_jax.retrieval.barred import FEWEST_SPARE
from mufin_jax.retrieval.index import shortlist_points
from mufin_jax.runtime import machine

if TYPE_CHECKING:
    from mufin_jax.prediction.predictor import Predictor


def warm_up(predictor: "Predictor", points: int, images: int, extra: int, titles: int) -> None:
    """Compile what queries of common shapes need.

    Args:
        predictor: what is warmed up.
        points: items in a batch, at most.
        images: pictures of an item, at most.
        extra: labels to retrieve beyond the shortlist.
        titles: of an item, at most.

    Raises:
        InputError: if one of them is no whole number, or too small.
    """
    for name, value, least in (
        ("points", points, 1), ("images", images, 0), ("extra", extra, 0), ("titles", titles, 0),
    ):  # fmt: skip
        check_count(name, value, least)
    descriptors = predictor.loader.descriptors
    for pool in shapes.pools(descriptors, images):
        list(predictor.encoder.describe(pool))
    x = np.random.default_rng(0).normal(size=(points, predictor.model.dim)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    k = predictor.config.shortlist + extra
    longer = min(k + FEWEST_SPARE, max(k, len(predictor.index.entries.filled)))
    for power in range((points - 1).bit_length() + 1):
        for length in (k, longer):  # the latter for items that have an id
            predictor.index.warm_up(x[: 1 << power], length)
    for size in shapes.up_to(points, shapes.points):
        lists = shortlist_points(predictor.index, x[:size], k)
        for slots in shapes.up_to(titles + images, shapes.slots):
            empty = np.zeros((size, slots), np.int32)
            bags = Bags(empty, empty > 0)
            predictor.rank(Pool(None, None), bags, size, extra, lists)
            if predictor.ranking:
                embedded = predictor.embed(Pool(None, None), bags)
                predictor.ranking.warm_up(embedded, x[:size], k)
    _ = predictor.catalogue.base.finder
    machine.give_back_memory()
