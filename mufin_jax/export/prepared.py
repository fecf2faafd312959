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
from mufin_jax.data.manifest import WITHOUT_ITEMS, save_manifest
from mufin_jax.data.strings import Strings
from mufin_jax.runtime.storage.files import save_array
from mufin_jax.runtime.storage.npy import FREE

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
    train, labels, nobody = dataset.train, dataset.labels, Strings.pack([])
    untitled = Strings(np.zeros(0, np.uint8), np.zeros(len(train) + 1, np.int64))
    _save_side(folder, "train", train.ids, untitled, train.text)
    _save_side(folder, "test", nobody, nobody, dataset.test.text[:0])
    _save_side(folder, "label", labels.ids, labels.titles, labels.text)
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
        shutil.copyfile(dataset.path / "tokenizer.json", folder / "tokenizer.json")
    if dataset.image_vectors is not None:
        save_array(folder / "image_vectors.npy", np.asarray(dataset.image_vectors[:0]))
    else:
        size = dataset.processing.size
        save_array(folder / "images.npy", np.zeros((0, size, size, 3), np.uint8))
    files = [path.name for path in folder.iterdir()]
    save_manifest(folder, _content(dataset.manifest), files)


def _content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest of the run tells, without its files and without paths."""
    kept = {name: value for name, value in manifest.items() if name not in ("version", "files")}
    config = manifest.get("config", {})
    kept["config"] = {name: config[name] for name in _SETTINGS if name in config}
    return kept | {WITHOUT_ITEMS: True}


def _save_side(
    folder: Path, name: str, ids: Strings, titles: Strings, text: Int32[np.ndarray, "n *texts"]
) -> None:
    """Write a side whose items show nothing."""
    for kind, strings in (("ids", ids), ("titles", titles)):
        _save(folder / f"{name}_{kind}.npz", blob=strings.blob, offsets=strings.offsets)
    zeros = np.zeros(len(ids) + 1, np.int64)
    nothing = np.full(text.shape, -1, np.int32)
    _save(folder / f"{name}_items.npz", text=nothing, image_offsets=zeros, image_rows=zeros[:0])


def _save(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz file, packed unless it is so large that readers would distrust it."""
    small = sum(array.nbytes for array in arrays.values()) < FREE
    (np.savez_compressed if small else np.savez)(path, **arrays)  # pyright: ignore
