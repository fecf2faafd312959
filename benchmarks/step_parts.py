"""Where does a step of Module I go on an accelerator: copies, trunk, head, texts?

    python benchmarks/step_parts.py                  # 1,024 labels, bfloat16
    python benchmarks/step_parts.py --small          # tiny encoders, to try it out
    python benchmarks/step_parts.py --trace=DIR      # also a profile of two steps, for TensorBoard

Batches and step are those of module_1_step.py, ours alone: a step on a batch that is already on the
device, one with a copy first, and four in a row as in `fit`; then its parts, forward only, and the
device's own speed: a product of two 8,192 x 8,192 matrices and a copy of its memory. `ratio` is
0.4, the MFU that we aim for, over the MFU of the step on a resident batch.
"""

import argparse
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
from batches import Look, module_1

LEAST_MFU = 0.4


def main() -> None:
    """Read the flags, and measure."""
    parser = argparse.ArgumentParser(description="A step of Module I by its parts.")
    parser.add_argument("--labels", type=int, help="labels a step; 1,024 by default")
    parser.add_argument("--small", action="store_true", help="tiny encoders")
    parser.add_argument("--count", type=int, default=7, help="timed calls")
    parser.add_argument("--trace", type=Path, help="a folder for a profile of two steps")
    flags = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with tempfile.TemporaryDirectory() as folder:
        measure(flags, Path(folder))


def measure(flags: argparse.Namespace, folder: Path) -> None:
    """Time everything, one after the other, and print it, the last line as one JSON object."""
    import flops
    import jax
    from ours import Ours
    from step_race import SMALL
    from torch_twin import sizes

    from mufin_jax.training.optimizer import OptimizerConfig

    size = sizes.SMALL if flags.small else sizes.FULL
    sizes.write_checkpoints(folder, size)
    labels = flags.labels or (8 if flags.small else 1024)
    drawn = module_1(0, labels, SMALL if flags.small else Look())
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    ours = Ours(folder, size.dim, OptimizerConfig(), 10_000, dtype=dtype)
    facts: dict[str, Any] = {"batch": drawn.facts(), "dtype": dtype, **_speeds(flags)}
    for kind, cached in (("", False), ("cached_", True)):
        batch = ours.ready(drawn, cached)
        facts[f"{kind}step_ms"] = _ms(flags.count, ours.step, batch)
        facts[f"{kind}step_of_four_ms"] = _ms(flags.count, ours.step, *[batch] * 4) / 4
        placed = ours.place(batch)
        resident = facts[f"{kind}resident_step_ms"] = _ms(flags.count, _step, ours, placed)
        needed = flops.step(ours.model(), drawn, cached) / 1e12
        facts[f"{kind}tflops_a_second"] = 1e3 * needed / resident
        if not cached:
            reached = facts["tflops_a_second"]
            facts |= _parts(ours.model(), placed.pool, flags.count)
            profile = jax.profiler.trace(flags.trace) if flags.trace else contextlib.nullcontext()
            with profile:
                for _ in range(2):
                    jax.block_until_ready(_step(ours, placed))
    facts = {
        name: measuring.significant(value) if isinstance(value, float) else value
        for name, value in facts.items()
    }
    peak = flops.peak_tflops(jax.devices()[0].device_kind)
    mfu = reached / peak if peak else None
    ratio = LEAST_MFU / mfu if mfu else 0.0
    measuring.line("step_parts", ratio, 1.0 if mfu else None, mfu=mfu, small=flags.small, **facts)


def _step(ours: Any, placed: Any) -> Any:
    """Return a step on a batch that is on the device."""
    ours.state, metrics = ours._step(ours.state, ours.frozen, placed)
    return metrics


def _parts(model: Any, pool: Any, count: int) -> dict[str, float]:
    """Return the forward passes of a step's encoders, each compiled separately."""
    import jax

    trunk = jax.jit(lambda m, images: m.image_encoder.trunk(m.processing.normalise(images)))
    head = jax.jit(lambda m, tokens: m.image_encoder.head(tokens))
    read = jax.jit(lambda m, pool: m.read(pool))
    tokens, texts = trunk(model, pool.images.rows), dataclasses.replace(pool, images=None)
    return {
        "trunk_ms": _ms(count, trunk, model, pool.images.rows),
        "head_ms": _ms(count, head, model, tokens),
        "texts_ms": _ms(count, read, model, texts),
    }


def _speeds(flags: argparse.Namespace) -> dict[str, float]:
    """Measure the speed of the device in a product of matrices and in a copy."""
    import jax
    import jax.numpy as jnp

    side, length = (256, 1 << 20) if flags.small else (8192, 1 << 30)
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product, copy = jax.jit(lambda a, b: a @ b), jax.jit(lambda x: -x)
    x = jnp.ones(length, jnp.int32)
    return {
        "product_tflops": 2e-9 * side**3 / _ms(flags.count, product, a, a.T),
        "copy_gb_a_second": 8e-6 * length / _ms(flags.count, copy, x),
    }


def _ms(count: int, call: Callable[..., Any], *arguments: Any) -> float:
    """Return the median milliseconds of a call, until everything that it returns is done."""
    import jax

    done = {"": lambda: jax.block_until_ready(call(*arguments))}
    return measuring.in_turn(done, count)[""].ms


if __name__ == "__main__":
    main()
