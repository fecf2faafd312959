"""What does a shortlist cost, compared with HNSW at the released setting and at the same recall?

    python benchmarks/retrieval.py --keep=DIR      # 500,000 entries; HNSW builds for 10 minutes
    python benchmarks/retrieval.py --short         # 20,000
    python benchmarks/retrieval.py --vectors=1_800_000 --no-hnsw     # HNSW would take an hour
    python benchmarks/retrieval.py --rule          # recall of ours by the number of entries

Both sides hold the same entries (six a label, benchmarks/catalogue.py) and do the same job: 100
distinct labels for a query, each with a similarity. Ours is `LabelIndex.shortlist`, whose
similarities are the exact maxima over all entries of a label. Theirs is hnswlib at the released
setting (M = 100, efConstruction = 300, ef = 300, k = 300). The best returned entry of a label
stands for the label; the same code as ours finds the distinct labels. The released code itself has
one pooled vector a label: its entries are labels. Also measured: the smallest ef, and the smaller M
where it was built, that reach the recall of ours.

Times are the CPU time of all threads, queries together in batches and one by one, with alternating
sides. `ratio` is ours over the released setting, batches of 256. Recall is the share of the exact
100 labels that were found, and, for entries, of the exact 100 entries among those returned first.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from catalogue import Catalogue

from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.scann import Tree
from mufin_jax.retrieval.searcher import TreeSearcher
from mufin_jax.retrieval.shortlist import Shortlist, recall

K, ASKED, CHECKED = 100, 4096, 1024
BATCHES = (256, 4096)
LIMITS = {"beside the released setting": 0.3, "at equal recall": 0.6, "build": 0.1}
"""Of the ratios at so many entries as DEFAULT, and more."""
LEAST_RECALL = 0.97
RELEASED = {"M": 100, "ef_construction": 300}
LEAN = {"M": 16, "ef_construction": 200}
DEFAULT, SHORT = (500_000,), (20_000,)
RULE = (2_000, 20_000, 100_000, 500_000, 1_800_000)


class Hnsw:
    """An hnswlib index over entries, which does the job of a `LabelIndex`."""

    def __init__(self, entries: LabelEntries, setting: dict[str, int], keep: Path | None):
        import hnswlib

        self.entries, self.setting = entries, setting
        self.index = hnswlib.Index("ip", entries.vectors.shape[1])
        self.index.set_num_threads(measuring.cores())
        name = f"hnsw-{len(entries.vectors)}-{setting['M']}"
        file = None if keep is None else keep / f"{name}.bin"
        if file is not None and file.exists():
            self.index.load_index(str(file))
            self.built = json.loads(file.with_suffix(".json").read_text())
        else:
            self.index.init_index(len(entries.vectors), random_seed=0, **setting)
            with timed() as self.built:
                self.index.add_items(np.asarray(entries.vectors))
            if file is not None:
                self.index.save_index(str(file))
                file.with_suffix(".json").write_text(json.dumps(self.built))

    def nearest(self, queries: np.ndarray, k: int, ef: int) -> tuple[np.ndarray, np.ndarray]:
        """Return entries, best first, and their cosines."""
        self.index.set_ef(ef)
        entries, distances = self.index.knn_query(queries, k)
        return entries.astype(np.int64), 1 - distances

    def shortlist(self, queries: np.ndarray, ef: int, k: int = 0) -> Shortlist:
        """Return the labels of the k nearest entries, by default as many as ef."""
        return Shortlist(*self.entries.first_distinct(*self.nearest(queries, k or ef, ef), K))


def exact_entries(entries: LabelEntries, queries: np.ndarray) -> np.ndarray:
    """Return the 100 nearest entries by exact search."""
    found = []
    for block in np.array_split(queries, max(len(queries) // 64, 1)):
        cosines = block @ entries.vectors.T
        found.append(np.argpartition(-cosines, K, axis=1)[:, :K])
    return np.concatenate(found)


def entry_recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of the exact entries that were found."""
    return statistics.fmean(
        len(np.intersect1d(*rows)) / K for rows in zip(found, exact, strict=True)
    )


