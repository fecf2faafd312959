"""Early stopping: the best state on validation points is kept and returned, killed or not."""

import json
import shutil

import numpy as np
import pytest
from toy import SEGMENT, STEPS, Toy, killed_at, metrics, same

from mufin_jax.runtime.errors import InputError, Stopped
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training import early_stopping, loop
from mufin_jax.training.early_stopping import Validate, ValidateConfig
from mufin_jax.training.saving import Saver

HILL = {0: 1.0, 4: 3.0, 8: 7.0, 12: 7.0, 16: 5.0, 20: 6.0, 23: 2.0}
"""The objective of a toy by step; that of step 12 is no gain."""


class Objective:
    """The objective of a toy: a function of its state, which it counts and may be killed at."""

    def __init__(self, values=HILL, dies_at=None):
        self.values, self.dies_at, self.asked = values, dies_at, []

    def __call__(self, state):
        step = int(state["n"])
        self.asked.append(step)
        if step == self.dies_at:
            raise KeyboardInterrupt
        return self.values[step]


def validate(patience=0, **options):
    return Validate(ValidateConfig(every=4, patience=patience), Objective(**options))


def records(folder):
    return (folder / "validation.jsonl").read_text()


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """The folder of an uninterrupted run without patience, and the state that it returns."""
    folder = tmp_path_factory.mktemp("through") / "run"
    return folder, Toy(folder).run(validate=validate())


def test_the_best_state_is_kept_and_returned(tmp_path, through):
    folder, state = through
    assert int(state["n"]) == 8
    same(state, Toy(tmp_path / "eight").run(steps=8))
    lines = map(json.loads, records(folder).splitlines())
    assert {line["step"]: line["objective"] for line in lines} == HILL
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["20", "23", "8"]
    toy = Toy(folder)
    same(toy.run(validate=validate()), state)  # a finished run is not repeated
    assert toy.made == []


