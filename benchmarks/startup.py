"""How long does a fresh process take to be of use: import, --help, a wrong flag, a first answer?

    python benchmarks/startup.py                      # makes a run of its own: one minute more
    python benchmarks/startup.py --workdir=runs/demo  # a finished run
    python benchmarks/startup.py --full-size          # ViT-B/32 and DistilBERT, random weights

Every figure is the median of fresh processes, started one after the other, from the start of the
interpreter to its end (for a first answer, to the answer). A first answer loads a finished run and
ranks labels for one item with a title and a picture. Warm means with the compiled programs that
earlier processes left in the run's folder; cold means with an empty folder for them. The script
prints one JSON line a case; `ratio` is seconds over `limit_seconds`.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import line, significant

IMPORT, HELP, ANSWER = 0.5, 3.0, 5.0
"""Seconds: the most that importing the package, --help and a first answer may take."""

PROBE = """
import json, sys, time
begin = time.perf_counter()
import mufin_jax as mufin
mufin.Predictor, mufin.Dataset
marks = [time.perf_counter()]
import jax
found = dict.fromkeys(("hits", "misses"), 0)
def count(event, **_):
    for name in found:
        found[name] += event == f"/jax/compilation_cache/cache_{name}"
jax.monitoring.register_event_listener(count)
predictor = mufin.Predictor.load(sys.argv[1])
marks.append(time.perf_counter())
item = {"title": "wall shelf, oak", "images": [sys.argv[2]]}
for _ in range(2):
    assert predictor.predict([item], k=5)[0]
    marks.append(time.perf_counter())
names = ("imports", "load", "first_answer", "second_answer")
parts = {name: b - a for name, a, b in zip(names, [begin, *marks], marks)}
print(json.dumps({"seconds": time.time() - float(sys.argv[3]) - parts["second_answer"]}
                 | parts | {"cache_" + name: value for name, value in found.items()}))
"""


def fresh(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Run Python in a new process, which must end with `code`; return wall and CPU seconds."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, os.times()
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stderr}"
    cpu = after.children_user + after.children_system - before.children_user
    return {"seconds": seconds, "cpu_seconds": cpu - before.children_system, "said": done.stdout}


def answer(workdir: Path, picture: Path, cache: Path | None = None) -> dict[str, Any]:
    """Query a finished run once in a new process; `cache` replaces the run's own cache."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    if cache is not None:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    found = fresh("-c", PROBE, str(workdir), str(picture), str(time.time()))
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    parts = json.loads(found.pop("said").splitlines()[-1])
    return {"cpu_seconds": found["cpu_seconds"]} | parts


def say(name: str, runs: list[dict[str, Any]], limit: float | None, **facts: Any) -> None:
    """Print the line of a case: medians over its processes."""
    kept = {key for key in runs[0] if key != "said"}
    middle = {key: significant(statistics.median(run[key] for run in runs)) for key in sorted(kept)}
    ratio = middle["seconds"] / (limit or middle["seconds"])
    line(
        f"startup: {name}", ratio, None if limit is None else 1.0, limit_seconds=limit,
        ours_ms=significant(1e3 * middle["seconds"]),
        theirs_ms=None if limit is None else 1e3 * limit,
        processes=len(runs), **middle, **facts,
    )  # fmt: skip


def make_run(workdir: Path, full_size: bool) -> None:
    """Finish a run in `workdir`: a small miniature, hardly trained."""
    from experiments.amazon import MINIATURE
    from mufin_jax.data.preparation.prepare import PrepareConfig
    from mufin_jax.data.synthetic.catalogue import MiniatureConfig
    from mufin_jax.model.config import ModelConfig
    from mufin_jax.pipeline.run import run

    short = dataclasses.replace(
        MINIATURE,
        workdir=workdir,
        miniature=MiniatureConfig(labels=400, points=512, test_points=60),
        pretrain=dataclasses.replace(MINIATURE.pretrain, epochs=1),
        finetune=dataclasses.replace(MINIATURE.finetune, epochs=1),
    )
    if full_size:  # no epoch of Module I, one step of Module IV on a frozen model
        rates = dataclasses.replace(
            MINIATURE.finetune.optimizer, image_encoder="frozen", text_encoder="frozen"
        )
        short = dataclasses.replace(
            short,
            miniature=MiniatureConfig(labels=120, points=64, test_points=8),
            prepare=PrepareConfig(),
            model=ModelConfig(),
            pretrain=dataclasses.replace(short.pretrain, epochs=0, optimizer=rates),
            finetune=dataclasses.replace(short.finetune, optimizer=rates),
        )
    run(short)


def imports(count: int) -> None:
    """Time the cases that need no run."""
    cases = {
        "import mufin_jax": (("-c", "import mufin_jax"), 0, IMPORT),
        "--help": (("-m", "experiments.amazon", "--help"), 0, HELP),
        "a wrong flag": (("-m", "experiments.amazon", "--seeed=3"), 2, HELP),
    }
    bare = [fresh("-c", "pass")["seconds"] for _ in range(count)]
    for name, (arguments, code, limit) in cases.items():
        fresh(*arguments, code=code)  # the first one fills the system's cache of files
        runs = [fresh(*arguments, code=code) for _ in range(count)]
        say(name, runs, limit, python_alone=significant(statistics.median(bare)))


def answers(workdir: Path, count: int, size: str) -> None:
    """Time first answers, alternating cold and warm."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "shelf.jpg"
        Image.new("RGB", (500, 400), "red").save(picture)
        answer(workdir, picture)  # fills the caches, the system's, too
        warm, cold = [], []
        for turn in range(count):
            warm.append(answer(workdir, picture))
            cold.append(answer(workdir, picture, Path(folder) / f"compiled-{turn}"))
    say(f"first answer, {size}, warm", warm, ANSWER)
    say(f"first answer, {size}, cold", cold, None)


def main() -> None:
    """Read the flags, and print one line of JSON a case."""
    parser = argparse.ArgumentParser(description="Seconds that fresh processes take.")
    parser.add_argument("--workdir", type=Path, help="a finished run, else one is made")
    parser.add_argument("--full-size", action="store_true", help="encoders of the paper's size")
    parser.add_argument("--count", type=int, default=7, help="processes a case")
    parser.add_argument("--short", action="store_true", help="five processes a case")
    arguments = parser.parse_args()
    count = 5 if arguments.short else arguments.count
    imports(count)
    size = "full size" if arguments.full_size else "miniature"
    with tempfile.TemporaryDirectory() as folder:
        workdir = arguments.workdir or Path(folder) / "run"
        if not (workdir / "metrics.json").exists():
            make_run(workdir, arguments.full_size)
        answers(workdir, count, "given run" if arguments.workdir else size)


if __name__ == "__main__":
    main()
