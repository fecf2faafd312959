"""Generated ads and queries in the shape of the paper's ad-to-query task, of any size.

A2Q-4M (paper, section 4) is not public. Its datapoints are ads, each with one title and one
picture. Its labels are queries, which only have text: N = 9,618,490 training points,
L = 4,528,191 labels and 3,933,149 test points, that is, 2.1 and 0.9 points a label. Here, titles,
queries and pictures are ready vectors:

- queries form clusters of very unequal size, and clusters form topics; the queries' popularity has
  a long tail (Zipf's law): a few are very frequent, most are rare or never seen in training;
- an ad has one to four queries of one cluster; its title and its picture are two independent noisy
  views of them, so both together tell more than one;
- the views also show of each query something that its own text lacks; a centroid or a classifier
  learns it from the query's training points.

The vectors have entries of falling variance, as learned embeddings do: about twenty of the 192
directions decide similarity. Only the prepared folder is written.
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, save_npz

from mufin_jax.data.manifest import MANIFEST, save_manifest
from mufin_jax.data.preparation.items import Items
from mufin_jax.data.readers.catalogue import SIDES
from mufin_jax.data.strings import Strings
from mufin_jax.data.synthetic.ads_world import AdsConfig, Queries
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.disk import filling
from mufin_jax.runtime.storage.files import save_json
from mufin_jax.runtime.storage.npy import NpyWriter

__all__ = ["AdsConfig", "write_ads"]

_REPORT = "prepare_report.json"
_FILES = (
    *("text_vectors.npy", "image_vectors.npy", _REPORT),
    *(f"{side}_{part}.npz" for side in SIDES for part in ("items", "ids", "titles")),
    *(f"{side}_{part}.npz" for side in SIDES[:2] for part in ("relevance", "filter")),
)

_log = logging.getLogger(__name__)


def write_ads(config: AdsConfig, out: Path, block: int = 8192) -> None:
    """Write a prepared folder of generated data; `Dataset.load` reads it.

    Args:
        config: what to generate.
        out: the folder; files of an interrupted attempt are overwritten.
        block: rows in memory at a time; the result does not depend on it.

    Raises:
        DiskError: if the folder cannot be written.
        Stopped: after a signal; the next attempt starts again.
    """

    def clear() -> None:
        for name in _FILES:
            (out / name).unlink(missing_ok=True)

    with filling(out, clear):
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        queries = Queries(config)
        counts = {"train": config.points, "test": config.test_points}
        pairs = {name: queries.draw(name, count) for name, count in counts.items()}
        _write_vectors(queries, pairs, out, block)
        _write_items(config, out)
        for name, matrix in pairs.items():
            save_npz(out / f"{name}_relevance.npz", matrix)
            save_npz(out / f"{name}_filter.npz", csr_matrix(matrix.shape, dtype=np.float32))
            counts |= {f"{name}_relevance": matrix.nnz, f"{name}_filter": 0}
        images = config.points + config.test_points
        counts |= {"label": config.labels, "texts": images + config.labels, "images": images}
        report = {"form": "generated ads", "kept": counts, "counts": {}, "listed": []}
        save_json(out / _REPORT, report | {"not_listed": 0})
        content = {
            "form": "generated ads",
            "counts": counts,
            "processing": dataclasses.asdict(ImageProcessing()),
            "max_tokens": 0,
            "filter": "given",
            "config": dataclasses.asdict(config),
        }
        save_manifest(out, content, _FILES)
    seen = np.bincount(pairs["train"].indices, minlength=config.labels)
    _log.info(
        "generated %d points and %d test points of %d labels; %d labels have a training point, the "
        "most frequent one %d",
        config.points, config.test_points, config.labels, (seen > 0).sum(), seen.max(),
    )  # fmt: skip


def _write_vectors(queries: Queries, pairs: dict[str, csr_matrix], out: Path, block: int) -> None:
    """Write text_vectors.npy (labels, train, test) and image_vectors.npy (train, test)."""
    config = queries.config
    total = config.labels + config.points + config.test_points
    with (
        NpyWriter(out / "text_vectors.npy", (config.dim,), np.float32) as texts,
        NpyWriter(out / "image_vectors.npy", (config.dim,), np.float32) as images,
        progress(total=total, desc="generate", unit=" items") as bar,
    ):
        for labels in until_stopped(cut(config.labels, block), "prepare"):
            rows = queries.vectors(labels.start, labels.stop)
            texts.append(rows)
            bar.update(len(rows))
        for name, matrix in pairs.items():
            for some in until_stopped(cut(len(matrix.indptr) - 1, block), "prepare"):
                # Mapped again for each block, which releases the pages read so far.
                shown = queries.shown(matrix[some], texts.written())
                texts.append(queries.view(shown, f"{name} titles", some.start))
                images.append(queries.view(shown, f"{name} pictures", some.start))
                bar.update(len(shown))


def _write_items(config: AdsConfig, out: Path) -> None:
    """Write ids, empty titles and items of the three sides."""
    first_text, first_image = 0, 0
    for name, letter, count in (
        ("label", "Q", config.labels),
        ("train", "A", config.points),
        ("test", "T", config.test_points),
    ):
        images = 0 if name == "label" else count
        offsets = np.arange(count + 1) if images else np.zeros(count + 1, np.int64)
        Items(
            _ids(letter, count),
            Strings(np.zeros(0, np.uint8), np.zeros(count + 1, np.int64)),
            np.arange(first_text, first_text + count, dtype=np.int32),
            offsets,
            np.arange(first_image, first_image + images),
        ).save(out, name)
        first_text, first_image = first_text + count, first_image + images


def _ids(letter: str, count: int) -> Strings:
    """Return ids of equal length, such as A0017."""
    digits = len(str(count - 1))
    numbers = np.arange(count)[:, None] // 10 ** np.arange(digits)[::-1] % 10
    letters = np.full((count, 1), ord(letter))
    blob = np.concatenate([letters, numbers + ord("0")], 1).astype(np.uint8)
    return Strings(blob.reshape(-1), np.arange(count + 1) * (digits + 1))
