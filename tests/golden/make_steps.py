"""Make the golden steps of Modules I and IV: tiny encoders, trained by the twin in torch.

Needs the extra `bench`; run it from the root of the repository:
    python tests/golden/make_steps.py
`steps/start/` holds the encoders that both modules begin with. `steps/module_1/` and
`steps/module_4/` hold torch's results after 20 steps: encoders, the other weights, the losses, and
the two batches that alternate. This is the task of benchmarks/parity.py --small.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))

from parity import train_theirs  # noqa: E402
from tasks import SMALL, save_batch  # noqa: E402
from torch_twin import sizes  # noqa: E402


def table() -> tuple[np.ndarray, np.ndarray]:
    """Return initial eta and alpha, with the scale of Module III."""
    shape = SMALL.num_labels, sizes.SMALL.dim
    eta = np.random.default_rng(0).uniform(-0.36, 0.36, shape).astype(np.float32)
    return eta, np.full(len(eta), 0.5, np.float32)


def main() -> None:
    """Write all folders again."""
    torch.set_num_threads(1)
    shutil.rmtree(HERE / "steps", ignore_errors=True)
    start = HERE / "steps" / "start"
    sizes.write_checkpoints(start, sizes.SMALL)
    np.savez_compressed(start / "table.npz", eta=table()[0], alpha=table()[1])
    for module in (1, 4):
        out = HERE / "steps" / f"module_{module}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(start, folder, dirs_exist_ok=True)
            rows = table() if module == 4 else None
            losses = train_theirs(module, SMALL, Path(folder), out, rows)
        np.save(out / "losses.npy", np.array(losses))
        for turn, batch in enumerate(SMALL.draw(module)):
            save_batch(batch, out / f"batch_{turn}.npz")


if __name__ == "__main__":
    main()
