"""The parts of a score at scale: what does a query cost by each of them, and what do they hold?

    python benchmarks/parts.py                    # 1,000,000 labels of 64 dimensions
    python benchmarks/parts.py --short            # 20,000 labels, seconds
    python benchmarks/parts.py --keep=DIR         # builds once

Labels and training points are the same products, so most queries are warm. Vectors are made up
(catalogue.py), with one descriptor a label. A product has five others that were bought with it, few
of them popular: the most popular label has 1% of all pairs. Titles have five words. The files are
written by a process of its own, as a run writes them; a `Predictor` then loads them.

Reports the milliseconds of a query alone and in a batch of 256, for each part (its list of 100
labels, and its values of 700 candidates), for the mix of all parts, and for the walks without the
bound on the points of a label. Also the memory that no file holds, next to the memory plan's.
`ratio` is that memory over the plan's.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from a2q import anonymous_kb
from catalogue import Catalogue, unit
from flax import nnx
from made_up_run import with_labels
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.strings import Strings
from mufin_jax.data.synthetic.catalogue import MiniatureConfig, write_miniature
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.embed_side import SideEmbedding
from mufin_jax.model.heads import Embedding
from mufin_jax.model.label_table import TableConfig
from mufin_jax.model.mufin import Mufin
from mufin_jax.pipeline.memory_plan import plan, plan_table
from mufin_jax.pipeline.memory_survey import sizes_of
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.label_cache import cache_writer
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_files import (
    PartConfig,
    TrainingPairs,
    build_parts,
    load_ranking,
    save_ranking,
)
from mufin_jax.prediction.parts import PARTS, KnownWalk, Query, SoftWalk
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval import walk
from mufin_jax.retrieval.build import build_vector_index
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed.mesh import by_row, make_mesh, put
from mufin_jax.runtime.storage.files import save_json
from mufin_jax.stages.select import SelectConfig
from mufin_jax.training.optimizer import OptimizerConfig

K, BATCH, EACH, WORDS, VOCABULARY = 100, 256, 5, 5, 50_000


def data_of(folder: Path, labels: int) -> Dataset:
    """Return a data set with so many labels, each of which is a training point, too."""
    if not (folder / "prepared" / "manifest.json").exists():
        few = MiniatureConfig(labels=60, points=120, test_points=40, picture=16)
        write_miniature(few, folder / "raw")
        small = PrepareConfig(image_size=16, records=False)
        prepare(small, folder / "raw", folder / "prepared")
    rng = np.random.default_rng(0)
    named = (labels * rng.random(EACH * labels) ** 3).astype(np.int64)
    starts = np.arange(0, EACH * labels + 1, EACH)
    pairs = csr_matrix((np.ones(len(named), np.float32), named, starts), (labels, labels))
    pairs.sum_duplicates()
    words = (VOCABULARY * rng.random((labels, WORDS)) ** 3).astype(np.int64)
    titles = Strings.pack(" ".join(f"word{word}" for word in row) for row in words)
    dataset = with_labels(Dataset.load(folder / "prepared"), labels)
    side = dataclasses.replace(dataset.labels, titles=titles, text=np.zeros(labels, np.int32))
    none = csr_matrix(pairs.shape, dtype=np.float32)
    train = dataclasses.replace(side, name="train", relevance=pairs, filter=none)
    return dataclasses.replace(dataset, labels=side, train=train)


def model_of(dataset: Dataset, dim: int) -> Mufin:
    """Return a small model with random weights."""
    config = ModelConfig(
        dim=dim,
        image=ViTConfig(width=dim, depth=1, heads=2, mlp=32, patch=8, image_size=16),
        text=DistilBertConfig(width=dim, depth=1, heads=2, mlp=32, max_positions=64),
    )
    return Mufin(
        config, vocab=dataset.tokenizer.vocab_size, vector_width=None,
        processing=dataset.processing, mesh=make_mesh(), rngs=nnx.Rngs(0),
    )  # fmt: skip


def build(folder: Path, labels: int, dim: int) -> None:
    """Write what a run of so many labels leaves to a predictor with parts."""
    dataset, config = data_of(folder, labels), IndexConfig()
    model = model_of(dataset, dim)
    z = Catalogue.draw(labels, dim=dim).labels
    x = np.empty_like(z)
    rng, out = np.random.default_rng(1), folder / "predictor"
    for rows in cut(labels, 1 << 16):
        noise = rng.standard_normal(z[rows].shape, np.float32) / np.float32(dim**0.5)
        x[rows] = unit(z[rows] + np.float32(0.5) * noise)
    with cache_writer(out / "labels", None, dim, model.mesh) as append:
        for rows in cut(labels, 4096):
            some = np.arange(rows.start, rows.stop)
            bag = z[rows][:, None] * np.float32(dim**0.5)  # as a LayerNorm leaves them
            append(some, SideEmbedding(z[rows], bag, np.ones(bag.shape[:2], bool)))
    blocks = (z[rows] for rows in cut(labels, 1 << 15))
    build_vector_index(out / "index", blocks, dim, config, model.mesh)
    save_json(out / "predictor.json", {})
    start = time.perf_counter()
    pairs = TrainingPairs.read(dataset)
    build_parts(folder / "select", PARTS, dataset, pairs, model.heads(), x, z, x, config)
    weights = Weights({name: 1.0 for name in PARTS})
    save_ranking(folder / "select", PARTS, PartConfig(), {"all": Mix(weights, weights)})
    save_json(folder / "built.json", {"parts_seconds": time.perf_counter() - start})


class Peak:
    """The most memory of this process that belongs to no file, sampled, in GB."""

    def __init__(self) -> None:
        self.kb, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.kb = max(self.kb, anonymous_kb(os.getpid()))

    def stop(self) -> float:
        """Return the peak."""
        self._over.set()
        self._thread.join()
        return self.kb * 1024 / 1e9


def queries_of(predictor: Predictor, count: int) -> Query:
    """Return queries near labels, which they are themselves but for every fourth."""
    labels, dim = predictor.dataset.num_labels, predictor.model.dim
    rng = np.random.default_rng(7)
    own = rng.integers(0, labels, BATCH)
    z = np.concatenate([predictor.index.entries.vectors[label : label + 1] for label in own])
    x = unit(z + np.float32(0.5 / dim**0.5) * rng.standard_normal(z.shape, np.float32))[:count]
    bag = np.repeat(x[:, None] * np.float32(dim**0.5), 4, axis=1)
    mask = np.arange(4) < np.full((count, 1), 2)
    points = Embedding(*put((bag, mask, x), by_row(predictor.model.mesh)))
    ranking = predictor.ranking
    assert ranking is not None
    known = ranking.known_of(predictor.dataset.labels, own[:count])
    return Query(points, x, known._replace(own=np.where(np.arange(count) % 4, known.own, -1)))


def sides_of(predictor: Predictor, count: int) -> dict[str, Callable[[], Any]]:
    """Return the calls that are timed: each part alone, and the mix."""
    ranking, query = predictor.ranking, queries_of(predictor, count)
    assert ranking is not None
    rng = np.random.default_rng(3)
    some = np.sort(rng.integers(0, predictor.dataset.num_labels, (count, 7 * K)).astype(np.int32))

    def alone(name: str) -> Callable[[], Any]:
        def call() -> None:
            answer = ranking.parts[name].ask(query)
            answer.shortlist(K)
            answer.at(some)

        return call

    return {name: alone(name) for name in ranking.parts} | {"mix": lambda: ranking.rank(query, K)}


def unbounded(predictor: Predictor, count: int) -> tuple[dict[str, Any], float]:
    """Return times of the walks without the bound on hubs, and what the bound changes of sg.

    The second value is the share of the 100 labels of sg that the bound leaves.
    """
    ranking, query, bound = predictor.ranking, queries_of(predictor, count), walk.POINTS
    assert ranking is not None
    pairs = TrainingPairs.read(predictor.dataset)
    walk.POINTS = pairs.pairs.nnz
    try:
        whole = pairs.walk
    finally:
        walk.POINTS = bound
    sides = {}
    for name in ("g", "sg"):
        part = ranking.parts[name]
        assert isinstance(part, KnownWalk | SoftWalk)
        part = dataclasses.replace(part, walk=whole)
        sides[name] = lambda part=part: part.ask(query).shortlist(K)
        sides[f"{name} bounded"] = lambda name=name: ranking.parts[name].ask(query).shortlist(K)
    kept = [
        len(set(one.tolist()) & set(other.tolist())) / K
        for one, other in zip(sides["sg"]().labels, sides["sg bounded"]().labels, strict=True)
    ]
    times = measuring.in_turn(sides, count=5, warm_up=1)
    return {name: one.facts(count) for name, one in times.items()}, float(np.mean(kept))


def run(folder: Path, labels: int, dim: int) -> None:
    """Load the predictor, measure, and print the results, the last line as one JSON object."""
    dataset = data_of(folder, labels)
    model, held = model_of(dataset, dim), {"start": anonymous_kb(os.getpid()) * 1024 / 1e9}
    rates = OptimizerConfig(image_encoder="frozen", text_encoder="frozen")
    sizes = sizes_of(
        dataset, model.config, TableConfig(), model.mesh, pretrain=(1, 1), finetune=(1, 1),
        optimizers=(rates, rates), index=IndexConfig(), select=SelectConfig(parts=PARTS),
    )  # fmt: skip
    planned = plan(sizes)
    print(plan_table(planned), flush=True)
    peak = Peak()
    predictor = Predictor.load_parts(
        folder / "predictor", model, dataset, PredictConfig(shortlist=K)
    )
    held["predictor"] = anonymous_kb(os.getpid()) * 1024 / 1e9
    start = time.perf_counter()
    predictor.ranking = load_ranking(
        folder / "select", dataset, model.heads(), predictor.cache, every=True
    )
    loaded = time.perf_counter() - start
    held["parts"] = anonymous_kb(os.getpid()) * 1024 / 1e9
    facts: dict[str, Any] = {"labels": labels, "dim": dim, "parts_loaded_s": loaded}
    facts |= json.loads((folder / "built.json").read_text())
    for count in (1, BATCH):
        sides = sides_of(predictor, count)
        times = measuring.in_turn(sides, count=7 if count == 1 else 3, warm_up=1)
        case = "single" if count == 1 else f"batch_{count}"
        facts[case] = {name: one.facts(count) for name, one in times.items()}
        for name, one in facts[case].items():
            print(f"    {case:>10} {name:>4}: {one['ms']:9.3f} ms a query, "
                  f"CPU {one['cpu_ms']:9.3f}", flush=True)  # fmt: skip
    measured = held["peak"] = peak.stop()
    facts["unbounded"], facts["sg_kept"] = unbounded(predictor, 16)
    print("walks of 16 queries, with and without the bound:", facts["unbounded"])
    wanted = (planned.device("predict") + planned.host("predict")) / 1e9
    facts |= {"planned_gb": wanted, "held_gb": held}
    measuring.line(f"parts: {labels} labels", measured / wanted, 1.0, **facts)


def main() -> None:
    """Build in a process of its own, then measure."""
    parser = argparse.ArgumentParser(description="The parts of a score at scale.")
    parser.add_argument("--labels", type=int)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--short", action="store_true", help="20,000 labels")
    parser.add_argument("--keep", type=Path, help="a folder to keep what was built in")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    labels = given.labels or (20_000 if given.short else 1_000_000)
    if given.build:
        build(given.build, labels, given.dim)
        return
    with measuring.place(given.keep, f"parts-{labels}") as folder:
        if not (folder / "built.json").exists():
            flags = [f"--labels={labels}", f"--dim={given.dim}", f"--build={folder}"]
            subprocess.run([sys.executable, __file__, *flags], check=True)
        run(folder, labels, given.dim)


if __name__ == "__main__":
    sys.exit(main())
