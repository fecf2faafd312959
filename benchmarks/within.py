"""What do labels that are excluded, allowed, removed or added cost a query, and what does it find?

    python benchmarks/within.py                   # 300,000 labels of 192 dimensions, minutes
    python benchmarks/within.py --short           # 20,000

The index holds one vector a label (catalogue.py), as the part z of a score does. A query asks for
the 100 nearest labels; it is measured exactly and with ScaNN, in batches of 256:

    exclude     1,000 labels: half of them any, half of them near to a query
    within      1%, and 10%, of the labels
    removed     20% of the labels: tombstones
    added       10,000 labels after the index was built, in a segment of their own

    fields      1% of the labels by a condition on a field, next to the same labels by their ids:
                which labels these are is found anew for each call of `predict`

Recall is the share of the exact best 10 labels (for added labels, of the best 100) that are found.
For added labels the other side is an index of all labels, built again. Also measured: the CPU time
of adding them without encoding, with bags of six descriptors, and of writing a version. `ratio` is
the time of `within` 1% with ScaNN over the plain query's.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import measuring
import numpy as np
from catalogue import Catalogue, normal, unit
from flax import nnx

from mufin_jax.data.kept_fields import KeptFields
from mufin_jax.data.strings import Strings
from mufin_jax.model.attention import AttentionBlock
from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.prediction.added import Added, Base
from mufin_jax.prediction.catalogue import Catalogue as Labels
from mufin_jax.prediction.catalogue import Names
from mufin_jax.prediction.joined import Joined
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.prediction.parts import Known, Nearest, Query
from mufin_jax.prediction.segment import Changes, Segment
from mufin_jax.prediction.versions import Versions
from mufin_jax.prediction.within import allowed_labels
from mufin_jax.retrieval.barred import Barred, Within, allowed_points
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.shortlist import Shortlist, recall
from mufin_jax.runtime.distributed.mesh import make_mesh

K, BATCH, DIM, BAG, ADDED = 100, 256, 192, 6, 10_000
LIMIT = 3.0
"""The longest that a query within 1% of the labels may take, in plain queries."""


def index_of(vectors: np.ndarray, how: Literal["exact", "scann"]) -> LabelIndex:
    """Return an index of one vector a label."""
    entries = LabelEntries(vectors, np.arange(len(vectors) + 1))
    return LabelIndex.build_grouped(entries, IndexConfig(backend=how))


def cases_of(x: np.ndarray, exact: LabelIndex) -> dict[str, Barred | None]:
    """Return what is barred in each case."""
    rng, labels = np.random.default_rng(3), len(exact.entries.vectors)
    near = np.unique(exact.shortlist(x[:50], 10).labels)[:500]
    some = np.union1d(near, rng.choice(labels, 1000 - len(near), replace=False)).astype(np.int32)

    def share(part: float) -> np.ndarray:
        return np.sort(rng.choice(labels, int(part * labels), replace=False)).astype(np.int32)

    own, none = np.full((len(x), 1), -1, np.int32), np.zeros(0, np.int32)
    return {
        "plain": None,
        "exclude 1,000": Barred(own, some),
        "within 1%": Barred(own, none, Within(share(0.01))),
        "within 10%": Barred(own, none, Within(share(0.1))),
        "removed 20%": Barred(own, share(0.2)),
    }


def top(lists: Shortlist, k: int) -> Shortlist:
    """Return the first k labels of lists."""
    return Shortlist(lists.labels[:, :k], lists.similarities[:, :k])


def measure_barred(x: np.ndarray, exact: LabelIndex, scann: LabelIndex) -> dict[str, Any]:
    """Return milliseconds of a query and recall@10 of each case."""
    cases, found = cases_of(x, exact), {}
    for name, barred in cases.items():
        lists = [allowed_points(index, x, K, barred) for index in (exact, scann)]
        assert (lists[1].labels >= 0).all(), name
        found[name] = {"recall_10": recall(top(lists[1], 10), top(lists[0], 10))}
    for how, index in (("exact", exact), ("scann", scann)):
        sides = {
            name: (lambda index=index, barred=barred: allowed_points(index, x, K, barred))
            for name, barred in cases.items()
        }
        for name, times in measuring.in_turn(sides, count=5, warm_up=1).items():
            found[name][how] = times.facts(len(x))
    return found


def measure_fields(labels: int) -> dict[str, Any]:
    """Return milliseconds of finding 1% of the labels, by their ids and by fields."""
    rng, ids = np.random.default_rng(4), Strings.pack(map(str, range(labels)))
    codes, prices = rng.integers(100, size=labels), rng.uniform(0, 100, labels)
    rows = [((f"kind {code}",), price) for code, price in zip(codes, prices.tolist(), strict=True)]
    kept = KeptFields.build(["category", "price"], rows)
    labels_now = Labels(Names(ids, ids, kept), Changes.none(DIM))
    chosen = [str(label) for label in np.flatnonzero(codes == 7)]
    cases = {
        "ids": chosen,
        "category": {"category": "kind 7"},
        "category and price": {"category": ["kind 7", "kind 8"], "price": (None, 50.0)},
    }
    same = [allowed_labels(labels_now, cases[name]) for name in ("ids", "category")]
    assert np.array_equal(*same) and len(same[0])
    sides = {
        name: (lambda within=within: allowed_labels(labels_now, within))
        for name, within in cases.items()
    }
    timed = measuring.in_turn(sides, count=5, warm_up=1)
    return {name: times.facts(1) for name, times in timed.items()}


def measure_added(
    x: np.ndarray, vectors: np.ndarray, bags: np.ndarray, base: LabelIndex, added: int
) -> dict[str, Any]:
    """Return what adding labels costs, and the recall@100 next to that of a new index."""
    heads = Heads(
        AttentionBlock(DIM, 1, rngs=nnx.Rngs(0)), AttentionBlock(DIM, 1, rngs=nnx.Rngs(1)),
        dim=DIM, mesh=make_mesh(),
    )  # fmt: skip
    names, offsets = Strings.pack(map(str, range(added))), np.arange(0, BAG * added + 1, BAG)
    starts = np.zeros(added + 1, np.int64)
    segment = Segment(names, names, bags, offsets, vectors[-added:], starts[:0], starts)
    block, mesh, one = heads.cross_attention, heads.mesh, np.array([0, 1])
    cache = LabelCache.build(vectors[:1], one, vectors[:1], block, mesh)
    wall, cpu = time.perf_counter(), time.process_time()
    ready = Added.build(segment, Base(heads, base, cache, 0.7, None, 0))
    facts = {"add_cpu_s": time.process_time() - cpu, "add_s": time.perf_counter() - wall}
    cpu = time.process_time()
    unit_bags = LabelEntries(bags / np.linalg.norm(bags, axis=1, keepdims=True), offsets)
    LabelIndex.build_grouped(unit_bags, base.config)
    facts["bags_cpu_s"] = time.process_time() - cpu
    with tempfile.TemporaryDirectory() as folder:
        versions, wall = Versions(Path(folder) / "catalogue", "made up"), time.perf_counter()
        with versions.hold():
            versions.save(Changes(segment, np.zeros(0, np.int32)).save, 0)
        facts["version_s"] = time.perf_counter() - wall
    labels = len(base.entries.vectors)
    points = Embedding(jnp.asarray(x[:, None]), jnp.ones((len(x), 1), bool), jnp.asarray(x))
    query = Query(points, x, Known([""] * len(x), np.full(len(x), -1)))
    joined = Joined(Nearest(base), Nearest(ready.index), labels, added).ask(query).shortlist(K)
    whole = index_of(vectors, "exact").shortlist(x, K)
    wall = time.process_time()
    again = index_of(vectors, "scann")
    facts["new_index_cpu_s"] = time.process_time() - wall
    facts |= {"recall_100": recall(joined, whole), "new_index_recall_100": recall(
        again.shortlist(x, K), whole)}  # fmt: skip
    return {name: measuring.significant(value) for name, value in facts.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--labels", type=int, default=300_000)
    parser.add_argument("--short", action="store_true", help="20,000 labels")
    options = parser.parse_args()
    labels = 20_000 if options.short else options.labels
    added = min(ADDED, labels // 10)
    made = Catalogue.draw(labels + added, dim=DIM)
    # Points near all labels, old and new.
    x, vectors = made.points(BATCH), np.ascontiguousarray(made.labels)
    rng = np.random.default_rng(5)
    near = np.repeat(vectors[-added:], BAG, axis=0)
    bags = unit(near + normal(rng, *near.shape)) * np.float32(DIM**0.5)
    exact, scann = index_of(vectors[:labels], "exact"), index_of(vectors[:labels], "scann")
    found = measure_barred(x, exact, scann)
    facts = measure_added(x, vectors, bags, scann, added)
    facts |= {"found_by": measure_fields(labels)}
    ratio = found["within 1%"]["scann"]["ms"] / found["plain"]["scann"]["ms"]
    measuring.line("within", ratio, LIMIT, labels=labels, dim=DIM, k=K, cases=found, added=facts)


if __name__ == "__main__":
    main()
