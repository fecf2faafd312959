"""Ads to queries at scale: what do Modules II to IV and prediction cost with millions of labels?

    python benchmarks/a2q.py --labels=1_000_000 --points=200_000 --steps=2_000

Runs `experiments.a2q` on generated data, one process a stage. Points and vectors are mapped from
the disk. Reports the seconds and the peak memory of each stage, the milliseconds of a step of
Module IV, the time to build and to query the index, and the recall of the shortlists: the share of
the 100 exactly nearest labels of 1,000 sampled test points ("ratio" in the last line, which is
JSON).

Peak memory is the kernel's high-water mark of the process. It counts pages of mapped files that may
be dropped at any time. `anonymous_gb`, sampled, counts what cannot be dropped.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TIMED_STAGES = ("prepare", "pretrain", "retrieve", "initialize", "finetune", "evaluate")
BATCH = 200
"""Datapoints a step of Module IV, the paper's."""
SAMPLED = 1000
"""Test points whose shortlists are compared with exact search."""
K = 100
"""Labels of a shortlist."""


def main() -> None:
    """Run all stages, then measure the index, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("labels", 1_000_000), ("points", 200_000), ("steps", 2_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--test-points", type=int, help="a tenth of the points by default")
    parser.add_argument("--workdir", type=Path, help="kept; a temporary folder by default")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.workdir)))
    elif given.workdir:
        report(given, given.workdir)
    else:
        with tempfile.TemporaryDirectory(prefix="a2q-") as folder:
            report(given, Path(folder) / "run")


def report(given: argparse.Namespace, workdir: Path) -> None:
    """Run the stages in `workdir` and print their figures; the last line is one JSON object."""
    test_points = given.test_points or max(SAMPLED, given.points // 10)
    batch = min(BATCH, given.points)
    flags = {
        "workdir": workdir.resolve(),
        "num-labels": given.labels,
        "num-points": given.points,
        "num-test-points": test_points,
        "finetune.batch-size": batch,
        "finetune.epochs": max(1, round(given.steps * batch / given.points)),
    }
    stages = {}
    for stage in TIMED_STAGES:
        command = ["-m", "experiments.a2q", f"--stage={stage}"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        stages[stage], said = timed(command)
        print(f"{stage:12}", *(f"{name} {value:,}" for name, value in stages[stage].items()))
        if stage == "finetune":
            training = rate(said)
    measured, said = timed([__file__, "--measure", f"--workdir={flags['workdir']}"])
    found = json.loads(said.splitlines()[-1])
    metrics = json.loads((workdir / "metrics.json").read_text())
    result: dict[str, Any] = {
        "name": "a2q",
        "device": found.pop("device"),
        "ratio": found["recall@100"],
        "ratio_is": f"recall@100 of the shortlists against exact search, {SAMPLED} test points",
        "labels": given.labels,
        "points": given.points,
        "test_points": test_points,
        "peak_gb": max(stage["peak_gb"] for stage in stages.values()),
        "stages": stages | {"measure": measured},
        **training,
        **found,
        "ms_per_point": metrics["ms_per_point"],
        "ms_per_point_single": metrics["ms_per_point_single"],
        "P@1": metrics["P@1"],
        "P@1 of Module I": metrics["rows"]["Module I alone (P-I-bag)"]["P@1"],
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    print(json.dumps(result))


def timed(arguments: list[str]) -> tuple[dict[str, float], str]:
    """Run Python with these arguments; return seconds, peak memory, and its output."""
    start, anonymous = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            anonymous = max(anonymous, anonymous_kb(process.pid))
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        said.seek(0)
        text = said.read()
    if process.returncode:
        sys.exit(f"{text}\n{' '.join(arguments)} ended with {process.returncode}")
    # Linux counts in kB, macOS in bytes.
    peak = usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
    figures = {"seconds": seconds, "peak_gb": peak, "anonymous_gb": anonymous * 1024 / 1e9}
    return {name: round(value, 2) for name, value in figures.items()}, text


def anonymous_kb(pid: int) -> int:
    """Return the memory of a process that belongs to no file, in kB; 0 if it is unknown."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s*(\d+) kB", status)
    return int(found[1]) if found else 0


