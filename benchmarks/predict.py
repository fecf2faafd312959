"""Where does the time of a query go, alone and in a batch, and how does PyTorch answer it?

    python benchmarks/predict.py --keep=DIR           # 303,296 labels, encoders of full size
    python benchmarks/predict.py --short              # 30,000 labels
    python benchmarks/predict.py --small              # 3,000 labels, small encoders: seconds
    python benchmarks/predict.py --device=gpu         # the same on an accelerator, against limits

The label side is made up (made_up_run.py) and written like a run's. Weights are random. The parts
of a query: read pictures and titles; encode; shortlist, including the exact similarities;
score, including the gather of label bags and classifiers; names. The work after the
encoders is compared with PyTorch in the way of the released code (torch_twin/answering.py), on the
same bags, labels and threads, with hnswlib at the released setting: over one pooled vector a label,
as released, or with `--their-index=entries` over all entries. Both sides score 100 labels.

`ratio` is ours over theirs, batches of 256, wall time. On an accelerator it is the time of a query
from its pixels and tokens to its scores over the limit, 1.3 ms alone and 0.1 ms in a batch of 256:
the larger of the two.
"""

import argparse
import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
import numpy as np
from catalogue import DIM, Catalogue

from mufin_jax.runtime.distributed.padding import grown

if TYPE_CHECKING:
    from mufin_jax.prediction.predictor import Predictor

STARTED = time.perf_counter()
L, BATCH, SLOTS, K = 303_296, 256, 4, 100
LIMIT, SINGLE_MS, BATCH_MS = 0.3, 1.3, 0.1
EF = 300


def items_of(count: int) -> list[dict[str, Any]]:
    """Return queries: a title and one to three pictures of 500 pixels each."""
    from PIL import Image

    rng, items = np.random.default_rng(0), []
    for i in range(count):
        pictures = []
        for _ in range(1 + i % 3):
            small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((500, 500), Image.Resampling.BICUBIC).save(file, "JPEG")
            pictures.append(file.getvalue())
        items.append({"title": f"a lamp of brass for the table, number {i}", "images": pictures})
    return items


def parts_of(predictor: "Predictor", queries: "Queries", items: list[dict]) -> dict[str, Any]:
    """Return the whole path and its parts as calls by name, for the first queries."""
    import jax

    from mufin_jax.prediction.items import read_query
    from mufin_jax.prediction.label_cache import gather
    from mufin_jax.prediction.queries import read_items
    from mufin_jax.retrieval.index import shortlist_points
    from mufin_jax.runtime.distributed.mesh import by_row, put

    mesh, count = predictor.model.mesh, len(items)
    dataset, descriptors = predictor.dataset, predictor.loader.descriptors
    read = lambda: read_items(read_query(items), dataset, descriptors)  # noqa: E731
    pool, bags = read()
    x, points = queries.x[:count], queries.embedding(count, mesh)
    find = lambda: shortlist_points(predictor.index, x, K)  # noqa: E731
    lists = find()
    own = lists.labels[: min(count, 32)]
    own = np.pad(own, ((0, -len(own) % mesh.size), (0, 0)), constant_values=-1)
    slots = put((own, predictor.cache.slots(own)), by_row(mesh))
    gathered = jax.jit(gather, static_argnums=3)
    ranked = predictor.score(points, lists)
    return {
        "whole": lambda: predictor.predict(items, 5),
        "read": read,
        "encode": lambda: jax.block_until_ready(predictor.embed(pool, bags)),
        "after_encoders": lambda: predictor.score(points, find()),
        "shortlist": find,
        "exact_similarities": lambda: predictor.index.entries.exact_similarity(x, lists.labels),
        "score": lambda: predictor.score(points, lists),
        f"gather_{len(own)}": lambda: jax.block_until_ready(
            gathered(predictor.cache.arrays, *slots, mesh)
        ),
        "names": lambda: [predictor._name(*row, 5) for row in zip(*ranked, strict=True)],
    }


class Queries:
    """Encoded datapoints: x near labels, bags of a title and some pictures."""

    def __init__(self, num_labels: int):
        catalogue, rng = Catalogue.draw(num_labels), np.random.default_rng(5)
        self.x = catalogue.points(BATCH)
        self.mask = np.arange(SLOTS) < (2 + np.arange(BATCH) % 3)[:, None]
        noise = rng.standard_normal((BATCH, SLOTS, DIM), np.float32)
        self.bag = (self.x[:, None] * DIM**0.5 + noise) * self.mask[..., None]

    def embedding(self, count: int, mesh: Any) -> Any:
        """Return the first datapoints, padded as by the predictor."""
        from mufin_jax.model.heads import Embedding
        from mufin_jax.prediction import shapes
        from mufin_jax.runtime.distributed.mesh import by_row, put

        size = shapes.points(count, mesh.size)
        leaves = (self.bag[:count], self.mask[:count], self.x[:count])
        return Embedding(*put(tuple(grown(v, size) for v in leaves), by_row(mesh)))


