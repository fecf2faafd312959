"""Every file of experiments is a program with presets of its own."""

import importlib
import pkgutil
import runpy

import pytest

import experiments
from experiments.amazon import PRESETS
from mufin_jax.pipeline.cli import parse

FILES = [module.name for module in pkgutil.iter_modules(experiments.__path__)]


@pytest.mark.parametrize("name", FILES)
def test_every_experiment_runs_its_own_presets(name, monkeypatch):
    module, begun = importlib.import_module(f"experiments.{name}"), []
    monkeypatch.setattr("mufin_jax.pipeline.cli.main", lambda *args, **kinds: begun.append(args))
    with pytest.raises(SystemExit):
        runpy.run_path(str(module.__file__), run_name="__main__")
    ((presets,),) = begun
    assert presets.keys() == module.PRESETS.keys() >= {"miniature", "paper"}
    assert parse(presets, []).experiment == presets["miniature"]
    own = "catalogue" if "catalogue" in presets else "paper"
    assert parse(presets, ["--data=DIR"]).preset == own


@pytest.mark.parametrize(("given", "meant"), [(None, "full"), ("somewhere", "frozen")])
def test_encoders_of_a_catalogue_train_unless_they_start_from_a_checkpoint(given, meant):
    flags = [f"--model.text-checkpoint={given}"] if given else []
    command = parse(PRESETS, ["--data=DIR", *flags])
    assert command.preset == ("catalogue-frozen" if given else "catalogue")
    assert command.experiment.pretrain.optimizer.text_encoder == "auto"
    resolved = command.experiment.resolved()
    assert resolved.pretrain.optimizer.text_encoder == meant
    assert resolved.pretrain.optimizer.image_encoder == "full"  # no checkpoint of pictures
    assert resolved.finetune.optimizer.text_encoder == "frozen"  # as the preset says
    assert resolved.resolved() == resolved
