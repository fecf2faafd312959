"""The prepared folder of an export: what answers need of the data, without the items themselves.

It has the files of any prepared folder. Its items have lost their texts, pictures and ready
vectors; training and test points also their titles. The ids of training points stay, for labels
that are added later and name them. The training pairs stay where parts of the score read them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Int32
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.kept_fields import FILE
from mufin_jax.data.manifest import WITHOUT_ITEMS, save_manifest
from mufin_jax.data.strings import Strings
from mufin_jax.runtime.storage.files import save_array
from mufin_jax.runtime.storage.npy import FREE

_COPIED = ("train_ids.npz", "label_ids.npz", "label_titles.npz")
_IF_THERE = ("tokenizer.json", FILE)
_SETTINGS = ("columns", "max_images", "max_bytes", "max_pixels")
"""The settings of prepare that answers read; others may name places on the machine of the run."""


def save_prepared(dataset: Dataset, folder: Path, pairs: bool) -> None:
    """Write the prepared folder of an export.

    Args:
        dataset: of the run, with nothing held out.
        folder: is made.
        pairs: whether to keep the training pairs.
    """
    folder.mkdir(parents=True)
    train, labels = dataset.train, dataset.labels
    files = dataset.manifest["files"]
    for name in (*_COPIED, *(name for name in _IF_THERE if name in files)):
        shutil.copyfile(dataset.path / name, folder / name)
    untitled = Strings(np.zeros(0, np.uint8), np.zeros(len(train) + 1, np.int64))
    _save_strings(folder / "train_titles.npz", untitled)
    for kind in ("ids", "titles"):
        _save_strings(folder / f"test_{kind}.npz", Strings.pack([]))
    for side, count in ((train, len(train)), (dataset.test, 0), (labels, len(labels))):
        _save_items(folder / f"{side.name}_items.npz", side.text[:count])
    none, nothing = (
        csr_matrix((count, len(labels)), dtype=np.float32) for count in (len(train), 0)
    )
    for name, matrix in (
        ("train_relevance", training_pairs(train)[0] if pairs else none), ("train_filter", none),
        ("test_relevance", nothing), ("test_filter", nothing),
    ):  # fmt: skip
        scipy.sparse.save_npz(folder / f"{name}.npz", matrix)
    if dataset.text_vectors is not None:
        save_array(folder / "text_vectors.npy", np.asarray(dataset.text_vectors[:0]))
    else:
        save_array(folder / "texts.npy", np.asarray(dataset.texts[:0]))
        save_array(folder / "text_lengths.npy", np.asarray(dataset.text_lengths[:0]))
    if dataset.image_vectors is not None:
        save_array(folder / "image_vectors.npy", np.asarray(dataset.image_vectors[:0]))
    else:
        size = dataset.processing.size
        save_array(folder / "images.npy", np.zeros((0, size, size, 3), np.uint8))
    save_manifest(folder, _content(dataset.manifest), [path.name for path in folder.iterdir()])


def _content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest of the run tells, without its files and without paths."""
    kept = {name: value for name, value in manifest.items() if name not in ("version", "files")}
    config = manifest.get("config", {})
    kept["config"] = {name: config[name] for name in _SETTINGS if name in config}
    return kept | {WITHOUT_ITEMS: True}


def _save_strings(path: Path, strings: Strings) -> None:
    _save(path, blob=strings.blob, offsets=strings.offsets)


def _save_items(path: Path, text: Int32[np.ndarray, "n *texts"]) -> None:
    """Write items that show nothing, as many as there are rows of texts."""
    zeros = np.zeros(len(text) + 1, np.int64)
    nothing = np.full(text.shape, -1, np.int32)
    _save(path, text=nothing, image_offsets=zeros, image_rows=zeros[:0])


def _save(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz file, packed unless it is so large that readers would distrust it."""
    small = sum(array.nbytes for array in arrays.values()) < FREE
    (np.savez_compressed if small else np.savez)(path, **arrays)  # pyright: ignore
