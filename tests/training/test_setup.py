"""Claims about the state of training: older checkpoints resume, programs stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mufin_jax.model import label_table
from mufin_jax.runtime.distributed.mesh import put, replicated
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.loop import fit
from mufin_jax.training.optimizer import OptimizerConfig, by_part
from mufin_jax.training.setup import TrainState

WEIGHTS = {"text_encoder": {"blocks": {0: {"kernel": np.ones((2, 3), np.float32)}}}}


def old_state(mesh, with_table: bool, value: float) -> dict:
    """What versions before `TrainState` gave to their checkpoints."""
    train = put(jax.tree.map(lambda leaf: value * leaf, WEIGHTS), replicated(mesh))
    opt = put(by_part(OptimizerConfig(), 10).init(train), replicated(mesh))
    state = {"train": train, "opt": opt}
    if with_table:
        state["table"] = label_table.initialize(jax.random.key(int(value)), 5, 3, mesh)
    return state


@pytest.mark.parametrize("with_table", [True, False])
def test_a_checkpoint_of_an_older_version_resumes(one_device, tmp_path, with_table):
    old = old_state(one_device, with_table, 2.0)
    checkpoints, steps = Checkpoints(tmp_path / "checkpoints"), []
    checkpoints.save(3, old, {})

    def step(state, batch):
        steps.append(batch)
        return state, {"loss": jnp.zeros(()), "negative_cosine": jnp.zeros(())}

    found = fit(
        TrainState(**old_state(one_device, with_table, 1.0)), step, float, float, name="toy",
        steps=5, config=FitConfig(), checkpoints=checkpoints, writer=MetricsWriter(tmp_path),
    )  # fmt: skip
    assert steps == [3.0, 4.0]
    jax.tree.map(np.testing.assert_array_equal, found, TrainState(**old))


@pytest.mark.parametrize("with_table", [True, False])
def test_arrays_keep_the_names_and_the_order_that_they_had_in_a_dict(
    one_device, tmp_path, with_table
):
    old = old_state(one_device, with_table, 1.0)
    new = TrainState(**old)
    for kind, state in (("old", old), ("new", new)):
        Checkpoints(tmp_path / kind).save(0, state, {})
    before, after = (Checkpoints(tmp_path / kind).described() for kind in ("old", "new"))
    assert list(after.items()) == list(before.items())
    for one, other in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        assert one is other
