"""Claims about the leaner label tables: bfloat16 rounded at random, and row-wise Adagrad."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_label_table import DIM, IDS, KINDS, RATE, L, gradients, host

from mufin_jax.model import label_table
from mufin_jax.model.label_table import (
    LabelTable,
    Rows,
    TableConfig,
    initialize,
    load_table,
    save_table,
)
from mufin_jax.model.sparse_updates import round_to_nearest
from mufin_jax.runtime.distributed.mesh import put
from mufin_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def update(mesh):
    return jax.jit(lambda table, ids, rows, rate: label_table.update(table, ids, rows, rate, mesh))


@pytest.mark.parametrize("config", KINDS, ids=lambda config: f"{config.dtype}-{config.update}")
def test_every_kind_of_table_learns_the_same_bits_on_one_device_and_on_eight(
    config, mesh, one_device, update
):
    tables = []
    for where in (mesh, one_device):
        table = initialize(jax.random.key(9), L, DIM, where, config=config)
        step = jax.jit(label_table.update, static_argnames="mesh", donate_argnums=0)
        for seed in range(3):
            table = step(table, IDS, gradients(seed), RATE, mesh=where)
        tables.append(host(table))
    for eight, one in zip(*map(jax.tree.leaves, tables), strict=True):
        np.testing.assert_array_equal(eight, one)
    start = initialize(jax.random.key(9), L, DIM, mesh, config=config)
    moved = np.flatnonzero((np.array(start.rows.eta) != tables[0].rows.eta).any(1))
    np.testing.assert_array_equal(moved, IDS[:-1])
    rows = label_table.gather(start.rows, jnp.array(IDS), mesh)
    assert rows.eta.dtype == rows.alpha.dtype == jnp.float32


def test_rows_of_bfloat16_are_sent_in_two_bytes(mesh):
    table = initialize(jax.random.key(9), L, DIM, mesh, config=TableConfig("bfloat16"))
    gather = jax.jit(lambda rows, ids: label_table.gather(rows, ids, mesh))
    text = gather.lower(table.rows, jnp.array(IDS)).as_text()
    sums = re.findall(r"stablehlo\.all_reduce.*?: \((.*?)\)", text, re.DOTALL)
    assert f"tensor<{len(IDS)}x{DIM}xui16>" in "".join(sums), text


def test_eta_and_its_moments_are_rounded_by_noise_of_their_own(mesh):
    """Both moments are the same number before they are rounded."""
    table = initialize(jax.random.key(9), L, DIM, mesh, config=TableConfig("bfloat16"))
    ones = Rows(jnp.ones((len(IDS), DIM)), jnp.ones(len(IDS)))
    even = jax.jit(functools.partial(label_table.update, mesh=mesh, b1=0.9, b2=0.9))
    new = even(table, IDS, ones, RATE)
    mean, square = (np.array(rows.eta)[IDS[:-1]] for rows in (new.mean, new.square))
    assert np.unique(mean).size == np.unique(square).size == 2  # the two neighbours of 0.1
    assert (mean != square).any()


def test_pads_change_no_bit_of_a_bfloat16_table(mesh, update):
    ids, drawn = IDS[:-1], gradients(1)
    short = Rows(drawn.eta[:-1], drawn.alpha[:-1])
    config = TableConfig("bfloat16")
    tables = [initialize(jax.random.key(0), L, DIM, mesh, config=config) for _ in range(2)]
    padded = host(update(tables[0], IDS, drawn, RATE))
    bare = host(update(tables[1], ids, short, RATE))
    jax.tree.map(np.testing.assert_array_equal, padded, bare)


def row_wise_adagrad(value, history, rate, eps=1e-8):
    """Compute Adagrad row by row; each row has one sum of the mean squares of its gradients."""
    value, total = value.astype(np.float64), np.zeros(len(value))
    for rows, gradient in history:
        for row, g in zip(rows, gradient, strict=True):
            total[row] += np.mean(np.square(g))
            value[row] -= rate * g / (np.sqrt(total[row]) + eps)
    return value, total


def test_adagrad_updates_are_those_of_a_loop_over_rows(mesh, update):
    table = initialize(jax.random.key(4), L, DIM, mesh, config=TableConfig(update="adagrad"))
    start = host(table)
    assert table.mean is None and table.square.eta.shape == (2048,)
    steps, grads = [[3, 255], [3, 700], [3, 1499], [3, 700]], []
    for t, ids in enumerate(steps):
        grads.append(gradients(t, 2))
        table = update(table, np.array(ids, np.int32), grads[-1], RATE)
    for name in ("eta", "alpha"):
        history = [(ids, getattr(g, name)) for ids, g in zip(steps, grads, strict=True)]
        value, total = row_wise_adagrad(getattr(start.rows, name), history, RATE)
        np.testing.assert_allclose(getattr(table.rows, name), value, atol=1e-6)
        np.testing.assert_allclose(getattr(table.square, name), total, rtol=1e-5)


def test_bfloat16_rows_follow_float32_where_rounding_to_the_nearest_does_not_move(mesh, update):
    ids, steps, rate = np.arange(64, dtype=np.int32), 400, 1e-4
    drawn = Rows(np.ones((64, DIM), np.float32), np.zeros(64, np.float32))
    ends = {}
    for dtype in ("float32", "bfloat16"):
        table = initialize(jax.random.key(2), 64, DIM, mesh, config=TableConfig(dtype))
        ones = jnp.ones(table.rows.eta.shape)
        ones = ones if dtype == "float32" else round_to_nearest(ones)
        rows = Rows(put(ones, table.rows.eta.sharding), table.rows.alpha)
        table = LabelTable(rows, table.mean, table.square, table.steps)
        for _ in range(steps):
            table = update(table, ids, drawn, rate)
        ends[dtype] = np.asarray(
            label_table.gather(table.rows, jnp.array(ids), mesh).eta, np.float64
        )
    path = 1 - ends["float32"].mean()
    assert path == pytest.approx(steps * rate, rel=1e-2)  # Adam with a constant gradient
    # A rounding error is at most 2^-8. The errors of 400 steps add up to a standard deviation of
    # sqrt(400) 2^-8 / 4 a value at most, and that of the mean of 384 values is 20 times smaller.
    assert 1 - ends["bfloat16"].mean() == pytest.approx(path, abs=4 * 20 * 2**-8 / 4 / 384**0.5)
    nearest = jnp.bfloat16(1)
    for _ in range(steps):
        nearest = (nearest.astype(jnp.float32) - rate).astype(jnp.bfloat16)
    assert float(nearest) == 1


def test_rounding_is_replayed_by_a_resumed_run_and_differs_from_step_to_step(mesh, update):
    table = initialize(jax.random.key(3), L, DIM, mesh, config=TableConfig("bfloat16"))
    once = update(table, IDS, gradients(0), RATE)
    again = update(jax.tree.map(lambda leaf: leaf.copy(), table), IDS, gradients(0), RATE)
    jax.tree.map(np.testing.assert_array_equal, host(once), host(again))
    later = LabelTable(table.rows, table.mean, table.square, table.steps + 1)
    other = update(later, IDS, gradients(0), 0.0 * RATE)
    still = update(table, IDS, gradients(0), 0.0 * RATE)
    assert (np.array(other.mean.eta) != np.array(still.mean.eta)).any()


@pytest.mark.parametrize("config", KINDS, ids=lambda config: f"{config.dtype}-{config.update}")
def test_a_saved_table_is_loaded_with_its_kind(config, mesh, one_device, tmp_path):
    table = initialize(jax.random.key(5), L, DIM, mesh, config=config)
    save_table(table, tmp_path)
    found = load_table(tmp_path, L, DIM, one_device)
    assert jax.tree.structure(found) == jax.tree.structure(table)
    for one, other in zip(*map(jax.tree.leaves, (found, table)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_table_of_an_unknown_kind_is_rejected():
    with pytest.raises(InputError, match=r"initialize\.table\.dtype=float16"):
        TableConfig.__post_init__(SimpleNamespace(dtype="float16", update="adam"))  # pyright: ignore
