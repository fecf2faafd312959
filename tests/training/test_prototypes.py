"""Label prototypes: they start at z, learn on any number of devices, and become a part of eta."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import minute
import numpy as np
import optax
import pytest
from finetuning import CONFIG, L, batches
from small import new_model

from experiments.recipe_ablations import RECIPE
from mufin_jax.model import label_table
from mufin_jax.model.label_table import Rows
from mufin_jax.model.sparse_updates import round_to_nearest
from mufin_jax.pipeline.run import run
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import put, put_rows, replicated
from mufin_jax.runtime.errors import InputError, Stopped
from mufin_jax.runtime.signals import stop_requested
from mufin_jax.training import loop
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.finetune_step import make_scores, make_step, place
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.prototypes import CENTROIDS, PART, absorbed, block_of, new_weights
from mufin_jax.training.setup import TrainState, split

DIM = 6
FROZEN = OptimizerConfig(
    image_encoder="frozen", text_encoder="frozen", self_attention="frozen", warmup=0
)
SUM = dataclasses.replace(CONFIG, loss="softmax", classifiers="sum", optimizer=FROZEN)
PROTOTYPES = dataclasses.replace(SUM, prototypes=True)


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def central(seed: int = 1) -> np.ndarray:
    """Centroids of all labels; every third label has none."""
    mu = unit_rows(L, seed)
    mu[::3] = 0
    return mu


def moved(weights: dict, size: float = 0.3) -> dict:
    """Weights that are no longer the first ones."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda w: (w + size * rng.normal(size=w.shape)).astype(np.float32), weights)


def test_a_prototype_starts_at_z_to_the_bit():
    block = block_of({PART: new_weights(DIM, 0)}, DIM)
    z, mu = jnp.array(unit_rows(L)), jnp.array(central())
    first = jax.jit(lambda b, z, mu: b(z, mu))(block, z, mu)
    np.testing.assert_array_equal(first, z)
    rows, add = Rows(jnp.zeros((L, DIM)), jnp.zeros(L)), jax.jit(label_table.add)
    np.testing.assert_allclose(add(rows, first), z, atol=2e-7)  # the scores of z