def spoil(checkpoint):
    """Damage one file of a checkpoint."""
    file = max(
        (path for path in checkpoint.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [spoil, shutil.rmtree])
def test_where_the_best_checkpoint_is_damaged_the_next_best_one_is_used_with_a_warning(
    tmp_path, through, caplog, harm
):
    """Step 20 is the best of those that are left; 12 and 16 were better, but are not kept."""
    folder = tmp_path / "run"
    shutil.copytree(through[0], folder)
    harm(folder / "checkpoints" / "8")
    state = Toy(folder).run(validate=validate())
    same(state, Toy(tmp_path / "twenty").run(steps=20))
    (line,) = [said for said in caplog.messages if "it was the best" in said]
    assert line.startswith(f"{folder}/checkpoints/8: ") and "it was the best, with 7.00" in line
    assert f"delete {folder} and the folders of later stages" in line


def test_where_all_other_checkpoints_are_damaged_the_last_state_is_used(tmp_path, through):
    folder = tmp_path / "run"
    shutil.copytree(through[0], folder)
    for step in ("8", "20"):
        spoil(folder / "checkpoints" / step)
    assert int(Toy(folder).run(validate=validate())["n"]) == STEPS


def test_validation_changes_no_step(tmp_path, through):
    Toy(tmp_path).run()
    assert metrics(tmp_path) == metrics(through[0])
    last = [Checkpoints(at / "checkpoints").restore() for at in (tmp_path, through[0])]
    assert last[0] is not None and last[1] is not None and last[0][0] == last[1][0] == STEPS
    same(last[0][1], last[1][1])


def test_a_training_ends_when_its_patience_is_used_up(tmp_path, through):
    toy = Toy(tmp_path)
    same(toy.run(validate=validate(patience=2)), through[1])
    assert metrics(tmp_path)[-1]["step"] == 16
    steps = [json.loads(line)["step"] for line in records(tmp_path).splitlines()]
    assert steps == [0, 4, 8, 12, 16]
    again = Toy(tmp_path)
    same(again.run(validate=validate(patience=2)), through[1])
    assert again.made == []


@pytest.mark.rotates("validation", every=3)
@pytest.mark.parametrize(("dies_at", "patience"), [(0, 0), (8, 0), (12, 0), (16, 2)])
def test_a_run_that_is_killed_in_a_validation_resumes_to_the_bit(
    tmp_path, through, dies_at, patience
):
    (whole, state), cut = through, tmp_path / "cut"
    if patience:
        whole = tmp_path / "whole"
        state = Toy(whole).run(validate=validate(patience))
    with pytest.raises(KeyboardInterrupt):
        Toy(cut).run(validate=validate(patience, dies_at=dies_at))
    toy = Toy(cut)
    same(toy.run(validate=validate(patience)), state)
    assert min(toy.made, default=dies_at) == dies_at  # its checkpoint was saved before
    assert records(cut) == records(whole) and metrics(cut) == metrics(whole)


@pytest.mark.rotates("validation", every=3)
@pytest.mark.parametrize("dies_at", [6, 9])
def test_a_run_that_is_killed_between_validations_resumes_to_the_bit(tmp_path, through, dies_at):
    with pytest.raises(KeyboardInterrupt):
        Toy(tmp_path, put=killed_at(dies_at)).run(validate=validate())
    same(Toy(tmp_path).run(validate=validate()), through[1])
    assert records(tmp_path) == records(through[0]) and metrics(tmp_path) == metrics(through[0])


def test_what_later_steps_found_is_forgotten_with_them(tmp_path, through):
    """The newest checkpoints are damaged: the run resumes at the best step, before their finds."""
    Toy(tmp_path).run(validate=validate())
    for step in (20, 23):
        (tmp_path / "checkpoints" / str(step) / "manifest.json").unlink()
    check = validate()
    same(Toy(tmp_path).run(validate=check), through[1])
    assert check.objective.asked == [12, 16, 20, 23]
    assert records(tmp_path) == records(through[0])


def test_a_stop_at_a_validated_step_loses_nothing(tmp_path, through, monkeypatch):
    asked = iter([False] * 7 + [True])
    monkeypatch.setattr(loop, "stop_requested", lambda: next(asked))
    with pytest.raises(Stopped, match="after step 8 of 23"):
        Toy(tmp_path).run(validate=validate())
    monkeypatch.undo()
    same(Toy(tmp_path).run(validate=validate()), through[1])
    assert records(tmp_path) == records(through[0])


def test_a_training_that_only_loses_returns_its_initial_state(tmp_path):
    worse = {step: -float(step) for step in HILL}
    state = Toy(tmp_path).run(validate=validate(values=worse))
    assert int(state["n"]) == 0
    np.testing.assert_array_equal(state["w"], np.float32([0.1, -0.2, 0.3, 0.4]))


def test_a_step_is_saved_before_it_is_validated_and_refreshes_save_it_no_second_time(
    tmp_path, monkeypatch
):
    order = []
    now = Saver.now

    def noted(self, step, state):
        if step != self._saved:
            order.append(step)
        now(self, step, state)

    monkeypatch.setattr(Saver, "now", noted)
    check = Validate(
        ValidateConfig(every=SEGMENT), lambda state: order.append(f"v{int(state['n'])}") or 0.0
    )
    Toy(tmp_path).run(validate=check, steps=2 * SEGMENT, checkpoint_every=1000)
    assert order == [0, "v0", SEGMENT, f"v{SEGMENT}", 2 * SEGMENT, f"v{2 * SEGMENT}"]


def test_the_result_of_process_0_counts(tmp_path, monkeypatch):
    """Processes may round differently; all must keep the same step and end at the same one."""
    monkeypatch.setattr(
        early_stopping.processes, "decide",
        lambda make: found + 1 if isinstance(found := make(), float) else found,
    )  # fmt: skip
    Toy(tmp_path).run(validate=validate())
    assert json.loads(records(tmp_path).splitlines()[0])["objective"] == HILL[0] + 1


@pytest.mark.parametrize("wrong", [{"every": -1}, {"patience": -1}, {"points": 0}, {"labels": 0}])
def test_invalid_intervals_and_counts_are_rejected(wrong):
    with pytest.raises(InputError, match=f"validate.{next(iter(wrong))}="):
        ValidateConfig(**wrong)


def test_patience_without_validation_is_rejected():
    with pytest.raises(InputError, match="set the steps between two validations"):
        ValidateConfig(patience=3)
