"""Every file of experiments is a program with presets of its own."""

import importlib
import pkgutil
import runpy

import pytest

import experiments
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
    assert parse(presets, ["--data=DIR"]).preset == "paper"
