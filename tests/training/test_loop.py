"""The training loop, with a toy step instead of a model."""

import logging
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import SEGMENT, STEPS, Toy, killed_at, metrics, same

from mufin_jax.runtime.errors import InputError, NonFinite, Stopped
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.signals import unsaved
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training import loop, saving
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.loop import fit


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """The state that an uninterrupted run reaches, and its metrics."""
    folder = tmp_path_factory.mktemp("through")
    return Toy(folder).run(), metrics(folder)


@pytest.mark.parametrize("dies_at", [2, 12, 17])
def test_a_killed_and_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path, through, dies_at):
    with pytest.raises(KeyboardInterrupt):
        Toy(tmp_path, put=killed_at(dies_at)).run()
    toy = Toy(tmp_path)
    state = toy.run()
    same(state, through[0])
    assert metrics(tmp_path) == through[1]
    resumed = max(dies_at - dies_at % 5, dies_at - dies_at % SEGMENT)  # the last checkpoint
    assert sorted(toy.made) == list(range(resumed, STEPS))
    assert toy.refreshes == list(range(resumed - resumed % SEGMENT, STEPS, SEGMENT))


def test_a_resumed_run_never_needs_a_refresh_before_the_last_one(tmp_path, through):
    """Module I deletes older refreshes, so a checkpoint must precede every new one."""
    with pytest.raises(KeyboardInterrupt):
        Toy(tmp_path, put=killed_at(20)).run(checkpoint_every=1000, checkpoint_seconds=1e6)
    for at in (0, 6, 12):
        (tmp_path / f"refresh-{at}.npy").unlink()
    toy = Toy(tmp_path)
    same(toy.run(checkpoint_every=1000), through[0])
    assert toy.refreshes == [18]


def test_a_stop_ends_the_run_after_the_step_and_loses_nothing(tmp_path, through, monkeypatch):
    asked = iter([False] * 7 + [True] * 9)
    monkeypatch.setattr(loop, "stop_requested", lambda: next(asked))
    with pytest.raises(Stopped, match="after step 8 of 23, which is saved; run the same command"):
        Toy(tmp_path).run()
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8
    monkeypatch.undo()
    toy = Toy(tmp_path)
    same(toy.run(), through[0])
    assert min(toy.made) == 8 and toy.refreshes[0] == 6
    assert metrics(tmp_path) == through[1]


def test_callbacks_get_what_is_logged_and_one_that_raises_ends_the_run(tmp_path, through):
    seen, told = [], ValueError("enough")

    def stops(stage, step, values):
        seen.append((stage, step, values["loss"]))
        if step == 12:
            raise told

    with pytest.raises(ValueError, match="enough"):
        Toy(tmp_path).run(callbacks=[stops])
    assert [(stage, step) for stage, step, _ in seen] == [("toy", 4), ("toy", 8), ("toy", 12)]
    assert [loss for *_, loss in seen] == [line["loss"] for line in through[1][:3]]
    toy = Toy(tmp_path)
    same(toy.run(), through[0])
    assert metrics(tmp_path) == through[1] and min(toy.made) == 10


def test_a_run_has_something_to_save_from_a_step_to_its_checkpoint(tmp_path, monkeypatch):
    """This tells `signals` whether a process may be ended in a native call."""
    after_step, at_refresh, toy = [], [], Toy(tmp_path)

    def no_stop() -> bool:
        after_step.append(unsaved.is_set())
        return False

    monkeypatch.setattr(loop, "stop_requested", no_stop)
    refresh = toy.refresh
    toy.refresh = lambda at, state: at_refresh.append(unsaved.is_set()) or refresh(at, state)
    toy.run()
    assert len(after_step) == STEPS and all(after_step)
    assert len(at_refresh) > 1 and not any(at_refresh)
    assert not unsaved.is_set()


def test_a_finished_run_is_not_repeated(tmp_path, through):
    Toy(tmp_path).run()
    toy = Toy(tmp_path)
    same(toy.run(), through[0])
    assert toy.made == [] and toy.refreshes == []


