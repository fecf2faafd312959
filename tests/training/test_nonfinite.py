"""Steps whose loss or gradients are not finite: they change nothing and are reported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import STEPS, Toy, killed_at, same, toy_step

from mufin_jax.runtime.errors import NonFinite, Stopped
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training import loop
from mufin_jax.training.nonfinite import MOST_SKIPPED, gradient_norm, kept_unless_finite


@jax.jit
def careful_step(state, batch):
    """A toy step that, like those of the stages, changes nothing if it is not finite."""
    new, metrics = toy_step(state, batch)
    metrics["gradient"] = gradient_norm(batch)
    return kept_unless_finite(metrics, new, state), metrics


# Twenty of sixty, five of them in a row twice; 1e30 has a finite loss, and an infinite gradient.
BROKEN = [0, 3, 7, 8, 9, 10, 11, 13, 20, 26, 27, 31, 40, 41, 42, 43, 44, 46, 50, 59]
POISON = [np.nan, np.inf, -np.inf, 1e30]


def noise(step):
    return np.random.default_rng([4, step]).normal(size=4).astype(np.float32)


def broken(step):
    batch = noise(step)
    if step in BROKEN:
        batch[step % 4] = POISON[step % 4]
    return batch


def skipped(folder):
    lines = (folder / "skipped.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_steps_that_are_not_finite_change_nothing(tmp_path, caplog):
    found = Toy(tmp_path / "broken", careful_step, broken).run(refresh=False, steps=60)
    whole = [step for step in range(60) if step not in BROKEN]
    wanted = Toy(tmp_path / "whole", careful_step, lambda step: noise(whole[step]))
    same(found, wanted.run(refresh=False, steps=40))
    saved = Checkpoints(tmp_path / "broken" / "checkpoints").restore()
    assert saved is not None and saved[0] == 60
    same(saved[1], found)
    assert skipped(tmp_path / "broken") == [step + 1 for step in BROKEN]
    line = (tmp_path / "broken" / "skipped.jsonl").read_text().splitlines()[1]
    assert json.loads(line)["points"] == ["p3", "q3"]
    assert "step 1 changed nothing, as its loss is nan; points p0, q0" in caplog.text
    assert "step 4 changed nothing, as its gradient is inf; points p3, q3" in caplog.text
    assert not (tmp_path / "whole" / "skipped.jsonl").exists()


def test_too_many_steps_that_are_not_finite_end_the_run_and_name_the_batch(tmp_path):
    make = lambda step: broken(7) if step > 11 else noise(step)  # noqa: E731
    with pytest.raises(NonFinite, match=f"{MOST_SKIPPED + 1} such steps in a row") as error:
        Toy(tmp_path, careful_step, make).run(refresh=False)
    assert error.value.exit_code == 70 and "step 18 changed nothing" in str(error.value)
    assert "p17, q17" in str(error.value)
    found = Checkpoints(tmp_path / "checkpoints").restore()
    assert found is not None and np.isfinite(found[1]["w"]).all()


def test_a_resumed_run_reports_each_skipped_step_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Toy(tmp_path, careful_step, broken, killed_at(13)).run(refresh=False)
    Toy(tmp_path, careful_step, broken).run(refresh=False)
    assert skipped(tmp_path) == [step + 1 for step in BROKEN if step < STEPS]


def test_a_stop_right_after_a_skipped_step_does_not_hide_the_step(tmp_path, monkeypatch):
    count = iter(range(1, 100))
    monkeypatch.setattr(loop, "stop_requested", lambda: next(count) == 14)
    with pytest.raises(Stopped):
        Toy(tmp_path, careful_step, broken).run(refresh=False, steps=60)
    assert skipped(tmp_path) == [step + 1 for step in BROKEN if step < 14]


def test_the_norm_of_gradients_is_over_all_of_them_and_infinite_beyond_float32():
    assert gradient_norm({"a": jnp.array([3.0]), "b": jnp.array([[4.0]]), "c": None}) == 5
    assert gradient_norm(jnp.array([1e20])) == jnp.inf and gradient_norm({}) == 0
