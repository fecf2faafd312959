"""Do our steps and PyTorch's compute the same?

    python benchmarks/parity.py             # ViT-B/32 and DistilBERT-base, minutes
    python benchmarks/parity.py --small     # tiny encoders, seconds

mufin_jax and the twin in torch run 20 steps of Module I, and 20 of Module IV with its label table,
from the same checkpoint, on the same batches, in float32. The loss of each step is compared and, at
the end, every weight: encoders, attention blocks, eta and alpha. Two batches alternate. The
learning rate makes the loss fall; otherwise nothing would have been compared.

The exit code is 1 if they disagree. agreement.py explains what is compared, and why a comparison
entry by entry would be wrong. --float64 measures the effect of float32 alone: the twin is also
trained in float64, and both sides are compared with that. With tiny encoders ours is then as near
to float64 as torch in float32 is (movements 1.7e-5 and 1.1e-5, losses 8e-6 and 2e-6, relative), and
ours and theirs are as near to each other. The tolerances leave room for the size of the real
encoders.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # as torch here: the claim is of float32

import numpy as np
import torch
from agreement import Agreement, agreement, twin_weights, weights
from measuring import cores, line, significant
from ours import Ours
from tasks import DIFFERENT, FULL, SMALL, STEPS, WARM_UP, Task
from torch_twin import sizes
from torch_twin.tensors import tensors
from torch_twin.training import Trainer, Training, save

from mufin_jax.training.optimizer import OptimizerConfig

LOSS, MOVED = 1e-4, 1e-2
"""Tolerances: of losses, relative; of movements, relative, an array's norm."""
FALLS = 0.9
"""The last losses must be under this share of the first."""


def train_theirs(
    module: int, task: Task, folder: Path, out: Path, table: Any = None, double: bool = False
) -> list[float]:
    """Train the twin, write it to `out`, and return its losses.

    Args:
        module: 1 or 4.
        task: batches and rates.
        folder: the checkpoints at the start of training.
        out: where the weights go.
        table: initial eta and alpha, for Module IV.
        double: train in float64.
    """
    training = Training(task.rate, task.rate, WARM_UP, STEPS)
    trainer = Trainer(folder, _size(task).dim, training, table)
    if double:
        trainer.double()
    num_labels = task.num_labels if module == 4 else 0
    ready = [tensors(batch, num_labels) for batch in task.draw(module)]
    losses = [trainer.step(ready[step % DIFFERENT]) for step in range(STEPS)]
    save(trainer, out)
    return losses


def compare(module: int, task: Task, folder: Path, double: bool) -> tuple[dict[str, Any], bool]:
    """Train both sides for a module; return the figures, and whether they agree."""
    num_labels = task.num_labels if module == 4 else 0
    optimizer = OptimizerConfig(rate=task.rate, warmup=WARM_UP)
    ours = Ours(folder, _size(task).dim, optimizer, STEPS, num_labels)
    table = ours.rows() if num_labels else None
    start = weights(ours.model()) | _rows(ours)
    theirs = train_theirs(module, task, folder, folder / "theirs", table)
    twin = twin_weights(folder / "theirs")
    ready = [ours.ready(batch) for batch in task.draw(module)]
    losses = [ours.step(ready[step % DIFFERENT]) for step in range(STEPS)]
    far = sum(Training(1.0, 1.0, WARM_UP, STEPS).factor(step) for step in range(STEPS)) * task.rate
    end = weights(ours.model()) | _rows(ours)
    found = agreement((losses, theirs), end, twin, start, far)
    falls = np.mean(losses[-DIFFERENT:]) / np.mean(losses[:DIFFERENT])
    agrees = bool(found.within(LOSS, MOVED) and falls < FALLS)
    facts = {"losses": [significant(loss, 6) for loss in losses], **_facts(found)}
    facts["falls_to"] = significant(float(falls))
    if double:
        exact = train_theirs(module, task, folder, folder / "exact", table, double=True)
        truth = twin_weights(folder / "exact")
        for name, side, end_of in (("ours", losses, end), ("theirs", theirs, twin)):
            near = agreement((side, exact), end_of, truth, start, far)
            facts[f"{name} against float64"] = _facts(near)
    return facts, agrees


def _size(task: Task) -> sizes.Size:
    return sizes.SMALL if task is SMALL else sizes.FULL


def _rows(ours: Ours) -> dict[str, np.ndarray]:
    return dict(zip(("eta", "alpha"), ours.rows(), strict=True)) if ours.num_labels else {}


def _facts(found: Agreement) -> dict[str, Any]:
    return {
        name: significant(value, 3) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(found).items()
    }


def main() -> None:
    """Compare both modules, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny encoders")
    parser.add_argument("--short", action="store_true", help="the same as --small")
    parser.add_argument("--float64", action="store_true", help="measure the tolerances")
    arguments = parser.parse_args()
    arguments.small |= arguments.short
    torch.set_num_threads(1 if arguments.small else cores())
    task, found, agree = SMALL if arguments.small else FULL, {}, True
    for module in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            sizes.write_checkpoints(Path(folder), _size(task))
            name = f"module_{module}"
            found[name], agrees = compare(module, task, Path(folder), arguments.float64)
            agree &= agrees
        print(f"{name}: {found[name]}", flush=True)
    line(
        "parity: what arrays moved by, apart over the tolerance",
        max(facts["moved"] for facts in found.values()) / MOVED,
        1.0,
        agree=agree,
        small=arguments.small,
        tolerances={"loss": LOSS, "moved": MOVED, "falls_to": FALLS},
        **found,
    )
    sys.exit(not agree)


if __name__ == "__main__":
    main()
