"""The label table that Module IV saves can be combined with z in prediction."""

import dataclasses

import jax
import numpy as np
from contexts import context
from finetuning import CONFIG, L, shortlists
from small import new_model

from mufin_jax.model import label_table
from mufin_jax.model.saved import save_model
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.stages import finetune as stage


def test_classifiers_that_are_sums_are_saved_as_combinations(
    dataset, one_device, tmp_path, monkeypatch
):
    model = new_model(dataset, one_device)
    save_model(model, tmp_path / "initialize" / "model")
    table = label_table.initialize(jax.random.key(0), L, model.dim, one_device)
    Checkpoints(tmp_path / "initialize" / "table").save(0, table, {})
    shortlists().save(tmp_path / "retrieve" / "train")
    (tmp_path / "finetune").mkdir()
    monkeypatch.setattr(stage, "build_predictor", lambda *_: None)
    monkeypatch.setattr(stage, "fit", lambda state, *rest, **options: state)  # skips training
    monkeypatch.setattr(stage, "describe_once", lambda model, loader, path: path.touch())
    folders = {name: tmp_path / name for name in ("retrieve", "initialize")}
    folders["prepare"] = dataset.path
    config = dataclasses.replace(CONFIG, epochs=1, classifiers="sum")
    stage.finetune(config, context(tmp_path / "finetune", one_device, folders))
    saved = label_table.load_table(tmp_path / "finetune" / "table", L, model.dim, one_device)
    eta, alpha = (np.asarray(leaf)[:L] for leaf in (saved.rows.eta, saved.rows.alpha))
    # z + eta has the direction of alpha z + (1 - alpha) unit(eta).
    np.testing.assert_allclose(alpha, 1 / (1 + np.linalg.norm(eta, axis=1)), rtol=1e-5)
