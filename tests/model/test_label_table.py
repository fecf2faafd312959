"""The label table: its rows are gathered, combined and updated by themselves, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mufin_jax.model import label_table
from mufin_jax.model.label_table import (
    ROWS,
    LabelTable,
    Rows,
    TableConfig,
    bytes_per_label,
    combine,
    initialize,
)

L, DIM = 1500, 6  # padded to 2,048: 256 rows a device, the last two devices hold only padding
IDS = np.array([3, 255, 256, 700, 1023, 1024, 1499, 2048], np.int32)  # the last is padding
RATE = 0.01
KINDS = [TableConfig(d, u) for d in ("float32", "bfloat16") for u in ("adam", "adagrad")]
LEAN = TableConfig("bfloat16", "adagrad")


@pytest.fixture(scope="module")
def gather(mesh):
    return jax.jit(lambda table, ids: label_table.gather(table.rows, ids, mesh))


@pytest.fixture(scope="module")
def update(mesh):
    return jax.jit(lambda table, ids, rows, rate: label_table.update(table, ids, rows, rate, mesh))


def gradients(seed: int, count: int = len(IDS)) -> Rows:
    rng = np.random.default_rng(seed)
    eta, alpha = rng.normal(size=(count, DIM)), 0.1 * rng.normal(size=count)
    return Rows(eta.astype(np.float32), alpha.astype(np.float32))


def host(table: LabelTable) -> LabelTable:
    return jax.tree.map(np.array, table)


def sparse_adam(value, gradients, rate, b1=0.9, b2=0.999, eps=1e-8):
    """torch.optim.SparseAdam in numpy: `gradients` has (rows, gradient) for each step.

    exp_avg and exp_avg_sq change only in the rows of the gradient; all rows share the step count.
    rate * sqrt(1 - b2^t) / (1 - b1^t) * exp_avg / (sqrt(exp_avg_sq) + eps) is subtracted.
    """
    value = value.astype(np.float64)
    mean, square = np.zeros_like(value), np.zeros_like(value)
    for t, (rows, gradient) in enumerate(gradients, start=1):
        mean[rows] += (gradient - mean[rows]) * (1 - b1)
        square[rows] += (gradient**2 - square[rows]) * (1 - b2)
        size = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        value[rows] -= size * mean[rows] / (np.sqrt(square[rows]) + eps)
    return value, mean, square


def test_a_new_table_is_split_over_the_devices(mesh):
    table = initialize(jax.random.key(0), L, DIM, mesh)
    for leaf in jax.tree.leaves((table.rows, table.mean, table.square)):
        shapes = {shard.data.shape[0] for shard in leaf.addressable_shards}
        assert len(leaf.sharding.device_set) == 8 and shapes == {2048 // 8}
    make = jax.jit(lambda key: initialize(key, 2**18, DIM, mesh))
    memory = make.lower(jax.random.key(0)).compile().memory_analysis()
    whole = 2**18 * (DIM + 1) * 4  # eta and alpha, without moments, on one device
    assert memory.output_size_in_bytes == pytest.approx(3 * whole / 8, rel=1e-3)
    assert memory.temp_size_in_bytes < whole / 2


def test_the_table_is_the_same_on_one_device_and_on_eight(mesh, one_device, gather, update):
    eight, one = (initialize(jax.random.key(1), L, DIM, m) for m in (mesh, one_device))
    for step in range(2):
        rows = gather(eight, IDS)
        expected = label_table.gather(one.rows, jnp.array(IDS), one_device)
        np.testing.assert_array_equal(rows.eta, expected.eta)
        np.testing.assert_array_equal(rows.alpha, expected.alpha)
        eight = update(eight, IDS, gradients(step), RATE)
        alone = jax.jit(label_table.update, static_argnames="mesh")
        one = alone(one, IDS, gradients(step), RATE, mesh=one_device)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), host(eight), host(one))


def test_gathered_rows_are_those_of_the_ids_and_zero_beyond_the_table(mesh, gather):
    table = initialize(jax.random.key(2), L, DIM, mesh)
    rows, eta = gather(table, IDS), np.array(table.rows.eta)
    np.testing.assert_array_equal(rows.eta[:-1], eta[IDS[:-1]])
    assert not rows.eta[-1].any() and rows.alpha.tolist() == [0.5] * 7 + [0]
    assert np.abs(eta[IDS[:-1]]).min() > 0


def test_untouched_rows_keep_values_and_moments_to_the_bit(mesh, update):
    before = update(initialize(jax.random.key(3), L, DIM, mesh), IDS + 1, gradients(8), RATE)
    after, before = host(update(before, IDS, gradients(9), RATE)), host(before)
    untouched = np.setdiff1d(np.arange(2048), IDS)
    assert after.steps == before.steps + 1 == 2
    for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        if old.ndim:
            np.testing.assert_array_equal(new[untouched], old[untouched])
            assert (new[IDS[:-1]] != old[IDS[:-1]]).all()


def test_updates_are_those_of_torchs_sparse_adam_for_rows_touched_late_too(mesh, update):
    table = initialize(jax.random.key(4), L, DIM, mesh)
    start = host(table)
    # 3 is touched at every step; 700 at the second and fifth; 1499 for the first time at the last.
    steps = [[3, 255], [3, 700], [3, 256], [3, 1024], [3, 700], [3, 1499]]
    grads = []
    for t, ids in enumerate(steps):
        drawn = gradients(t, 2)
        grads.append(drawn)
        table = update(table, np.array(ids, np.int32), drawn, RATE)
    for name in ("eta", "alpha"):
        history = [(ids, getattr(g, name)) for ids, g in zip(steps, grads, strict=True)]
        expected = sparse_adam(getattr(start.rows, name), history, RATE)
        for part, wanted in zip((table.rows, table.mean, table.square), expected, strict=True):
            np.testing.assert_allclose(getattr(part, name), wanted, atol=1e-6)


def test_rows_touched_at_every_step_move_as_under_dense_adam(mesh, update):
    table, adam = initialize(jax.random.key(5), L, DIM, mesh), optax.adam(RATE)
    ids = IDS[:-1]
    dense = np.array(table.rows.eta)[ids]
    state = adam.init(dense)
    for t in range(4):
        drawn = gradients(t, len(ids))
        table = update(table, ids, drawn, RATE)
        updates, state = adam.update(drawn.eta, state)
        dense = dense + updates
    np.testing.assert_allclose(np.array(table.rows.eta)[ids], dense, atol=1e-6)


def test_alpha_stays_between_zero_and_one(mesh, update):
    table = initialize(jax.random.key(6), L, DIM, mesh)
    ids, pull = np.array([5, 900], np.int32), np.array([1e3, -1e3], np.float32)
    for _ in range(3):
        table = update(table, ids, Rows(np.zeros((2, DIM), np.float32), pull), 0.4)
    assert np.array(table.rows.alpha)[ids].tolist() == [0, 1]


def test_alpha_weighs_the_label_embedding_against_the_normalised_free_vector():
    z = jnp.array([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0], [0.0, 0.0]])
    eta = jnp.array([[0.0, 5], [3.0, -4], [0.0, 9.0], [0.0, 0.0]])
    w = combine(Rows(eta, jnp.array([1.0, 0, 0.5, 0.5])), z)
    # alpha 1: z; 0: unit(eta); 1/2: unit of [.5, 0] + [0, .5]; if z and eta are zero: zero
    expected = [[0.6, 0.8], [0.6, -0.8], [0.5**0.5, 0.5**0.5], [0, 0]]
    np.testing.assert_allclose(w, expected, atol=1e-6)


def test_the_xavier_limit_counts_true_labels_not_padding(mesh):
    table = initialize(jax.random.key(7), 50, DIM, mesh, alpha=0.25)
    largest, limit = np.abs(table.rows.eta).max(), (6 / (50 + DIM)) ** 0.5
    assert table.rows.eta.shape == (ROWS, DIM) and 0.99 * limit < largest <= limit
    assert (np.array(table.rows.alpha) == 0.25).all()


def test_an_abstract_table_has_the_shapes_and_places_of_a_real_one(mesh):
    for config in KINDS:
        real = initialize(jax.random.key(8), L, DIM, mesh, config=config)
        promised = label_table.abstract(L, DIM, mesh, config)
        assert jax.tree.structure(real) == jax.tree.structure(promised)
        for one, other in zip(*map(jax.tree.leaves, (real, promised)), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_drawing_a_table_takes_hardly_more_memory_than_the_table(one_device):
    for config in (TableConfig(), LEAN):
        make = jax.jit(lambda key, c=config: initialize(key, 2**20, DIM, one_device, config=c))
        memory = make.lower(jax.random.key(0)).compile().memory_analysis()
        assert memory.output_size_in_bytes > 2**20 * bytes_per_label(DIM, config)
        assert memory.temp_size_in_bytes < 5 * 2**20  # four bytes a label for its number, and one


def test_bytes_per_label_are_those_of_a_table(mesh):
    costs = [bytes_per_label(192, config) for config in KINDS]
    assert costs == [12 * 193, 4 * 195, 6 * 192 + 12, 2 * 192 + 12] == [2316, 780, 1164, 396]
    for config in KINDS:
        table = label_table.abstract(L, DIM, mesh, config)
        stored = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(table))
        assert stored == 2048 * bytes_per_label(DIM, config) + table.steps.dtype.itemsize
