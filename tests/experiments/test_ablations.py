"""The replacements of parts in table 4, and SiameseXML's classifiers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context
from flax import nnx
from small import CONFIG, SIZES, new_model, shaken, weights

from mufin_jax.data.loader import Loader
from mufin_jax.model import label_table
from mufin_jax.model.attention import Concatenation, NoAttention
from mufin_jax.model.embed_side import describe_once, embed_blocks
from mufin_jax.model.label_table import Rows, TableConfig
from mufin_jax.model.pooling import unit
from mufin_jax.model.saved import load_model, save_model
from mufin_jax.prediction.build import build_predictor
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.initialize import InitializeConfig, initialize
from mufin_jax.stages.pretrain import Batches, PretrainConfig, pretrain
from mufin_jax.training.mining import thinned
from mufin_jax.training.optimizer import OptimizerConfig, check_trains

DIM = CONFIG.dim
describe = jax.jit(lambda model, pool: model.describe(pool))
embed = jax.jit(lambda model, vectors, bags: model.embed(vectors, bags))
adapt = jax.jit(lambda model, points, pairs: model.adapt(points, pairs))
memory = jax.jit(lambda model, labels: model.memory(labels))


def without(**kinds):
    return dataclasses.replace(CONFIG, **kinds)


def points_of(model, dataset):
    """The first eight test points: their descriptor vectors, bags and embeddings."""
    pool, (bags,) = Loader(dataset, "both", devices=8).batch([(dataset.test, np.arange(8))])
    vectors = describe(model, pool)
    return np.asarray(vectors), bags, embed(model, vectors, bags)


def of_pairs(model, points, chosen):
    """x2 of each point for the chosen ones of eight labels, which are the points themselves."""
    every = memory(model, points)
    return np.asarray(adapt(model, points, jax.tree.map(lambda leaf: leaf[chosen], every)))


CHOSEN = np.random.default_rng(0).integers(0, 8, (8, 3))


def test_without_self_attention_the_embedding_is_the_unit_sum_of_the_descriptor_vectors(
    dataset, mesh
):
    model = new_model(dataset, mesh, without(self_attention="none"))
    assert not any(name.startswith("self_attention") for name in weights(model))
    vectors, bags, points = points_of(model, dataset)
    x0 = np.where(bags.mask[..., None], vectors[bags.slots], 0)
    np.testing.assert_allclose(points.vector, jax.jit(unit)(x0.sum(1)), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(points.bag)[bags.mask], x0[bags.mask])


def test_without_cross_attention_the_datapoint_is_the_same_for_every_label(dataset, mesh):
    model = new_model(dataset, mesh, without(cross_attention="none"))
    assert not any(name.startswith("cross_attention") for name in weights(model))
    _, _, points = points_of(model, dataset)
    x2 = of_pairs(model, points, CHOSEN)
    np.testing.assert_allclose(x2, np.repeat(points.vector[:, None], 3, 1), atol=1e-6)


def test_concatenation_maps_both_vector_embeddings_together(dataset, mesh):
    model = new_model(dataset, mesh, without(cross_attention="concat"))
    block = model.cross_attention
    _, _, points = points_of(model, dataset)
    x2 = of_pairs(model, points, CHOSEN)
    hidden, out = (
        (np.array(m.kernel[...]), np.array(m.bias[...])) for m in (block.hidden, block.out)
    )
    assert hidden[0].shape == (2 * DIM, 2 * DIM) and out[0].shape == (2 * DIM, DIM)
    x, z = np.asarray(points.vector), np.asarray(points.vector)[CHOSEN]
    pair = np.concatenate([np.repeat(x[:, None], 3, 1), z], -1)
    expected = np.maximum(pair @ hidden[0] + hidden[1], 0) @ out[0] + out[1]
    np.testing.assert_allclose(x2, jax.jit(unit)(expected), atol=1e-5)


@pytest.mark.parametrize("kind", ["concat", pytest.param("none", marks=pytest.mark.slow)])
def test_a_predictor_scores_pairs_as_the_step_does(dataset, mesh, tmp_path, kind):
    model = new_model(dataset, mesh, without(cross_attention=kind))
    loader = Loader(dataset, "both", devices=mesh.size)
    vectors = describe_once(model, loader, tmp_path / "vectors.npy")
    build_predictor(
        tmp_path / "predictor", model, None, dataset, vectors, PredictConfig(9, mix=1.0),
        IndexConfig(backend="exact"), pooled=True,
    )  # fmt: skip
    predictor = Predictor.load_parts(tmp_path / "predictor", model, dataset)
    ((_, labels),) = embed_blocks(model, loader, vectors, dataset.labels)
    assert len(predictor.index.entries.vectors) == labels.mask.any(1).sum()  # pooled: one a label
    ((chosen, scores),) = predictor.rank_side(dataset.test)
    _, _, points = points_of(model, dataset)
    x, z = np.asarray(points.vector), labels.vector[chosen[:8]]
    x2 = np.repeat(x[:, None], 9, 1)
    if kind == "concat":
        block = jax.device_get(model.cross_attention)
        pair = np.concatenate([x2, z], -1)
        x2 = jax.jit(unit)(jax.jit(lambda b, p: b.out(jax.nn.relu(b.hidden(p))))(block, pair))
    np.testing.assert_allclose(scores[:8], np.einsum("bcd,bcd->bc", x2, z), atol=1e-5)


@pytest.mark.parametrize(("kind", "count"), [("concat", 4), ("none", 0)])
def test_module_3_makes_the_cross_attention_and_a_saved_model_keeps_it(
    dataset, one_device, tmp_path, kind, count
):
    save_model(new_model(dataset, one_device), tmp_path / "pretrain" / "model")
    out = tmp_path / kind
    folders = {"prepare": dataset.path, "pretrain": tmp_path / "pretrain"}
    model = without(cross_attention=kind)
    initialize(InitializeConfig(), context(out, one_device, folders, seed=3, model=model))
    found = load_model(out / "model", one_device)
    assert found.config == without(cross_attention=kind)
    assert sum(name.startswith("cross_attention") for name in weights(found)) == count


def test_blocks_without_attention_broadcast_their_axes():
    queries = jnp.arange(24, dtype=jnp.float32).reshape(2, 1, 2, DIM)
    bag = NoAttention().memory(jnp.ones((2, 4, 3, DIM)), jnp.ones((2, 4, 3), bool))
    found = NoAttention().attend(queries, bag)
    np.testing.assert_array_equal(found, np.repeat(queries, 4, 1))
    joined = shaken(Concatenation(DIM, rngs=nnx.Rngs(0))).join(queries[:, :, 0], bag)
    assert joined.shape == (2, 4, DIM)


def test_random_negatives_have_the_given_number_and_are_equally_likely():
    candidates = np.random.default_rng(0).random((5, 7)) < 0.7
    candidates[2] = False
    candidates[3] = np.arange(7) < 2
    counts = np.zeros_like(candidates, int)
    for seed in range(300):
        drawn = thinned(candidates, 3, np.random.default_rng(seed))
        assert not (drawn & ~candidates).any()
        np.testing.assert_array_equal(drawn.sum(1), np.minimum(candidates.sum(1), 3))
        counts += drawn
    expected = 300 * np.minimum(3 / np.maximum(candidates.sum(1), 1), 1)
    assert (np.abs(counts - expected[:, None])[candidates] < 45).all()


def test_random_negatives_change_no_other_draw_of_module_1(dataset):
    hard = PretrainConfig(batch_size=8)
    batches = [
        Batches(dataclasses.replace(hard, hard_negatives=hardness), dataset, Loader(dataset), 0)(2)
        for hardness in (True, False)
    ]
    np.testing.assert_array_equal(batches[0].positives, batches[1].positives)
    np.testing.assert_array_equal(batches[0].points.slots, batches[1].points.slots)
    assert (batches[1].negatives.sum(1) == np.minimum(batches[0].negatives.sum(1), 3)).all()
    assert not (batches[1].negatives & ~batches[0].negatives).any()


def test_a_stage_in_which_nothing_trains_is_rejected(dataset, one_device, tmp_path):
    frozen = OptimizerConfig(image_encoder="frozen", text_encoder="frozen")
    config = PretrainConfig(batch_size=8, optimizer=frozen)
    with pytest.raises(InputError, match=r"pretrain: both .* frozen .*say --pretrain\.epochs=0"):
        model, folders = without(self_attention="none"), {"prepare": dataset.path}
        pretrain(config, context(tmp_path, one_device, folders, model=model))
    check_trains({"self_attention": {"query": np.ones(1)}}, "pretrain")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sum_of_z_and_eta_is_a_combination_with_another_alpha(mesh, dtype):
    table = label_table.initialize(
        jax.random.key(0), SIZES["label"], DIM, mesh, config=TableConfig(dtype=dtype)
    )
    ids = jnp.arange(SIZES["label"])
    rows = label_table.gather(table.rows, ids, mesh)
    z = np.random.default_rng(1).normal(size=(len(ids), DIM)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    wanted = z + np.asarray(rows.eta)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(jax.jit(label_table.add)(rows, z), wanted, atol=1e-6)
    again = label_table.gather(label_table.as_combined(table.rows), ids, mesh)
    np.testing.assert_allclose(jax.jit(label_table.combine)(again, z), wanted, atol=1e-6)
    zero = Rows(jnp.zeros((1, DIM)), jnp.zeros(1))
    np.testing.assert_allclose(jax.jit(label_table.add)(zero, z[:1]), z[:1], atol=1e-6)
