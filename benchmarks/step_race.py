"""What module_1_step.py and module_4_step.py share: flags, the sides, the race, and its lines.

The file is imported before JAX and torch start, because a flag selects the device.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from batches import Drawn, Look, module_1, module_4
from measuring import cores, in_turn, line, ratio, significant

from mufin_jax.runtime.distributed.padding import next_multiple

Module = Literal["module_1", "module_4"]
SMALL = Look(pixels=16, vocab=31, most_tokens=12, mean_tokens=7)
"""What the twin's tiny encoders take."""
LIMIT, CACHED_LIMIT, LEAST_MFU = 0.9, 0.25, 0.4
LABELS = 300_000
"""L of Module IV; MM-AmazonTitles-300K has 303,296."""
SIDES = ("ours", "cached", "eager", "compile")
TOGETHER = {"gpu": 4}
"""Steps in one timed call, by device: enough for a batch to be copied while another is computed."""
RATE = 5e-5


def main(module: Module, doc: str, size: tuple[str, int, int]) -> None:
    """Read the flags, start both frameworks on the device, and race them.

    Args:
        module: which step.
        doc: of the script.
        size: the unit of a batch, its default number, and its number in the paper.
    """
    name, few, many = size
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument(f"--{name}", dest="size", type=int, help=f"{name} a step; {few} by default")
    parser.add_argument("--preset", choices=("paper",), help=f"paper: {many:,} {name}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--device", choices=("cpu", "gpu", "auto"), default="auto")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="who races; cached is ours, too")
    parser.add_argument("--small", action="store_true", help="tiny encoders, to try it out")
    parser.add_argument("--short", action="store_true", help="half the size, fewer rounds")
    parser.add_argument("--count", type=int, help="timed rounds")
    parser.add_argument("--batches", type=int, help="different batches, in turn")
    parser.add_argument("--peak-tflops", type=float, help="of a device that flops.py doesn't know")
    flags = parser.parse_args()
    flags.device = _device(flags.device)
    gpu = flags.device == "gpu"
    if flags.size is None:
        flags.size = many if flags.preset or (gpu and not flags.small) else few
        flags.size = max(2, flags.size // 2) if flags.short else flags.size
    flags.dtype = flags.dtype or ("bfloat16" if gpu else "float32")
    flags.sides = flags.sides or SIDES[: 4 if gpu and not flags.short else 3]
    flags.count = flags.count or (4 if flags.short else 8)
    flags.batches = flags.batches or (1 if flags.short else 2)
    # Both frameworks share the device: JAX must take neither three quarters of it at once, nor all
    # that its largest step ever needed and more.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    if not gpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        race(module, flags, Path(folder))


def race(module: Module, flags: argparse.Namespace, folder: Path) -> None:
    """Time all sides alternately on the same batches, and print the results."""
    import torch
    from torch_twin import sizes

    torch.set_num_threads(1 if flags.small else cores())  # tiny operations only wait for threads
    torch.set_float32_matmul_precision("high" if flags.device == "gpu" else "highest")
    size = sizes.SMALL if flags.small else sizes.FULL
    sizes.write_checkpoints(folder, size)
    drawn = draw(module, flags)
    print(f"batches: {[batch.facts() for batch in drawn]}", flush=True)
    sides, needed, model = contenders(module, flags, folder, size.dim, drawn)
    warm_up = max(3 if "compile" in flags.sides else 2, len(drawn))
    # As many rounds with one batch as with another, or a median would be of the larger ones.
    count = next_multiple(flags.count, len(drawn))
    times = in_turn(sides, count, warm_up)
    facts, together = {}, TOGETHER.get(flags.device, 1)
    for name, taken in times.items():
        facts[name] = taken.facts(together) | {"needed_tflop": significant(needed[name] / 1e12)}
        reached = needed[name] * together / taken.ms / 1e9
        facts[name]["tflops_a_second"] = significant(reached)
        if peak := _peak(flags):
            facts[name]["mfu"] = significant(reached / peak)
        print(f"{name}: {facts[name]}", flush=True)
    for name, limit in (("ours", LIMIT), ("ours, cached trunk tokens", CACHED_LIMIT)):
        for other in ("eager", "torch.compile"):
            if {name, other} <= sides.keys():
                _line(module, flags, name, other, limit, times, facts, drawn, model)


def draw(module: Module, flags: argparse.Namespace) -> list[Drawn]:
    """Return the batches of all sides."""
    look = SMALL if flags.small else Look()
    if module == "module_1":
        return [module_1(seed, flags.size, look) for seed in range(flags.batches)]
    return [module_4(seed, flags.size, LABELS, look) for seed in range(flags.batches)]


def contenders(
    module: Module, flags: argparse.Namespace, folder: Path, dim: int, drawn: list[Drawn]
) -> tuple[dict[str, Callable[[], Any]], dict[str, float], dict[str, Any]]:
    """Return calls that make a step, by side; operations a step needs; sizes of the model.

    On a GPU a call makes `TOGETHER` steps, each on the next of the batches. Our two sides train one
    state: each continues from the other's last step.
    """
    import flops
    from ours import Ours
    from torch_twin.tensors import tensors
    from torch_twin.training import Trainer, Training

    from mufin_jax.training.optimizer import OptimizerConfig

    num_labels = LABELS if module == "module_4" else 0
    optimizer = OptimizerConfig(rate=RATE)
    ours = Ours(folder, dim, optimizer, 10_000, num_labels, dtype=flags.dtype)
    table = ours.rows() if num_labels else None
    sides: dict[str, Callable[[], Any]] = {}

    def turns(step: Callable[..., Any], ready: list[Any]) -> Callable[[], Any]:
        batches, together = itertools.cycle(ready), TOGETHER.get(flags.device, 1)
        return lambda: step(*itertools.islice(batches, together))

    model = ours.model()
    needed: dict[str, float] = {}
    for name, is_cached in (("ours", False), ("ours, cached trunk tokens", True)):
        if ("cached" if is_cached else "ours") in flags.sides:
            sides[name] = turns(ours.step, [ours.ready(batch, is_cached) for batch in drawn])
            needed[name] = sum(flops.step(model, batch, is_cached) for batch in drawn) / len(drawn)
    device = "cuda" if flags.device == "gpu" else "cpu"
    training = Training(rate=RATE, table_rate=RATE)
    for name, compiled in (("eager", False), ("torch.compile", True)):
        if ("compile" if compiled else name) not in flags.sides:
            continue
        twin = Trainer(folder, dim, training, table, device, flags.dtype, compiled)
        ready = [tensors(batch, num_labels, fixed=compiled) for batch in drawn]
        sides[name] = turns(twin.step, [b.pinned() if device == "cuda" else b for b in ready])
        needed[name] = sum(flops.step(model, batch) for batch in drawn) / len(drawn)
    return sides, needed, {"dim": dim, "num_labels": num_labels}


def _line(
    module: Module,
    flags: argparse.Namespace,
    name: str,
    other: str,
    limit: float,
    times: dict[str, Any],
    facts: dict[str, Any],
    drawn: list[Drawn],
    model: dict[str, Any],
) -> None:
    """Print the line of one of our sides against one of theirs."""
    more = {}
    if name == "ours" and "mfu" in facts[name]:
        more = {"mfu": facts[name]["mfu"], "least_mfu": LEAST_MFU}
        more["mfu_within"] = facts[name]["mfu"] >= LEAST_MFU
    line(
        f"{module}_step: {name} against {other}",
        ratio(times[name], times[other]),
        limit,
        **more,
        ran_on=flags.device,
        dtype=flags.dtype,
        small=flags.small,
        **model,
        batches=[batch.facts() for batch in drawn],
        sides={side: facts[side] for side in (name, other)},
    )


def _device(wanted: str) -> str:
    """Return "gpu" or "cpu"; a GPU counts only if both frameworks see it."""
    if wanted == "cpu":
        return "cpu"
    # In a process of its own: JAX reads its environment once.
    code = "import jax, torch; print(torch.cuda.is_available(), jax.default_backend())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    there = asked.stdout.split() == ["True", "gpu"]
    if wanted == "gpu" and not there:
        sys.exit(
            f"--device=gpu: torch sees CUDA and JAX's backend: {asked.stdout.strip() or 'none'}; "
            "expected True and gpu. Install torch and jax for CUDA, or say --device=cpu"
        )
    return "gpu" if there else "cpu"


def _peak(flags: argparse.Namespace) -> float | None:
    """Return the peak of the device in TFLOP/s, None if unknown."""
    import flops
    import jax

    return flags.peak_tflops or flops.peak_tflops(jax.devices()[0].device_kind)
