"""Twenty training steps of Modules I and IV, against the same steps made by PyTorch.

tests/golden/make_steps.py writes the golden files. benchmarks/agreement.py describes what is
compared, and why some entries are not. benchmarks/parity.py compares at full size.
"""

import jax
import numpy as np
import pytest
from agreement import agreement, twin_weights, weights
from ours import Ours
from places import GOLDEN
from tasks import DIFFERENT, SMALL, STEPS, WARM_UP, load_batch

from mufin_jax.training.optimizer import OptimizerConfig, schedule

GOLDEN = GOLDEN / "steps"


@pytest.fixture(scope="module", params=[1, 4], ids=["module_1", "module_4"])
def compared(request, one_device):
    """The differences of our training from torch's, and our losses."""
    module, folder = request.param, GOLDEN / f"module_{request.param}"
    optimizer = OptimizerConfig(rate=SMALL.rate, warmup=WARM_UP)
    with np.load(GOLDEN / "start" / "table.npz") as stored:
        table = stored["eta"], stored["alpha"]
    num_labels = len(table[0]) if module == 4 else 0
    theirs = twin_weights(folder)
    dim = len(theirs["self_attention.norm.bias"])

    def all_weights(ours):
        rows = dict(zip(("eta", "alpha"), ours.rows(), strict=True)) if num_labels else {}
        return weights(ours.model()) | rows

    with jax.default_matmul_precision("highest"):
        ours = Ours(GOLDEN / "start", dim, optimizer, STEPS, num_labels, table, mesh=one_device)
        start = all_weights(ours)
        batches = [ours.ready(load_batch(folder / f"batch_{n}.npz")) for n in range(DIFFERENT)]
        losses = [ours.step(batches[step % DIFFERENT]) for step in range(STEPS)]
    rate = schedule(SMALL.rate, WARM_UP, STEPS)
    far = sum(float(rate(step)) for step in range(STEPS))
    both = losses, np.load(folder / "losses.npy")
    return agreement(both, all_weights(ours), theirs, start, far), losses


def test_the_loss_of_every_step_equals_torchs(compared):
    assert compared[0].loss <= 1e-4


def test_every_weight_moves_as_in_torch(compared):
    found, _ = compared
    assert found.moved <= 1e-3, found.worst


def test_biases_of_keys_move_no_further_than_the_rates_allow(compared):
    assert compared[0].key_biases <= 1 + 1e-3


def test_the_loss_of_the_replayed_steps_falls(compared):
    _, losses = compared
    assert np.mean(losses[-DIFFERENT:]) < 0.9 * np.mean(losses[:DIFFERENT])
