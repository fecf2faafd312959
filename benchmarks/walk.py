"""The co-purchase walk at scale: what do its build and its queries cost, and what do they hold?

    python benchmarks/walk.py --labels=1_000_000

As many training points as labels, all of them labels themselves, each with five labels, few of them
popular. Reports the seconds and the peak memory of the build, and the time of a query in blocks and
on its own; `ratio` is the milliseconds of a query on its own over 10.
"""

import argparse
import resource
import time

import numpy as np
from measuring import Times, line, significant
from scipy.sparse import csr_matrix

from mufin_jax.retrieval.walk import Walk, one_hot

LIMIT_MS, SINGLE, EACH = 10, 200, 5


def peak_gb() -> float:
    """Return the most memory that this process has held (Linux counts in kilobytes)."""
    return significant(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main() -> None:
    """Build a walk over generated pairs, ask it, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    given = parser.parse_args()
    labels, rng = given.labels, np.random.default_rng(0)
    named = (labels * rng.random(EACH * labels) ** 3).astype(np.int64)
    starts = np.arange(0, EACH * labels + 1, EACH)
    pairs = csr_matrix((np.ones(len(named), bool), named, starts), (labels, labels))
    pairs.sum_duplicates()
    before, start = peak_gb(), time.perf_counter()
    walk = Walk.build(pairs, np.arange(labels))
    built, after_build = time.perf_counter() - start, peak_gb()
    queries = one_hot(rng.integers(0, labels, given.queries), labels)
    start = time.perf_counter()
    reached = sum(scores.nnz for _, scores in walk.blocks(queries))
    blocks = time.perf_counter() - start
    alone = Times()
    for row in range(SINGLE):
        query = csr_matrix(queries[row : row + 1])
        alone.take(lambda query=query: walk.scores(query))
    line(
        f"walk: {labels} labels",
        significant(alone.ms / LIMIT_MS),
        None,
        pairs=pairs.nnz,
        build_seconds=significant(built),
        peak_gb={"pairs": before, "build": after_build, "queries": peak_gb()},
        ms_of_a_query_in_blocks=significant(1e3 * blocks / given.queries),
        query_alone=alone.facts(),
        labels_reached=significant(reached / given.queries),
    )


if __name__ == "__main__":
    main()
