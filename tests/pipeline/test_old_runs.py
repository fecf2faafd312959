"""A run's folder that a released version wrote loads, and gives the answers that it gave then."""

import json
import shutil

import numpy as np
import pytest
from places import GOLDEN
from raw_folders import picture

from mufin_jax.prediction.predictor import Predictor

RUNS = sorted((GOLDEN / "runs").iterdir())


def test_there_is_a_run_of_the_first_version():
    assert "0.1.0" in [run.name for run in RUNS]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_run_of_an_older_version_gives_the_same_top_ten(run, one_device, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
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