def twin_of(arguments: argparse.Namespace, folder: Path, queries: Queries) -> Any:
    """Return a function from a number of queries to PyTorch's answers to the first ones."""
    import torch
    from retrieval import RELEASED, Hnsw
    from torch_twin.answering import Answering

    from mufin_jax.retrieval.exact import LabelEntries

    torch.set_num_threads(measuring.cores())
    bags, w = (np.load(folder / "labels" / f"{name}.npy") for name in ("bags", "w"))
    offsets = np.load(folder / "labels" / "offsets.npy")
    if arguments.their_index == "entries":
        held = LabelEntries(np.load(folder / "index" / "entries.npy"), offsets)
    else:
        held = LabelEntries(w, np.arange(len(w) + 1))
    graph = Hnsw(held, RELEASED, arguments.keep)
    k = EF if arguments.their_index == "entries" else K
    tensors = (torch.from_numpy(one) for one in (bags, offsets, w))
    answering = Answering(*tensors, mix=0.7)

    def answer(count: int) -> None:
        found = graph.shortlist(queries.x[:count], EF, k)
        for start in range(0, count, 32):  # all 256 at once would take gigabytes
            rows = slice(start, min(start + 32, count))
            given = (queries.bag, queries.mask, found.labels, found.similarities)
            given = [torch.from_numpy(np.ascontiguousarray(one[rows])) for one in given]
            given[2] = given[2].long().clamp_min(0)
            answering(*given)

    return answer


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure, and print the results, the last line as one JSON object."""
    import jax
    from made_up_run import predictor_of

    start = time.perf_counter()
    predictor = predictor_of(folder, arguments.labels, arguments.small, K)
    opened, items = time.perf_counter() - start, items_of(BATCH)
    start = time.perf_counter()
    accelerator = jax.default_backend() != "cpu"
    if not accelerator:  # there it compiles for minutes what is not measured here
        predictor.warm_up(images=3)
    warm = time.perf_counter() - start
    first, second = measuring.Times(), measuring.Times()
    first.take(lambda: predictor.predict(items[:1]))
    second.take(lambda: predictor.predict(items[:1]))
    facts: dict[str, Any] = {
        "labels": arguments.labels, "shortlist": K, "opened_s": opened, "warm_up_s": warm,
        "first_answer_ms": first.ms, "second_answer_ms": second.ms,
        "since_start_s": time.perf_counter() - STARTED,
    }  # fmt: skip
    print(f"opened in {opened:.1f} s, warm in {warm:.1f} s; first answer {first.ms:.1f} ms, "
          f"second {second.ms:.1f} ms", flush=True)  # fmt: skip
    queries = Queries(arguments.labels)
    twin = None if accelerator or not arguments.twin else twin_of(arguments, folder, queries)
    ratios = {}
    for count in (1, BATCH):
        sides = parts_of(predictor, queries, items[:count])
        if count > 1 and not arguments.small and not accelerator:
            del sides["whole"], sides["encode"]  # a minute each; one query has told
        if twin is not None:
            sides["torch"] = lambda count=count: twin(count)
        times = measuring.in_turn(sides, count=9 if count == 1 else 5, warm_up=1)
        case = "single" if count == 1 else f"batch_{count}"
        facts[case] = {name: one.facts(count) for name, one in times.items()}
        for name, one in facts[case].items():
            print(f"    {case:>10} {name:>20}: {one['ms']:9.3f} ms a query, "
                  f"CPU {one['cpu_ms']:9.3f}", flush=True)  # fmt: skip
        if twin is not None:
            ratios[case] = measuring.ratio(times["after_encoders"], times["torch"])
    limit: float | None = LIMIT if ratios else None
    ratio = ratios.get(f"batch_{BATCH}", 0.0)
    if accelerator:
        limits = {"single": SINGLE_MS, f"batch_{BATCH}": BATCH_MS}
        for case, most in limits.items():
            spent = sum(facts[case][part]["ms"] for part in ("encode", "after_encoders"))
            ratios[case] = measuring.significant(spent / most)
        ratio, limit = max(ratios.values()), 1.0
        facts["limits_ms"] = limits
    measuring.line("predict", ratio, limit, ratios=ratios, **facts)


def main() -> None:
    """Read the flags, and select the device before JAX is imported."""
    parser = argparse.ArgumentParser(description="A query by its parts, beside PyTorch.")
    parser.add_argument("--labels", type=int)
    parser.add_argument("--short", action="store_true", help="30,000 labels")
    parser.add_argument("--small", action="store_true", help="3,000 labels, small encoders")
    parser.add_argument("--keep", type=Path, help="a folder to keep what was built in")
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: as JAX chooses")
    parser.add_argument("--their-index", choices=("pooled", "entries"), default="pooled")
    parser.add_argument("--no-twin", dest="twin", action="store_false", help="ours alone")
    arguments = parser.parse_args()
    arguments.labels = arguments.labels or (
        3_000 if arguments.small else 30_000 if arguments.short else L
    )
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(arguments.device, arguments.device)
    if arguments.keep:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(arguments.keep / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    with measuring.place(arguments.keep, f"predict-{arguments.labels}") as folder:
        run(arguments, folder)


if __name__ == "__main__":
    sys.exit(main())
