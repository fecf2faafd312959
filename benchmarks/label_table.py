"""Does a step of Module IV on the label table cost the same for any number of labels?

    python benchmarks/label_table.py                  # 10K to 4.5M labels, 14 GB of free memory
    python benchmarks/label_table.py --short          # 10K to 1M labels, 4 GB

A step gathers the rows of 2,800 labels, makes their classifiers, takes the gradient of the loss of
Module IV through them and updates the rows. Every size alternates with the smallest one, step by
step: both then see the same machine. Medians are of the steps after the warm-up. Ids are new in
each step, uniform or distributed like a catalogue's (1 / rank^0.8). Each pair of sizes has a
process of its own, whose largest resident size is compared with the memory plan.

For comparison: the same gradient for every label and Adam over all of them (optax), which is what a
framework does without row-sparse updates; the leaner tables; and the compiled step on eight virtual
devices, whose collectives and temporaries must not grow. The last line is one JSON object.
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mufin_jax.model import label_table
from mufin_jax.model.label_table import Rows, TableConfig
from mufin_jax.pipeline import memory_plan
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.run_folder import environment
from mufin_jax.training import losses

DIM, POINTS, POSITIVES, NEGATIVES = 192, 200, 2, 12
ROWS = POINTS * (POSITIVES + NEGATIVES)
SIZES = (10_000, 100_000, 1_000_000, 4_500_000)
WARM_UP = 15
LIMIT = 1.6
"""The largest step time at the most labels, in step times at the fewest."""
DENSE_BYTES = 6e9


@dataclasses.dataclass
class Contender:
    """A table and its step: (state, batch) -> (state, loss)."""

    state: Any
    step: Any
    draw: Any
    seconds: list[float] = dataclasses.field(default_factory=list)

    def take(self) -> None:
        """Make one step, and time it."""
        batch = jax.device_put(self.draw())
        jax.block_until_ready(batch)
        start = time.perf_counter()
        self.state, loss = self.step(self.state, batch)
        jax.block_until_ready((self.state, loss))
        self.seconds.append(time.perf_counter() - start)

    def milliseconds(self) -> tuple[float, float]:
        """Return the median and the least time of the steps after the warm-up."""
        kept = np.array(self.seconds[min(WARM_UP, len(self.seconds) // 2) :])
        return round(1e3 * float(np.median(kept)), 2), round(1e3 * float(kept.min()), 2)


def loss_of(rows: Rows, batch: dict[str, Any]) -> jax.Array:
    """Return the loss of Module IV, through w, for given datapoints."""
    w = label_table.combine(rows, batch["z"])
    similarities = jnp.einsum("bd,bcd->bc", batch["x"], w[batch["chosen"]])
    first = jnp.broadcast_to(jnp.arange(similarities.shape[1]) < POSITIVES, similarities.shape)
    return losses.cosine_margin_loss(similarities, first, ~first).mean()


def drawer(num_labels: int, zipf: bool) -> Any:
    """Return a function that draws a batch: distinct ids, in order, and vectors."""
    rng = np.random.default_rng(num_labels)
    unit = lambda v: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)  # noqa: E731
    x, z = (unit(rng.normal(size=(count, DIM))) for count in (POINTS, ROWS))
    names = rng.permutation(num_labels)  # popular labels lie anywhere in the table

    def draw() -> dict[str, np.ndarray]:
        ranks = np.zeros(0, np.int64)
        while len(ranks) < ROWS:
            if zipf:  # the inverse of the sum of 1 / rank^0.8
                more = (num_labels * rng.random(2 * ROWS) ** 5).astype(np.int64)
            else:
                more = rng.integers(num_labels, size=2 * ROWS)
            ranks = np.unique(np.concatenate([ranks, more]))
        ids = np.sort(names[rng.permutation(ranks)[:ROWS]]).astype(np.int32)
        chosen = rng.permutation(ROWS).reshape(POINTS, -1)
        return {"ids": ids, "chosen": chosen.astype(np.int32), "x": x, "z": z}

    return draw


def make_step(mesh: Any) -> Any:
    """Return Module IV's step on the table alone."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(table: Any, batch: dict[str, Any]) -> tuple[Any, jax.Array]:
        rows = label_table.gather(table.rows, batch["ids"], mesh)
        loss, gradients = jax.value_and_grad(loss_of)(rows, batch)
        return label_table.update(table, batch["ids"], gradients, jnp.float32(1e-3), mesh), loss

    return step


