"""Labels that come and go, for tests: items to add, and predictors of fewer labels."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from raw_folders import colour
from small import PIXELS, SIZES, pictures, title

from mufin_jax.data.strings import Strings
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_files import (
    PartConfig,
    TrainingPairs,
    build_parts,
    load_ranking,
    save_ranking,
)
from mufin_jax.prediction.parts import PARTS
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig

L = SIZES["label"]
BASE = L - 3
"""Labels that training knows in the tests: three are added afterwards."""
WEIGHTS = Weights({"z": 1.0, "mu": 0.4, "c": 0.5, "v": 0.3, "g": 0.2}, 0.9, 0.05)
"""Without sg, whose stand-ins are labels of training, and t, whose words are those of training."""
EVERY = Weights(dict.fromkeys(PARTS, 1.0))
ITEMS = [{"title": "red lamp"}, {"title": "blue chair label"}, {"title": "navy chair"}]


def first(side, count, labels=False):
    """A side that knows only the first labels."""
    if labels:
        ends = side.image_offsets[: count + 1]
        return dataclasses.replace(
            side, ids=Strings.pack(list(side.ids)[:count]),
            titles=Strings.pack(list(side.titles)[:count]), text=side.text[:count],
            image_offsets=ends, image_rows=side.image_rows[: ends[-1]],
        )  # fmt: skip
    cut = {name: getattr(side, name)[:, :count].tocsr() for name in ("relevance", "filter")}
    return dataclasses.replace(side, **cut)


def label_item(i):
    """Return label i as an item to add."""
    images = [Image.new("RGB", (PIXELS, PIXELS), colour(n)) for n in pictures("label", i)]
    return {"id": f"label{i}", "title": title("label", i), "images": images}


NEW = [label_item(i) for i in range(BASE, L)]


SLOW = [pytest.mark.slow, pytest.mark.rotates("classifiers that labels are added to", every=2)]


def by_parts(one, folder, weights=WEIGHTS):
    """Return a predictor of the same labels whose parts rank; all of them are loaded."""
    pairs, heads = TrainingPairs.read(one.dataset), one.model.heads()
    w = np.load(folder / "predictor" / "labels" / "w.npy")
    x = np.random.default_rng(0).normal(size=(SIZES["train"], 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z = vectors_of(one)
    exact = IndexConfig(backend="exact")
    build_parts(folder / "select", PARTS, one.dataset, pairs, heads, x, z, w, exact)
    save_ranking(folder / "select", PARTS, PartConfig(), {"all": Mix(weights, weights)})
    ranking = load_ranking(folder / "select", one.dataset, heads, one.cache)
    return Predictor(one.model, one.index, one.cache, one.dataset, one.config, ranking)


def vectors_of(predictor):
    """Return z of all labels of a predictor."""
    labels = predictor.dataset.labels
    blocks = [predictor.embed(pool, bags).vector for _, pool, bags in predictor.read(labels)]
    return np.concatenate(blocks)[: len(labels)]


def named(answers):
    return [[one.id for one in answer] for answer in answers]


def lending(one, count):
    """Return the predictor with another number of labels that lend."""
    parts = (one.model, one.index, one.cache, one.dataset, one.config, one.ranking, one.versions)
    return Predictor(*parts, lenders=count)
