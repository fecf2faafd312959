"""A stage that trains a toy with the training loop, for tests of the loop."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.loop import fit

STEPS, SEGMENT = 23, 6


@jax.jit
def toy_step(state, batch):
    """Mix the batch into the state; another order of steps would change its bits."""
    new = {"w": 0.9 * state["w"] + jnp.sin(batch * state["w"]), "n": state["n"] + 1}
    return new, {"loss": jnp.abs(new["w"]).sum(), "negative_cosine": new["w"][0]}


class Toy:
    """A toy stage: its batches depend on the state of the last refresh, as in Module I."""

    def __init__(self, folder, step=toy_step, make=None, put=lambda batch: batch):
        self.folder, self.step, self.put = folder, step, put
        self.make = make or self.batch
        self.offset, self.refreshes, self.made = None, [], []

    def batch(self, step):
        self.made.append(step)
        noise = np.random.default_rng([3, step]).normal(size=4).astype(np.float32)
        return noise + np.float32(self.offset)

    def refresh(self, at, state):
        """Compute once and keep in a file, because a restarted run no longer has this state."""
        path = self.folder / f"refresh-{at}.npy"
        if not path.exists():
            np.save(path, np.asarray(state["w"]).sum())
        self.offset = np.load(path)
        self.refreshes.append(at)

    def run(
        self, refresh=True, plateau=None, steps=STEPS, validate=None, callbacks=(), **intervals
    ):
        intervals = {"log_every": 4, "checkpoint_every": 5, "threads": 2} | intervals
        self.folder.mkdir(exist_ok=True)
        return fit(
            {"w": jnp.array([0.1, -0.2, 0.3, 0.4]), "n": jnp.array(0)},
            self.step,
            self.make,
            self.put,
            name="toy",
            steps=steps,
            config=FitConfig(**intervals),
            checkpoints=Checkpoints(self.folder / "checkpoints"),
            writer=MetricsWriter(self.folder),
            ids=lambda step: {"points": [f"p{step}", f"q{step}"]},
            refresh=self.refresh if refresh else None,
            refresh_every=SEGMENT if refresh else None,
            plateau=plateau,
            validate=validate,
            callbacks=callbacks,
        )


def same(first, second):
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_array_equal(a, b)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def killed_at(number):
    """Return a `put` that ends the run at a batch."""
    count = iter(range(100))

    def put(batch):
        if next(count) == number:
            raise KeyboardInterrupt
        return batch

    return put
