"""The StableHLO programs of an export, loaded and compared with its predictor."""

import datetime
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax import export
from safetensors.numpy import load_file

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.export.programs import MANIFEST, WEIGHTS
from mufin_jax.prediction import scoring
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged, load_sealed
from mufin_jax.runtime.storage.npy import mapped

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
_ITEMS, _LABELS = 3, 4
"""What is compared: so many items, each with so many labels."""

Arrays = dict[str, np.ndarray]
Call = Callable[[Arrays], Arrays]


def load_programs(folder: Path) -> dict[str, Call]:
    """Return the programs of a folder by name, as functions of their inputs.

    Raises:
        InputError: if JAX cannot read them.
    """
    facts, weights = load_sealed(folder / MANIFEST), load_file(folder / WEIGHTS)
    if datetime.date.today() > datetime.date.fromisoformat(facts["export_again_by"]):
        log.warning("%s: made on %s by jax %s; export them again", folder, facts["made"],
                    facts["jax"])  # fmt: skip

    def of(name: str) -> Call:
        own = {key: weights[key] for key in facts["programs"][name]["weights"]}
        with damaged(f"{folder / name}.bin cannot be read ({{reason}}): export the run again"):
            program = export.deserialize(bytearray((folder / f"{name}.bin").read_bytes()))

        def call(inputs: Arrays) -> Arrays:
            found: Any = program.call(own, inputs)
            return {key: np.asarray(values) for key, values in found.items()}

        return call

    return {name: of(name) for name in facts["programs"]}


def check_programs(folder: Path, cache: Path, predictor: Predictor) -> float:
    """Return the largest difference of the programs from the predictor, on a few made-up items.

    Args:
        folder: of the programs.
        cache: the folder of the predictor's label cache.
        predictor: of the same model.

    Raises:
        InputError: if a program cannot be read, or the difference is above `TOLERANCE`.
    """
    calls, (inputs, (pool, bags)) = load_programs(folder), _items(predictor)
    x0 = np.concatenate(
        [calls[kind](own)["x0"].reshape(_ITEMS, -1, predictor.model.dim)
         for kind, own in inputs.items()], axis=1,
    )  # fmt: skip
    mask = np.ones(x0.shape[:2], bool)
    ours = calls["embed"]({"x0": x0, "mask": mask})
    points = predictor.embed(pool, bags)
    differences = [_difference(ours["vector"], fetch(points.vector)[:_ITEMS])]
    given, labels = _labels(cache)
    given |= {"x1": ours["x1"], "vector": ours["vector"], "mask": mask}
    c = scoring.classify(predictor.model.heads(), points, predictor.cache, labels)
    scores = predictor.config.mix * c + (1 - predictor.config.mix) * given["a"]
    found = calls["score"](given)
    differences += [_difference(found["c"], c), _difference(found["scores"], scores)]
    if not max(differences) <= TOLERANCE:
        raise InputError(
            f"{folder}: the programs differ from the predictor by {max(differences):.2g}, expected "
            f"at most {TOLERANCE:g}; export the run again"
        )
    return max(differences)


def _items(predictor: Predictor) -> tuple[dict[str, Arrays], tuple[Pool, Bags]]:
    """Return a text and a picture of some items: for the programs, and for the predictor."""
    dataset, descriptors = predictor.dataset, predictor.loader.descriptors
    titles = [[title] for title in ("oak shelf", "a lamp", "")]
    texts, images, inputs = (), (), {}
    if descriptors.sees_texts and dataset.text_vectors is not None:
        words = _waves(_ITEMS, dataset.text_vectors.shape[1])
        texts, inputs["text"] = [[row] for row in words], {"vectors": words}
    elif descriptors.sees_texts:
        flat = [title for own in titles for title in own]
        tokens, lengths = dataset.tokenizer.encode(flat, dataset.texts.shape[1])
        inputs["text"] = {"tokens": tokens, "lengths": lengths}
    pictures = []
    if descriptors.sees_images and dataset.image_vectors is not None:
        shown = _waves(_ITEMS, dataset.image_vectors.shape[1])
        images, inputs["image"] = [[row] for row in shown], {"vectors": shown}
    elif descriptors.sees_images:
        size = dataset.processing.size
        waves = _waves(_ITEMS, size * size * 3).reshape(_ITEMS, size, size, 3)
        pixels = (127 + 120 * waves).astype(np.uint8)
        pictures, inputs["image"] = [[one] for one in pixels], {"pixels": pixels}
    return inputs, descriptors.assemble(titles, pictures, texts, images)


def _waves(rows: int, width: int) -> np.ndarray:
    """Return rows of numbers from -1 to 1 that differ."""
    return np.sin(np.arange(rows * width, dtype=np.float32) ** 1.1).reshape(rows, width)


def _labels(cache: Path) -> tuple[Arrays, np.ndarray]:
    """Return the first labels as the program of scores reads them, and their numbers."""
    offsets, bags = np.load(cache / "offsets.npy", allow_pickle=False), mapped(cache / "bags.npy")
    w = np.asarray(mapped(cache / "w.npy")[:_LABELS])
    counts = np.diff(offsets[: len(w) + 1])
    mask = np.arange(max(1, *counts)) < counts[:, None]
    z1 = np.zeros((*mask.shape, w.shape[1]), np.float32)
    z1[mask] = bags[: offsets[len(w)]]
    a = _waves(_ITEMS, len(w))
    every = {"z1": z1, "label_mask": mask, "w": w}
    given = {name: np.repeat(one[None], _ITEMS, 0) for name, one in every.items()}
    labels = np.repeat(np.arange(len(w), dtype=np.int32)[None], _ITEMS, 0)
    return given | {"a": a}, labels


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())
