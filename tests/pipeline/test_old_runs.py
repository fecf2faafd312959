"""Files of older versions load: a run's folder gives its predictions, a label table its rows."""

import json
import shutil

import jax
import numpy as np
import pytest
from places import GOLDEN
from raw_folders import picture

from mufin_jax.model.label_table import initialize, load_table
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


def test_the_label_table_of_an_older_version_keeps_its_rows(one_device):
    """Every version pads tables to the same number of rows, and draws the same numbers."""
    found = load_table(GOLDEN / "table", 5, 3, one_device)
    expected = initialize(jax.random.key(0), 5, 3, one_device)
    assert found.rows.eta.shape == (1024, 3)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        # Programs for one device and for several round differently.
        np.testing.assert_allclose(one, other, atol=1e-6)