def test_refreshes_come_before_the_first_step_of_their_segment(tmp_path):
    toy, order = Toy(tmp_path), []
    toy.put = lambda batch: order.append("step") or batch
    refresh = toy.refresh
    toy.refresh = lambda at, state: order.append(at) or refresh(at, state)
    toy.run(steps=8)
    assert order == [0, *["step"] * 6, 6, *["step"] * 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_a_step_made_nan_or_infinite_are_not_saved(tmp_path, value):
    def make(step):
        return np.full(4, value if step == 12 else 0.1, np.float32)

    with pytest.raises(NonFinite, match="the last good checkpoint is kept"):
        Toy(tmp_path, make=make).run(refresh=False)
    found = Checkpoints(tmp_path / "checkpoints").restore()
    assert found is not None and found[0] == 10 and np.isfinite(found[1]["w"]).all()


def test_weights_that_are_not_finite_are_not_saved_even_after_a_finite_loss(tmp_path):
    @jax.jit
    def step(state, batch):
        """Compute the loss before the update; the tenth update overflows."""
        weights = jnp.where(state["n"] == 9, jnp.inf, state["w"])
        return {"w": weights, "n": state["n"] + 1}, {
            "loss": state["w"].sum(),
            "negative_cosine": 0.0,
        }

    with pytest.raises(NonFinite, match="the last good checkpoint is kept"):
        Toy(tmp_path, step, make=float).run(refresh=False)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 5


def test_metrics_are_written_at_intervals_and_at_the_end(tmp_path, through):
    lines = through[1]
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20, 23]
    assert all({"loss", "negative_cosine"} <= set(line) for line in lines)


def resting(loss, cosine):
    return lambda state, batch: (
        state,
        {"loss": jnp.float32(loss), "negative_cosine": jnp.float32(cosine)},
    )


@pytest.mark.parametrize(
    "loss, cosine, warnings",
    [
        (1.2, 0.99, 1),
        (1.15, 0.97, 1),  # within 5%
        (1.0, 0.99, 0),  # another loss
        (1.2, 0.5, 0),  # the same loss by chance, without a collapse
    ],
)
def test_staying_at_the_collapsed_solution_gives_one_warning(
    tmp_path, caplog, loss, cosine, warnings
):
    with caplog.at_level(logging.WARNING):
        Toy(tmp_path, resting(loss, cosine), make=float).run(
            refresh=False, plateau=1.2, steps=700, log_every=50, checkpoint_every=10**6
        )
    assert sum("training has collapsed" in line for line in caplog.messages) == warnings


def test_a_short_stay_at_the_collapsed_solution_gives_no_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        Toy(tmp_path, resting(1.2, 0.99), make=float).run(
            refresh=False, plateau=1.2, steps=150, log_every=10, checkpoint_every=10**6
        )
    assert not caplog.messages


def test_a_loop_that_waits_for_its_input_reports_it(tmp_path, caplog):
    def slowly(step):
        time.sleep(0.2)
        return np.zeros(4, np.float32)

    with caplog.at_level(logging.INFO):
        Toy(tmp_path / "slow", make=slowly).run(refresh=False, steps=24, checkpoint_every=100)
    assert re.search(r"step 24 of 24, .* ([1-9]\d|100)% of the time waiting for input", caplog.text)


def test_seconds_bound_the_time_between_checkpoints(tmp_path):
    saved = []

    class Recorder(Checkpoints):
        def save(self, step, state, facts):
            saved.append(step)
            super().save(step, state, facts)

    fit(
        {"w": jnp.ones(4)},
        resting(1.0, 0.0),
        float,
        float,
        name="toy",
        steps=4,
        config=FitConfig(checkpoint_every=1000, checkpoint_seconds=1e-9),
        checkpoints=Recorder(tmp_path / "checkpoints"),
        writer=MetricsWriter(tmp_path),
    )
    assert saved == [1, 2, 3, 4]


# Four steps a second. The intervals are 1, 2, 4, 8 seconds, then 10; if saving takes half a second,
# at least 5.
@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(0.0, [5, 14, 31, 64, 105, 146, 187, 200]), (0.5, [5, 26, 67, 108, 149, 190, 200])],
)
def test_the_first_checkpoint_comes_soon_and_the_intervals_grow(
    seconds, steps, tmp_path, monkeypatch
):
    clock, saved = [0.0], []

    class Recorder(Checkpoints):
        def save(self, step, state, facts):
            saved.append(step)
            clock[0] += seconds

    def step(state, batch):
        clock[0] += 0.25
        return state, {
            "loss": jnp.zeros(()),
            "gradient": jnp.zeros(()),
            "negative_cosine": jnp.zeros(()),
        }

    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])
    loop.fit(
        {"weight": jnp.zeros(1)}, step, float, float, name="toy", steps=200,
        config=FitConfig(checkpoint_every=1000, checkpoint_seconds=10.0),
        checkpoints=Recorder(tmp_path / "checkpoints"), writer=MetricsWriter(tmp_path),
    )  # fmt: skip
    assert saved == steps


@pytest.mark.parametrize(
    "wrong",
    [{"log_every": 0}, {"checkpoint_every": 0}, {"checkpoint_seconds": 0.0}, {"threads": -1}],
)
def test_invalid_intervals_are_rejected(wrong):
    with pytest.raises(InputError, match=f"fit.{next(iter(wrong))}="):
        FitConfig(**wrong)
