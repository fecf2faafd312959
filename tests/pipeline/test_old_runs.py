"""Files of older versions load: a run's folder gives its predictions, a label table its rows.

`golden/whole_runs` has whole runs of the first version, and of the one before stages were compared
by content. `golden/option_names.json` has the names of all options that stages have recorded.
"""

import dataclasses
import json
import shutil
import tarfile
import typing
from pathlib import Path
from typing import Any

import jax
import minute
import numpy as np
import pytest
from places import GOLDEN
from raw_folders import picture

from mufin_jax.data.synthetic.ads import AdsConfig
from mufin_jax.data.synthetic.outfits import OutfitsConfig
from mufin_jax.encoders.registry import configs
from mufin_jax.model.label_table import initialize, load_table
from mufin_jax.pipeline import old_runs
from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.embed import EmbedConfig
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.old_runs import ADDED, REMOVED, made_with
from mufin_jax.pipeline.run import run
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.run_folder import flatten
from mufin_jax.runtime.storage.files import jsonable, load_json, save_json

RUNS = sorted((GOLDEN / "runs").iterdir())
WHOLE = sorted(path.name.partition(".")[0] for path in (GOLDEN / "whole_runs").iterdir())


def test_there_is_a_run_of_the_first_version():
    assert "0.1.0" in [run.name for run in RUNS]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_run_of_an_older_version_gives_the_same_top_ten(run, one_device, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    for name in ("images.npy", "records.json"):  # no query reads the pictures of the data
        (workdir / "prepare" / name).unlink()
    wanted = json.loads((workdir / "answers.json").read_text())
    items = [
        {"title": query["title"], "images": [*map(picture, query["pictures"])]} for query in wanted
    ]
    found = Predictor.load(workdir, one_device).predict(items, k=10)
    for query, labels in zip(wanted, found, strict=True):
        assert len(query["labels"]) == 10
        assert [label.id for label in labels] == query["labels"]
        # Compilers sum in other orders; equal labels in equal places are what a user sees.
        np.testing.assert_allclose([label.score for label in labels], query["scores"], atol=1e-4)


def test_the_label_table_of_an_older_version_keeps_its_rows(one_device):
    """Every version pads tables to the same number of rows, and draws the same numbers."""
    found = load_table(GOLDEN / "table", 5, 3, one_device)
    expected = initialize(jax.random.key(0), 5, 3, one_device)
    assert found.rows.eta.shape == (1024, 3)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        # Programs for one device and for several round differently.
        np.testing.assert_allclose(one, other, atol=1e-6)


def unpacked(name: str, folder: Path) -> Path:
    """Return the folder of a whole run of an older version; of finetune it has step 1 of 2, too."""
    with tarfile.open(GOLDEN / "whole_runs" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def experiment_of(workdir: Path) -> Experiment:
    """Return the experiment that the runs in golden/whole_runs are of."""
    prepare = dataclasses.replace(minute.MINUTE.prepare, records=False)
    miniature = dataclasses.replace(minute.MINUTE.miniature, points=40)
    return dataclasses.replace(
        minute.MINUTE, workdir=workdir, prepare=prepare, miniature=miniature
    ).resolved()


def differences(workdir: Path, experiment: Experiment) -> list[str]:
    """Return what differs between the settings that stages have recorded and an experiment's."""
    found = []
    for name, stage in STAGES.items():
        if (workdir / name / "settings.json").exists():
            settings = stage.settings(experiment)
            old, new = made_with(workdir, name, settings), flatten(jsonable(settings))
            keys = old.keys() | new.keys()
            found += [f"{name}: {k}" for k in keys if old.get(k, ...) != new.get(k, ...)]
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_of_an_older_version_has_the_settings_of_this_one(name, tmp_path):
    workdir = unpacked(name, tmp_path / "run")
    assert differences(workdir, experiment_of(workdir)) == []


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_of_an_older_version_is_finished_where_it_was_moved(name, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    workdir = unpacked(name, tmp_path / "run")
    found = run(experiment_of(workdir), "evaluate")
    assert found == load_json(workdir / "evaluate" / "metrics.json")


def test_three_added_options_leave_an_older_run_as_it_is(tmp_path, monkeypatch):
    """A key that is absent counts as the default that it had then; it must be in `ADDED`."""
    workdir = unpacked("before", tmp_path / "run")
    experiment = experiment_of(workdir)

    def with_options(settings: dict[str, Any]) -> dict[str, Any]:
        optimizer = settings["optimizer"] | {"future": {"rate": 0.5}}
        return settings | {"future": 3, "other": None, "optimizer": optimizer}

    plain = STAGES["finetune"].settings
    new = dataclasses.replace(STAGES["finetune"])
    object.__setattr__(new, "settings", lambda experiment: with_options(plain(experiment)))
    monkeypatch.setitem(STAGES, "finetune", new)
    assert sorted(differences(workdir, experiment)) == [
        "finetune: future", "finetune: optimizer.future.rate", "finetune: other",
    ]  # fmt: skip
    added = {"future": 3, "other": None, "optimizer.future.rate": 0.5}
    monkeypatch.setitem(old_runs.ADDED, "finetune", ADDED["finetune"] | added)
    assert differences(workdir, experiment) == []


@pytest.mark.parametrize("checkpoint, wanted", [(None, "pad"), ("vit", "crop")])
def test_the_way_pictures_were_made_square_is_that_of_the_folder_or_of_the_checkpoint(
    tmp_path, checkpoint, wanted
):
    """The first version did not record it. A checkpoint's own way is no setting."""
    (tmp_path / "prepare").mkdir()
    save_json(tmp_path / "prepare" / "settings.json", {"image_checkpoint": checkpoint})
    save_json(tmp_path / "prepare" / "manifest.json", {"processing": {"fit": "pad"}})
    settings = {"image_checkpoint": checkpoint, "fit": "crop"}
    assert made_with(tmp_path, "prepare", settings)["fit"] == wanted


def configs_in(config: Any, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the names of the fields of a config's class and of those of its fields, by class."""
    if dataclasses.is_dataclass(config) and type(config).__name__ not in found:
        found[type(config).__name__] = [field.name for field in dataclasses.fields(config)]
        for field in dataclasses.fields(config):
            configs_in(getattr(config, field.name), found)
    return found


def test_every_option_is_one_that_stages_have_always_recorded_or_is_in_added():
    """List a new option in `old_runs.ADDED`, with the value that runs without it acted by."""
    now = configs_in(Experiment(), {})
    kinds = [kind for modality in ("image", "text") for kind in typing.get_args(configs(modality))]
    for kind in (*kinds, AdsConfig, OutfitsConfig, EmbedConfig):
        now[kind.__name__] = [field.name for field in dataclasses.fields(kind)]
    known = json.loads((GOLDEN / "option_names.json").read_text())
    added = {name.split(".")[-1] for names in ADDED.values() for name in names}
    removed = {name.split(".")[-1] for names in REMOVED.values() for name in names}
    for kind, names in now.items():
        assert set(names) - set(known.get(kind, ())) <= added, kind
        assert set(known.get(kind, ())) - set(names) <= removed, kind


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_half_done_finetune_of_an_older_version_resumes(name, compiled, tmp_path):
    workdir = unpacked(name, tmp_path / "run")
    for gone in ("model", "table", "predictor"):
        shutil.rmtree(workdir / "finetune" / gone)
    (workdir / "finetune" / "done.json").unlink()
    for stage in ("evaluate", "report"):
        shutil.rmtree(workdir / stage, ignore_errors=True)
    flags = ("--prepare.no-records", "--miniature.points=40")
    minute.finish(workdir, *flags, cache=compiled)
    assert (workdir / "report" / "index.html").exists()
    assert len(minute.losses(workdir)) == 2
