"""Claims about Module III: what Module IV starts from."""

import numpy as np
from contexts import context
from small import CONFIG, new_model

from mufin_jax.model.label_table import load_table
from mufin_jax.model.saved import save_model
from mufin_jax.stages.initialize import InitializeConfig, initialize


def test_draws_do_not_change_between_versions(dataset, one_device, tmp_path):
    save_model(new_model(dataset, one_device), tmp_path / "pretrain" / "model")
    folders = {"prepare": dataset.path, "pretrain": tmp_path / "pretrain"}
    initialize(InitializeConfig(), context(tmp_path / "out", one_device, folders, model=CONFIG))
    table = load_table(tmp_path / "out" / "table", dataset.num_labels, CONFIG.dim, one_device)
    wanted = [-0.2497202, -0.0562295, -0.5527965, 0.3978932, -0.5472671, 0.5141992]
    np.testing.assert_allclose(np.array(table.rows.eta[0]), wanted, rtol=1e-6)
    assert (np.array(table.rows.alpha) == 0.5).all()