def sparse(num_labels: int, zipf: bool, table: TableConfig) -> Contender:
    """Return the label table as a contender."""
    mesh = make_mesh(jax.devices()[:1])
    state = label_table.initialize(jax.random.key(0), num_labels, DIM, mesh, config=table)
    return Contender(jax.block_until_ready(state), make_step(mesh), drawer(num_labels, zipf))


def dense(num_labels: int, zipf: bool) -> Contender:
    """Return the same loss with a gradient for every label and Adam over all of them."""
    optimizer: Any = optax.adam(1e-3)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: dict[str, Any]) -> tuple[Any, jax.Array]:
        def of(rows: Rows) -> jax.Array:
            return loss_of(jax.tree.map(lambda leaf: leaf[batch["ids"]], rows), batch)

        loss, gradients = jax.value_and_grad(of)(state[0])
        updates, opt = optimizer.update(gradients, state[1])
        return (optax.apply_updates(state[0], updates), opt), loss

    eta = 0.01 * jax.random.normal(jax.random.key(0), (num_labels, DIM))
    rows = Rows(eta, jnp.full((num_labels,), 0.5))
    return Contender((rows, optimizer.init(rows)), step, drawer(num_labels, zipf))


def pair(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one size against the smallest one, in this process alone."""
    table = TableConfig(*arguments.table.split(","))
    large = sparse(arguments.pair, arguments.ids == "zipf", table)
    small = sparse(SIZES[0], arguments.ids == "zipf", table)
    for _ in range(WARM_UP + arguments.steps):
        small.take()
        large.take()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planned = memory_plan.plan(memory_plan.RunSizes(arguments.pair, DIM, table, rows=ROWS))
    beside = memory_plan.plan(memory_plan.RunSizes(SIZES[0], DIM, table)).device("initialize")
    need = planned.device("finetune") + beside
    if stats := jax.devices()[0].memory_stats():
        peak = stats["peak_bytes_in_use"]
    else:  # the table is the process's own memory
        need += planned.host("finetune")
    return {
        "labels": arguments.pair,
        "table": arguments.table,
        "ms": large.milliseconds()[0],
        "least_ms": large.milliseconds()[1],
        "ms_of_smallest": small.milliseconds()[0],
        "least_ms_of_smallest": small.milliseconds()[1],
        "peak_gb": round(peak / 1e9, 3),
        "planned_gb": round(need / 1e9, 3),
    }


def dense_curve(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the dense optimizer at one size: few steps, each of which touches every label."""
    contender = dense(arguments.dense, arguments.ids == "zipf")
    for _ in range(8):
        contender.take()
    return {"labels": arguments.dense, "ms": contender.milliseconds()[0]}


def collectives(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile the step for eight devices at two sizes, and report what grows."""
    mesh, found, kind = make_mesh(), [], TableConfig(*arguments.table.split(","))
    batch = drawer(SIZES[0], False)()
    for num_labels in (SIZES[1], SIZES[-1]):
        table = label_table.abstract(num_labels, DIM, mesh, kind)
        program = make_step(mesh).lower(table, batch).compile()
        moved = 0
        for line in program.as_text().splitlines():
            pattern = r"= (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-\w+)\("
            if match := re.search(pattern, line):
                for width, shape in re.findall(r"[a-z](\d+)\[([\d,]*)\]", match[1]):
                    moved += int(width) // 8 * int(np.prod([int(n) for n in shape.split(",") if n]))
        sizes = program.memory_analysis()
        assert sizes is not None
        found.append((moved, sizes.temp_size_in_bytes))
    (moved, temporary), (moved_most, temporary_most) = found
    assert moved and moved_most == moved, f"collectives grow with the labels: {found}"
    assert temporary_most - temporary < SIZES[1], f"temporaries grow with the labels: {found}"
    return {"moved_bytes": moved_most, "temporary_bytes": temporary_most}


def child(*flags: str, devices: int = 1) -> dict[str, Any]:
    """Run a part of this file in a separate process, and return its result."""
    environ = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    if devices > 1:
        environ["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, __file__, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all parts, print their results, and return them."""
    common = [f"--steps={arguments.steps}", f"--ids={arguments.ids}"]
    sizes = arguments.labels or (SIZES[:-1] if arguments.short else SIZES)
    pairs = []
    for size in sizes:
        pairs.append(child(f"--pair={size}", *common))
        print(_line(pairs[-1]), flush=True)
    last = pairs[-1]
    leaner = []
    for kind in ("float32,adagrad", "bfloat16,adam", "bfloat16,adagrad"):
        leaner.append(child(f"--pair={sizes[-1]}", f"--table={kind}", *common))
        print(_line(leaner[-1]), flush=True)
    curve = []
    for size in sizes:
        if 4 * 4 * (DIM + 1) * size < DENSE_BYTES:  # rows, gradients and two moments
            curve.append(child(f"--dense={size}", *common))
            print(f"{size:>10,} labels, dense Adam: {curve[-1]['ms']:.1f} ms", flush=True)
    growth = child("--collectives", devices=8)
    print(f"eight devices: {growth}", flush=True)
    ratio = last["ms"] / last["ms_of_smallest"]
    share = last["peak_gb"] / last["planned_gb"]
    assert abs(share - 1) < 0.1, f"peak memory is {share:.2f} of the plan"
    return {
        "name": "label_table",
        "device": jax.devices()[0].device_kind,
        "ratio": round(ratio, 3),
        "within": ratio <= LIMIT,
        "least_ratio": round(last["least_ms"] / last["least_ms_of_smallest"], 3),
        "steps": arguments.steps,
        "ids": arguments.ids,
        "rows": ROWS,
        "dim": DIM,
        "sizes": pairs,
        "leaner": leaner,
        "dense": curve,
        "eight_devices": growth,
        "versions": environment().get("versions", {}),
    }


def _line(found: dict[str, Any]) -> str:
    return (
        f"{found['labels']:>10,} labels, {found['table']}: {found['ms']:.2f} ms "
        f"({found['least_ms']:.2f} at least) beside {found['ms_of_smallest']:.2f} "
        f"({found['least_ms_of_smallest']:.2f}) at {SIZES[0]:,}; "
        f"{found['peak_gb']:.2f} GB, planned {found['planned_gb']:.2f}"
    )


def main() -> None:
    """Read the flags, and print the results, the last line as one JSON object."""
    parser = argparse.ArgumentParser(description="A step of Module IV on the label table, by L.")
    parser.add_argument("--labels", type=int, nargs="+", help="numbers of labels, ascending")
    parser.add_argument("--steps", type=int, default=60, help="steps that are timed")
    parser.add_argument("--ids", choices=("zipf", "uniform"), default="uniform")
    parser.add_argument("--short", action="store_true", help="leave out the largest size")
    parser.add_argument("--table", default="float32,adam", help=argparse.SUPPRESS)
    parser.add_argument("--pair", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dense", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--collectives", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    part = run
    for name, function in (("pair", pair), ("dense", dense_curve), ("collectives", collectives)):
        if getattr(arguments, name):
            part = function
    print(json.dumps(part(arguments)))


if __name__ == "__main__":
    main()