def rate(said: str) -> dict[str, float]:
    """Return the steps of Module IV and the milliseconds of one, from its last log line."""
    lines = re.findall(r"finetune: step (\d+) of (\d+), .*?, ([\d.]+) steps/s", said)
    if not lines:
        return {}
    return {"steps": int(lines[-1][1]), "ms_per_step": round(1e3 / float(lines[-1][2]), 2)}


def measure(workdir: Path) -> dict[str, Any]:
    """Build and query the index of Module II again; compare the run's shortlists to exact ones."""
    import jax

    from mufin_jax.data.dataset import Dataset
    from mufin_jax.model.embed_side import describe, embed
    from mufin_jax.model.saved import load_model, new_loader
    from mufin_jax.retrieval.config import IndexConfig
    from mufin_jax.retrieval.exact import LabelEntries
    from mufin_jax.retrieval.index import LabelIndex
    from mufin_jax.retrieval.shortlist import Shortlist, recall
    from mufin_jax.runtime.distributed.mesh import by_row, fetch, make_mesh, put

    mesh, dataset = make_mesh(), Dataset.load(workdir / "prepare")
    model = load_model(workdir / "pretrain" / "model", mesh)
    rng = np.random.default_rng(0)
    count = min(SAMPLED, len(dataset.test)) // mesh.size * mesh.size
    rows = np.sort(rng.permutation(len(dataset.test))[:count])
    loader = new_loader(model.config, dataset, mesh)
    pool, (bags,) = loader.batch([(dataset.test, rows)])
    vectors = describe(model, put(pool, by_row(mesh)))
    queries = fetch(embed(model, vectors, put(bags, by_row(mesh)))).vector

    folder = workdir / "retrieve" / "index"
    offsets = np.load(folder / "offsets.npy")
    entries = LabelEntries(np.load(folder / "entries.npy", mmap_mode="r"), offsets)
    start = time.perf_counter()
    config = IndexConfig(**json.loads((folder / "index.json").read_text())["config"])
    index = LabelIndex.build_grouped(entries, config, mesh)
    built = time.perf_counter() - start
    index.shortlist(queries, K)  # what is compiled, is compiled here
    start = time.perf_counter()
    index.shortlist(queries, K)
    together = (time.perf_counter() - start) / count
    alone = []
    for query in queries[:50]:
        start = time.perf_counter()
        index.shortlist(query[None], K)
        alone.append(time.perf_counter() - start)
    lists = Shortlist.load(workdir / "retrieve" / "test")
    found = Shortlist(lists.labels[rows][:, :K], lists.similarities[rows][:, :K])
    kind, cores = jax.devices()[0].device_kind, len(os.sched_getaffinity(0))
    return {
        "device": f"{len(jax.devices())} x {kind}, {cores} cores",
        "recall@100": round(recall(found, exact(entries, queries)), 4),
        "entries": len(entries.vectors),
        "index_build_seconds": round(built, 2),
        "index_ms_per_query": round(1e3 * together, 3),
        "index_ms_per_query_single": round(1e3 * float(np.median(alone)), 3),
    }


def exact(entries: Any, queries: np.ndarray, block: int = 20_000) -> Any:
    """Return the K nearest labels by exact search over all entries, some labels at a time."""
    from mufin_jax.retrieval.exact import LabelEntries
    from mufin_jax.retrieval.shortlist import Shortlist

    best = np.full((len(queries), K), -1, np.int32), np.full((len(queries), K), -np.inf, np.float32)
    for first in range(0, len(entries.offsets) - 1, block):
        offsets = entries.offsets[first : first + block + 1]
        part = LabelEntries(
            np.array(entries.vectors[offsets[0] : offsets[-1]]), offsets - offsets[0]
        )
        labels, similarities = part.exact_search(queries, K)
        labels = np.concatenate([best[0], np.where(labels < 0, -1, labels + first)], 1)
        similarities = np.concatenate([best[1], similarities], 1)
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :K]
        best = tuple(np.take_along_axis(one, order, 1) for one in (labels, similarities))
    return Shortlist(best[0].astype(np.int32), best[1])


if __name__ == "__main__":
    main()