def enough(at: Callable[[int], float], wanted: float) -> int:
    """Return the smallest ef, in steps of about a sixth, that reaches a recall."""
    ef = 100.0
    while at(round(ef)) < wanted and ef < 1e5:
        ef *= 1.18
    return round(ef)


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Measure the seconds of a block, wall and CPU."""
    found: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield found
    found |= {"s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def make_ours(
    entries: LabelEntries, config: IndexConfig, keep: Path | None
) -> tuple[LabelIndex, dict[str, float]]:
    """Return our index, and the cost of building it."""
    folder = None if keep is None else keep / f"ours-{len(entries.vectors)}"
    if folder is not None and (folder / "built.json").exists():
        built = json.loads((folder / "built.json").read_text())
        tree = Tree.load(folder, config.num_threads())
        return LabelIndex(entries, config, TreeSearcher(entries, tree, config)), built
    with timed() as built:
        index = LabelIndex.build_grouped(entries, config)
    if folder is not None and isinstance(index.searcher, TreeSearcher):
        folder.mkdir(parents=True, exist_ok=True)
        index.searcher.tree.save(folder)
        (folder / "built.json").write_text(json.dumps(built))
    return index, built


def compare(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """Measure both sides at one number of entries."""
    catalogue = Catalogue.draw(size // 6)
    entries = LabelEntries(catalogue.entries(), catalogue.offsets)
    queries = catalogue.points(ASKED)
    checked = queries[: arguments.checked]
    ours, built = make_ours(entries, IndexConfig(backend="scann"), arguments.keep)
    exact = Shortlist(*entries.exact_search(checked, K))
    found: dict[str, Any] = {
        "entries": len(entries.vectors),
        "labels": len(catalogue.labels),
        "build": built,
        "recall": recall(ours.shortlist(checked, K), exact),
    }
    print(f"{found['entries']:>9,} entries: recall@100 {found['recall']:.4f}, "
          f"built in {built['cpu_s']:.0f} s of CPU time", flush=True)  # fmt: skip
    if arguments.rule:
        return found
    sides: dict[str, Callable[[np.ndarray], Any]] = {"ours": lambda q: ours.shortlist(q, K)}
    nearest = exact_entries(entries, checked)
    found["distinct_in_100"] = float(np.median([len(set(entries.labels[r])) for r in nearest]))
    if arguments.hnsw:
        released = Hnsw(entries, RELEASED, arguments.keep)
        found["released"] = {
            "build": released.built,
            "recall": recall(released.shortlist(checked, 300), exact),
            "recall_of_entries": entry_recall(released.nearest(checked, K, 300)[0], nearest),
        }
        found["build_ratio"] = built["cpu_s"] / released.built["cpu_s"]
        sides["released"] = lambda q: released.shortlist(q, 300)
        graphs = {"equal": released}
        if arguments.lean:
            graphs["equal_lean"] = Hnsw(entries, LEAN, arguments.keep)
        for name, graph in graphs.items():
            at = lambda ef, graph=graph: recall(graph.shortlist(checked, ef), exact)  # noqa: E731
            ef = enough(at, found["recall"])
            found[name] = {"ef": ef, "recall": at(ef), "build": graph.built} | graph.setting
            sides[name] = lambda q, ef=ef, graph=graph: graph.shortlist(q, ef)
    for batch in BATCHES:
        times = measuring.in_turn(
            {
                name: lambda call=call, batch=batch: call(queries[:batch])
                for name, call in sides.items()
            },
            count=3 if batch > 256 else 11, warm_up=1,
        )  # fmt: skip
        tell(found, f"batch_{batch}", times, batch)
    single = {
        name: lambda call=call: [call(row[None]) for row in queries[:64]]
        for name, call in sides.items()
    }
    tell(found, "single", measuring.in_turn(single, count=7, warm_up=1), 64)
    return found


def tell(found: dict[str, Any], case: str, times: dict[str, measuring.Times], queries: int) -> None:
    """Keep and print the milliseconds a query of each side, and ours over theirs by CPU time."""
    facts = {name: one.facts(queries) for name, one in times.items()}
    facts["ratios"] = {
        name: measuring.significant(facts["ours"]["cpu_ms"] / one["cpu_ms"])
        for name, one in facts.items()
        if name != "ours"
    }
    found[case] = facts
    line = ", ".join(
        f"{name} {one['cpu_ms']:.3f}" for name, one in facts.items() if name != "ratios"
    )
    print(f"    {case:>10}: CPU ms a query: {line}; ratios {facts['ratios']}", flush=True)


def main() -> None:
    """Read the flags, and print the results, the last line as one JSON object."""
    parser = argparse.ArgumentParser(description="A shortlist, beside HNSW.")
    parser.add_argument("--vectors", type=int, nargs="+", help="numbers of entries")
    parser.add_argument("--short", action="store_true", help="20,000 entries")
    parser.add_argument(
        "--rule", action="store_true", help="recall and build of ours alone, by size"
    )
    parser.add_argument("--keep", type=Path, help="a folder to keep the indices in, and find them")
    parser.add_argument("--no-hnsw", dest="hnsw", action="store_false", help="ours alone")
    parser.add_argument("--no-lean", dest="lean", action="store_false", help="no HNSW of M = 16")
    parser.add_argument("--checked", type=int, default=CHECKED, help="queries to take recall of")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    sizes = arguments.vectors or (RULE if arguments.rule else SHORT if arguments.short else DEFAULT)
    found = [compare(arguments, size) for size in sizes]
    last = found[-1]
    facts: dict[str, Any] = {"sizes": found, "least_recall": LEAST_RECALL}
    facts["recall"] = min(one["recall"] for one in found)
    facts["config"] = dataclasses.asdict(IndexConfig())
    if "released" in last:
        ratios = last["batch_256"]["ratios"]
        equal = max(ratios[name] for name in ("equal", "equal_lean") if name in last)
        shown = zip(LIMITS.items(), (ratios["released"], equal, last["build_ratio"]), strict=True)
        large = last["labels"] >= DEFAULT[0] // 6  # as `compare` draws them
        for (name, limit), ratio in shown:
            measuring.line(f"retrieval: {name}", ratio, limit if large else None)
    missed, allowed = 1 - facts["recall"], 1 - LEAST_RECALL
    measuring.line("retrieval: labels missed over those allowed", missed / allowed, 1.0, **facts)


if __name__ == "__main__":
    main()
