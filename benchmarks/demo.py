"""Where does the time of the demo go, from nothing to the table?

    python benchmarks/demo.py                 # the whole demo, in a folder of its own
    python benchmarks/demo.py --short         # fewer points, one epoch of each module
    python benchmarks/demo.py -- --seed=1     # flags after -- go to the experiment

Runs `python -m experiments.amazon --stage=all` in a fresh process that times itself: imports; the
stages, from run.json; and within each stage tracing and lowering, compiling, and steps (time in
calls of the training step that did neither), with the number of programs. The last line is one
JSON object; `ratio` is seconds over `limit_seconds`, six minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import line, significant

LIMIT = 360.0
SHORT = ("--num-labels=400", "--num-points=1000", "--num-test-points=60",
         "--pretrain.epochs=1", "--finetune.epochs=1")  # fmt: skip

CLOCKED = """
import collections, contextlib, json, sys, time
begin = time.perf_counter()
from experiments import amazon
from mufin_jax.runtime import run_folder
from mufin_jax.training import loop
from mufin_jax.pipeline.cli import main
import jax
imports, stage = time.perf_counter() - begin, [None]
found = collections.defaultdict(collections.Counter)
KINDS = {"jaxpr_trace_duration": "tracing", "jaxpr_to_mlir_module_duration": "lowering",
         "backend_compile_duration": "compiling"}

def clock(event, seconds, **_):
    if kind := KINDS.get(event.rsplit("/", 1)[-1]):
        # A function's own trace reports apart from those of the functions inside it: tracing is an
        # upper bound, lowering and compiling are not nested.
        found[stage[0]][kind] += seconds
        if kind == "compiling":
            found[stage[0]]["programs"] += 1

jax.monitoring.register_event_duration_secs_listener(clock)
timed, prefetch = run_folder.Run.timed, loop.prefetch

@contextlib.contextmanager
def in_stage(self, name):
    stage[0] = name
    with timed(self, name):
        yield
    stage[0] = None

def batches(*arguments):
    made = prefetch(*arguments)
    while True:
        start = time.perf_counter()
        batch = next(made, None)
        found[stage[0]]["waiting_for_batches"] += time.perf_counter() - start
        if batch is None:
            return
        before = found[stage[0]]["lowering"] + found[stage[0]]["compiling"]
        start = time.perf_counter()
        yield batch
        spent = found[stage[0]]["lowering"] + found[stage[0]]["compiling"] - before
        if not spent:
            found[stage[0]]["steps_without_compiling"] += time.perf_counter() - start
            found[stage[0]]["steps"] += 1

run_folder.Run.timed, loop.prefetch = in_stage, batches
code = main(amazon.PRESETS, sys.argv[1:])
print(json.dumps({"imports": imports, "parts": found}))
sys.exit(code)
"""


def demo(workdir: Path, flags: list[str]) -> dict[str, Any]:
    """Run the demo, and return seconds in all, by stage, and by part of each stage."""
    command = [sys.executable, "-c", CLOCKED, f"--workdir={workdir}", *flags]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    *said, last = done.stdout.splitlines()
    print("\n".join(said), file=sys.stderr)
    clocked = json.loads(last)
    stages = json.loads((workdir / "run.json").read_text())["seconds"]
    parts = {
        stage: {kind: significant(value) for kind, value in clocked["parts"].get(stage, {}).items()}
        for stage in stages
    }
    found = {"seconds": significant(seconds), "imports": significant(clocked["imports"])}
    return found | {"stages": stages, "parts": parts}


def profile(found: dict[str, Any]) -> str:
    """Return the profile as a table for people, in seconds."""
    columns = ("all", "tracing", "lowering", "compiling", "programs", "steps_without_compiling",
               "steps", "waiting_for_batches")  # fmt: skip
    heads = ("seconds", "tracing", "lowering", "compiling", "programs", "in steps", "steps",
             "waiting")  # fmt: skip
    rows = [("imports", {"all": found["imports"]})]
    rows += [(name, {"all": s} | found["parts"][name]) for name, s in found["stages"].items()]
    rest = found["seconds"] - found["imports"] - sum(found["stages"].values())
    rows.append(("the rest", {"all": rest}))
    rows.append(("all", {"all": found["seconds"]}))
    lines = [f"{'':12}" + "".join(f"{head:>11}" for head in heads)]
    for name, values in rows:
        cells = [
            ("" if kind not in values else f"{values[kind]:.0f}" if kind in ("programs", "steps")
             else f"{values[kind]:.1f}")
            for kind in columns
        ]  # fmt: skip
        lines.append(f"{name:12}" + "".join(f"{cell:>11}" for cell in cells).rstrip())
    return "\n".join(lines)


def main() -> None:
    """Read the flags, run, and print the profile and one line of JSON."""
    parser = argparse.ArgumentParser(description="Where the demo's time goes.")
    parser.add_argument("--short", action="store_true", help="fewer points, one epoch each")
    parser.add_argument("--workdir", type=Path, help="where to run, else a temporary folder")
    parser.add_argument("flags", nargs="*", help="for the experiment, after --")
    arguments = parser.parse_args()
    flags = [*(SHORT if arguments.short else ()), *arguments.flags]
    with tempfile.TemporaryDirectory() as folder:
        found = demo(arguments.workdir or Path(folder) / "run", flags)
    print(profile(found))
    line(
        f"demo{', short' if arguments.short else ''}", found["seconds"] / LIMIT, 1.0,
        limit_seconds=LIMIT, ours_ms=1e3 * found["seconds"], theirs_ms=1e3 * LIMIT,
        flags=flags, **found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
