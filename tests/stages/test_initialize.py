"""Claims about Module III: what Module IV starts from."""

import dataclasses

import numpy as np
from contexts import context
from small import CONFIG, new_model

from mufin_jax.model.attention import ResidualAttention
from mufin_jax.model.label_table import TableConfig, load_table
from mufin_jax.model.saved import load_model, save_model
from mufin_jax.stages.initialize import InitializeConfig, initialize


def test_draws_do_not_change_between_versions(dataset, one_device, tmp_path):
    save_model(new_model(dataset, one_device), tmp_path / "pretrain" / "model")
    folders = {"prepare": dataset.path, "pretrain": tmp_path / "pretrain"}
    config = InitializeConfig(alpha=0.25)
    initialize(config, context(tmp_path / "out", one_device, folders, model=CONFIG))
    table = load_table(tmp_path / "out" / "table", dataset.num_labels, CONFIG.dim, one_device)
    wanted = [-0.2497202, -0.0562295, -0.5527965, 0.3978932, -0.5472671, 0.5141992]
    np.testing.assert_allclose(np.array(table.rows.eta[0]), wanted, rtol=1e-6)
    assert (np.array(table.rows.alpha) == 0.25).all()


def test_the_table_and_the_attention_are_those_of_the_settings(dataset, one_device, tmp_path):
    """Whatever attention Module I's model had: it does not train there."""
    save_model(new_model(dataset, one_device), tmp_path / "pretrain" / "model")
    folders = {"prepare": dataset.path, "pretrain": tmp_path / "pretrain"}
    other = dataclasses.replace(CONFIG, cross_attention="residual")
    table = TableConfig(dtype="bfloat16", update="adagrad")
    config = InitializeConfig(eta="zero", table=table)
    initialize(config, context(tmp_path / "out", one_device, folders, model=other))
    found = load_table(tmp_path / "out" / "table", dataset.num_labels, CONFIG.dim, one_device)
    assert found.rows.eta.dtype == "uint16" and found.mean is None
    assert not np.array(found.rows.eta).any() and (np.array(found.rows.alpha) == 0.5).all()
    model = load_model(tmp_path / "out" / "model", one_device)
    assert isinstance(model.cross_attention, ResidualAttention)
