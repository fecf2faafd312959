"""Stages record all options that can change a result."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import minute
import pytest
from places import GOLDEN

from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.old_runs import ADDED, unrecorded
from mufin_jax.pipeline.run import run
from mufin_jax.pipeline.stage_table import STAGES, context
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, save_json

WITHOUT_EFFECT = (
    *("name", "workdir", "cost", "expected"),
    *("prepare.beam_", "pretrain.fit.", "finetune.fit."),
)
"""Options that change no result."""


def leaves(config: Any, path: str = "") -> Iterator[str]:
    """The names of all options of a configuration."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{name}.")
        else:
            yield name


def replaced(config: Any, path: str, value: Any) -> Any:
    """The configuration with another value, which need not be a valid one."""
    first, _, rest = path.partition(".")
    changed = dataclasses.replace(config) if dataclasses.is_dataclass(config) else config
    inner = replaced(getattr(config, first), rest, value) if rest else value
    object.__setattr__(changed, first, inner)
    return changed


def recorded(experiment: Experiment) -> dict[str, Any]:
    return {name: stage.settings(experiment) for name, stage in STAGES.items()}


def test_every_option_that_can_change_a_result_is_recorded_by_a_stage():
    options = list(leaves(Experiment()))
    assert len(options) > 80
    for path in options:
        experiment = Experiment()
        paths = ("data", "refit_of", "start_from")
        other: Any = Path("elsewhere") if path in paths else "another"
        if path.startswith("start."):  # they do nothing without a run to start from
            experiment, other = replaced(experiment, "start_from", Path("run")), 0.7
        before, changed = recorded(experiment), recorded(replaced(experiment, path, other))
        changed = changed != before
        assert changed == (not path.startswith(WITHOUT_EFFECT)), path


def test_settings_in_a_stages_context_are_recorded_by_it_or_an_earlier_stage():
    """The index has Module II's settings; scores have those that evaluate and report record."""
    experiment = dataclasses.replace(Experiment(), predict=PredictConfig(30, 0.4))
    found = recorded(experiment)
    given = context(experiment, "finetune", make_mesh(jax.devices()[:1]))
    for name in ("evaluate", "report"):
        assert found[name]["predict"] == dataclasses.asdict(given.predict)
    assert found["retrieve"]["index"] == dataclasses.asdict(given.index)
    assert found["retrieve"]["pooled"] == given.pooled
    assert found["pretrain"]["seed"] == given.seed == 0
    model = found["pretrain"]["model"] | {"cross_attention": found["initialize"]["cross_attention"]}
    assert model == dataclasses.asdict(given.model)


def mixed(workdir: Path, mix: float) -> Experiment:
    return dataclasses.replace(minute.MINUTE, workdir=workdir, predict=PredictConfig(mix=mix))


@pytest.fixture
def uncached(monkeypatch):
    """Keep runs in this process from changing JAX's compile cache."""
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)


@pytest.fixture
def finished(minute_run, tmp_path, uncached):
    """A copy of a finished run."""
    return shutil.copytree(minute_run, tmp_path / "run")


def test_a_run_predicts_with_the_options_that_it_was_measured_with(finished):
    """Other options need no new training."""
    for stage in ("evaluate", "report"):
        shutil.rmtree(finished / stage)
    assert Predictor.load(finished).config == PredictConfig(mix=0.7)
    run(mixed(finished, 0.6), "evaluate")
    assert Predictor.load(finished).config == PredictConfig(mix=0.6)
    assert Predictor.load(finished, config=PredictConfig(mix=0.5)).config.mix == 0.5


def test_recorded_options_that_cannot_be_read_are_named(finished):
    save_json(finished / "evaluate" / "settings.json", {"predict": {"mixture": 0.7}})
    with pytest.raises(InputError, match=r"settings.json cannot be read .*mixture"):
        Predictor.load(finished)


def older(finished: Path) -> Path:
    """A run as version 0.1.0 left it: later settings are lacking; only evaluate has `predict`."""
    lacking_of = [("prepare", "fit"), ("report", "predict"), ("evaluate", "frozen_neighbours")]
    lacking_of += [(stage, name) for stage, added in ADDED.items() for name in added]
    for stage, lacking in lacking_of:
        path = finished / stage / "settings.json"
        settings = part = load_json(path)
        *groups, name = lacking.split(".")
        for group in groups:
            part = part[group]
        del part[name]
        save_json(path, {key: value for key, value in settings.items() if value != {}})
    return finished


def test_a_run_of_an_older_version_is_still_finished(finished):
    before = load_json(finished / "metrics.json")
    assert run(mixed(older(finished), 0.7)) == before
    assert Predictor.load(finished).config == PredictConfig(mix=0.7)


def test_a_run_shares_the_stages_of_an_older_version(finished, tmp_path):
    experiment = mixed(tmp_path / "new", 0.7)
    run(experiment, "prepare", others=[older(finished)])
    assert (tmp_path / "new" / "prepare").readlink() == Path("../run/prepare")


def test_a_run_of_an_older_version_is_rejected_with_other_options_than_it_was_measured_with(
    finished,
):
    with pytest.raises(InputError, match=r"evaluate was made with other .*predict.mix: 0.7 -> 0.6"):
        run(mixed(older(finished), 0.6))


def test_an_older_preparation_of_other_pictures_is_rejected(finished):
    other = dataclasses.replace(minute.MINUTE.prepare, fit="crop")
    with pytest.raises(InputError, match=r"prepare was made with other .*fit: pad -> crop"):
        run(dataclasses.replace(mixed(older(finished), 0.7), prepare=other))


def test_an_older_preparation_has_all_labels(finished):
    other = dataclasses.replace(minute.MINUTE.prepare, split="cold")
    with pytest.raises(InputError, match=r"prepare was made with other .*split: given -> cold"):
        run(dataclasses.replace(mixed(older(finished), 0.7), prepare=other))


def test_stages_that_an_older_run_lacks_can_have_any_options(tmp_path):
    (tmp_path / "report").mkdir()
    save_json(tmp_path / "report" / "settings.json", {"shown": 2})
    assert unrecorded(tmp_path, "report", {"predict": {"mix": 0.6}}) == {"predict": {"mix": 0.6}}
    assert unrecorded(tmp_path, "pretrain", {}) == {}


def test_an_older_preparation_is_accepted_with_the_shape_of_pictures_in_its_manifest():
    run = GOLDEN / "runs" / "0.1.0"
    settings = {"image_checkpoint": None, "fit": "crop"}
    assert "fit" not in load_json(run / "prepare" / "settings.json")
    assert unrecorded(run, "prepare", settings) == {"fit": "pad"}


def test_an_older_preparation_has_no_validation_part(finished):
    other = dataclasses.replace(minute.MINUTE.prepare, validation_share=0.1)
    said = r"prepare was made with other .*validation_share: 0.0 -> 0.1"
    with pytest.raises(InputError, match=said):
        run(dataclasses.replace(mixed(older(finished), 0.7), prepare=other))