def test_a_label_without_a_centroid_does_not_read_one():
    block = block_of({PART: moved(new_weights(DIM, 0))}, DIM)
    z, mu = unit_rows(L), central()
    found = np.array(block(jnp.array(z), jnp.array(mu)))
    kinds = np.array(block.kinds[...])
    for label in range(3):
        tokens = np.stack([z[label] + kinds[0], kinds[2]])
        if label % 3:
            tokens = np.stack([tokens[0], mu[label] + kinds[1], tokens[1]])
        one = block.attention(
            jnp.array(z[label][None, None]), jnp.array(tokens[None]),
            jnp.ones((1, len(tokens)), bool),
        )  # fmt: skip
        np.testing.assert_allclose(found[label], one[0, 0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_absorbed_rows_give_the_classifiers_that_were_trained(mesh, one_device, dtype):
    block = block_of({PART: moved(new_weights(DIM, 0))}, DIM)
    z, mu, eta = unit_rows(L), central(), 0.2 * unit_rows(L, 3)
    found = {}
    for devices in (mesh, one_device):
        kept = np.array(round_to_nearest(jnp.array(eta))) if dtype == "uint16" else eta
        padded = [put_rows(array, devices, 1024) for array in (kept, z, mu)]
        rows = Rows(padded[0], put_rows(np.zeros(L, np.float32), devices, 1024))
        new = absorbed(rows, block, padded[1], padded[2], devices)
        assert new.eta.dtype == dtype and new.eta.shape == (1024, DIM)
        found[devices.size] = np.array(new.eta)[:L]
        if dtype == "float32":
            w = label_table.add(Rows(jnp.array(found[devices.size]), jnp.zeros(L)), jnp.array(z))
            wanted = np.array(block(jnp.array(z), jnp.array(mu))) + eta
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
            np.testing.assert_allclose(w, wanted, atol=1e-6)
    if dtype == "float32":
        np.testing.assert_allclose(found[1], found[8], atol=1e-6)


def test_scores_with_prototypes_are_those_of_the_rows_that_absorbed_them(dataset, one_device):
    """What a step learns by is what a run saves: z alone would not do."""
    model, weights = new_model(dataset, one_device), moved(new_weights(DIM, 0))
    batch = place(batches(dataset, PROTOTYPES, 1)(0), one_device)
    z = np.zeros((1024, DIM), np.float32)
    real = np.asarray(batch.ids) < 1024
    z[np.asarray(batch.ids)[real]] = np.asarray(
        model.embed(model.describe(batch.pool), batch.labels).vector
    )[real]
    mu = np.zeros((1024, DIM), np.float32)
    mu[:L] = central()
    eta = np.asarray(block_of({PART: weights}, DIM)(jnp.array(z), jnp.array(mu))) - z
    found = []
    for config, rows in ((PROTOTYPES, np.zeros_like(eta)), (SUM, eta)):
        graphdef, train, frozen = split(model, config.optimizer, cross=True)
        if config.prototypes:
            train, frozen = train | {PART: weights}, frozen | {CENTROIDS: jnp.array(mu)}
        table = label_table.initialize(jax.random.key(0), L, DIM, one_device)
        table = dataclasses.replace(table, rows=Rows(jnp.array(rows), table.rows.alpha))
        state = TrainState(opt=(), table=table, train=train)
        found.append(np.asarray(make_scores(config, graphdef, one_device)(state, frozen, batch)))
    np.testing.assert_allclose(*found, atol=1e-5)


def trained(dataset, mesh, config):
    """Two steps by plain gradient descent; the metrics, eta, and the block's weights."""
    model = new_model(dataset, mesh)
    table = label_table.initialize(jax.random.key(0), L, DIM, mesh)
    zeros = jax.jit(jnp.zeros_like, out_shardings=table.rows.eta.sharding)(table.rows.eta)
    table = dataclasses.replace(table, rows=Rows(zeros, table.rows.alpha))
    graphdef, train, frozen = split(model, config.optimizer, cross=True)
    if config.prototypes:
        train |= put({PART: new_weights(DIM, 0)}, replicated(mesh))
        frozen |= {CENTROIDS: put_rows(central(), mesh, 1024)}
    optimizer, metrics = optax.sgd(0.1), []
    step = make_step(config, graphdef, optimizer, 100, mesh)
    make = batches(dataset, config, mesh.size)
    state = TrainState(opt=optimizer.init(train), table=table, train=train)
    for i in range(2):
        state, values = step(state, frozen, place(make(i), mesh))
        metrics.append({name: float(value) for name, value in values.items()})
    assert state.table is not None
    return metrics, np.array(state.table.rows.eta), jax.device_get(state.train.get(PART))


@pytest.mark.slow
def test_a_step_learns_prototypes_on_one_device_and_on_eight(dataset, mesh, one_device):
    eight, one = (trained(dataset, devices, PROTOTYPES) for devices in (mesh, one_device))
    plain = trained(dataset, one_device, SUM)
    assert one[0][0]["loss"] == plain[0][0]["loss"]  # it starts where the sum starts
    assert one[0][1]["loss"] != plain[0][1]["loss"]
    for a, b in zip(eight[0], one[0], strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (eight[1:], one[1:])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(one[2]["attention"]["out"]["kernel"]).max() > 1e-4


def test_settings_that_cannot_be_meant_are_rejected():
    with pytest.raises(InputError, match=r"prototypes with finetune.classifiers=table: expected"):
        FinetuneConfig(prototypes=True)


FLAGS = (
    *("--finetune.prototypes", "--finetune.classifiers=sum", "--finetune.loss=softmax"),
    *("--initialize.eta=zero", "--finetune.optimizer.image-encoder=frozen"),
    *("--finetune.optimizer.text-encoder=frozen", "--finetune.optimizer.self-attention=frozen"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prototypes_are_validated_and_start_where_the_sum_starts(compiled, tmp_path):
    """Steps before the first and after the last are validated; the best is what is served."""
    flags = (*FLAGS, "--prepare.validation-share=0.3", "--finetune.validate.every=1")
    minute.finish(tmp_path / "run", *flags, cache=compiled)
    found = validations(tmp_path / "run")
    assert set(found) == {0, 1, 2, 3, 4}
    other = minute.begun(tmp_path / "run", tmp_path / "other", "finetune")
    minute.finish(other, *flags, "--stage=finetune", "--finetune.no-prototypes", cache=compiled)
    assert validations(other)[0] == found[0]
    cut = minute.begun(tmp_path / "run", tmp_path / "cut", "finetune")
    shutil.copytree(tmp_path / "run" / "finetune", cut / "finetune")
    for name in ("done.json", "predictor", "model", "table"):
        path = cut / "finetune" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for step in (3, 4):  # it was killed after the second step
        shutil.rmtree(cut / "finetune" / "checkpoints" / str(step), ignore_errors=True)
    minute.finish(cut, *flags, cache=compiled)
    minute.assert_same(tmp_path / "run", cut)


def validations(run):
    lines = (run / "finetune" / "validation.jsonl").read_text().splitlines()
    return {line["step"]: line["objective"] for line in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prototypes_of_two_processes_learn_what_those_of_one_learn(compiled, tmp_path):
    minute.finish(tmp_path / "one", *FLAGS, cache=compiled, devices=8)
    processes = minute.start_together(tmp_path / "two", *FLAGS, cache=compiled)
    assert [code for code, _ in minute.ends(processes, 600)] == [0, 0]
    one, two = (minute.losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) > 1
    np.testing.assert_allclose(two, one, rtol=1e-4)
    eta = [np.load(tmp_path / name / "finetune/predictor/labels/w.npy") for name in ("one", "two")]
    np.testing.assert_allclose(*eta, atol=1e-4)


@pytest.mark.slow
def test_a_run_with_prototypes_resumes_to_the_bit_and_serves_what_it_trained(tmp_path, monkeypatch):
    full = dataclasses.replace(
        minute.MINUTE,
        workdir=tmp_path / "full",
        initialize=dataclasses.replace(minute.MINUTE.initialize, eta="zero"),
        finetune=dataclasses.replace(
            minute.MINUTE.finetune, loss="softmax", classifiers="sum", prototypes=True,
            optimizer=dataclasses.replace(
                minute.MINUTE.finetune.optimizer, image_encoder="frozen", text_encoder="frozen",
                self_attention="frozen",
            ),
        ),
    )  # fmt: skip
    run(full)
    assert RECIPE["prototypes"].of(full) == full
    left = {path.name for path in (full.folder / "finetune").iterdir()}
    assert not left & {"centroids.npy", "x.npy", "z.npy"}
    killed = dataclasses.replace(
        full, workdir=minute.begun(full.folder, tmp_path / "k", "finetune")
    )
    calls = []
    monkeypatch.setattr(loop, "stop_requested", lambda: calls.append(0) or len(calls) == 2)
    with pytest.raises(Stopped):
        run(killed, "finetune")
    monkeypatch.setattr(loop, "stop_requested", stop_requested)
    run(killed)
    minute.assert_same(full.folder, killed.folder)
    assert Predictor.load(full.folder).predict([{"title": "red chair"}], 3)

    trains = dataclasses.replace(
        full,
        workdir=minute.begun(full.folder, tmp_path / "trains", "finetune"),
        finetune=dataclasses.replace(full.finetune, optimizer=minute.MINUTE.finetune.optimizer),
    )
    with pytest.raises(InputError, match="centroids are computed once, and an encoder or A_S"):
        run(trains)
