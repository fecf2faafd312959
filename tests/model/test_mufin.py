"""Claims about the model: describe, embed, adapt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import CONFIG, new_model, weights

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, Pool
from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Vectors
from mufin_jax.model.attention import Memory
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.heads import Embedding, new_cross_attention, new_self_attention
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import _check_texts, load_model, save_model
from mufin_jax.runtime.distributed.mesh import by_row, put
from mufin_jax.runtime.errors import InputError

COUNT, WIDTH, DIM = 8, 4, 6
describe = jax.jit(lambda model, pool: model.describe(pool))
embed = jax.jit(lambda model, vectors, bags: model.embed(vectors, bags))
adapt = jax.jit(lambda model, points, pairs: model.adapt(points, pairs))


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(20, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def bags():
    """Make bags of 3, 4, 0, 1, 2, ... descriptors."""
    rng = np.random.default_rng(1)
    mask = np.arange(WIDTH) < np.array([3, 4, 0, 1, 2, 3, 0, 4])[:, None]
    slots = np.stack([rng.permutation(20)[:WIDTH] for _ in range(COUNT)])
    return Bags(np.where(mask, slots, 0).astype(np.int32), mask)


def test_padding_a_bag_leaves_its_embedding_unchanged(model, vectors, bags):
    padding = np.full((COUNT, 3), 7, np.int32)  # a slot that another bag fills for real
    wider = Bags(
        np.concatenate([padding, bags.slots], 1),
        np.concatenate([np.zeros((COUNT, 3), bool), bags.mask], 1),
    )
    plain, padded = embed(model, vectors, bags), embed(model, vectors, wider)
    np.testing.assert_allclose(padded.vector, plain.vector, atol=1e-6)
    real = np.asarray(plain.bag)[bags.mask]
    np.testing.assert_allclose(np.asarray(padded.bag)[wider.mask], real, atol=1e-5)


def test_the_order_of_descriptors_does_not_matter(model, vectors, bags):
    order = [2, 0, 3, 1]
    turned = Bags(bags.slots[:, order], bags.mask[:, order])
    plain, moved = embed(model, vectors, bags), embed(model, vectors, turned)
    np.testing.assert_allclose(moved.vector, plain.vector, atol=1e-6)
    np.testing.assert_allclose(moved.bag, np.asarray(plain.bag)[:, order], atol=1e-5)


def test_vector_embeddings_are_unit_sums_of_the_bag(model, vectors, bags):
    result = embed(model, vectors, bags)
    for i, mask in enumerate(bags.mask):
        total = np.asarray(result.bag)[i, mask].sum(0)
        expected = total / np.linalg.norm(total) if mask.any() else np.zeros(DIM)
        np.testing.assert_allclose(result.vector[i], expected, atol=1e-6)


def test_an_empty_bag_is_zero_and_its_gradients_are_finite(model, vectors, bags):
    empty = ~bags.mask.any(1)
    graphdef, state = nnx.split(model)
    labels = embed(model, vectors, bags)
    direction = np.random.default_rng(2).normal(size=DIM).astype(np.float32)

    @jax.jit
    def both(state, vectors):
        model = nnx.merge(graphdef, state)
        points = model.embed(vectors, bags)
        memory = model.memory(labels)  # of the labels, two are empty
        every = jax.tree.map(lambda leaf: jnp.stack([leaf] * COUNT), memory)
        return points.vector, model.adapt(points, every)

    def total(state, vectors):
        x1, x2 = both(state, vectors)
        return (x1 @ direction).sum() + (x2 @ direction).sum()

    x1, x2 = both(state, vectors)
    assert empty.sum() == 2 and not x1[empty].any() and not x2[empty].any()
    np.testing.assert_allclose(np.linalg.norm(x2[~empty], axis=-1), 1, atol=1e-5)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(state, vectors)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    used = np.unique(bags.slots[bags.mask])
    moved = np.abs(gradients[1]).sum(1) > 0
    assert set(np.flatnonzero(moved)) == set(used)


def test_adapting_many_pairs_at_once_equals_adapting_each_alone(model, vectors, bags):
    points = embed(model, vectors, bags)
    memory = jax.jit(lambda model, labels: model.memory(labels))(model, points)
    chosen = np.random.default_rng(3).integers(0, COUNT, (COUNT, 3))
    x2 = adapt(model, points, jax.tree.map(lambda leaf: leaf[chosen], memory))
    block = jax.jit(lambda block, q, k, m: block(q, k, m))
    for place in range(3):
        labels = chosen[:, place]
        pairs = block(model.cross_attention, points.bag, points.bag[labels], bags.mask[labels])
        total = np.where(bags.mask[..., None], pairs, 0).sum(1)
        norms = np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
        np.testing.assert_allclose(x2[:, place], total / norms, atol=1e-5)


def test_eight_devices_describe_embed_and_adapt_like_one(dataset, mesh, one_device):
    results = []
    for devices in (mesh, one_device):
        model = new_model(dataset, devices)
        pool, (bags,) = Loader(dataset, "both", devices=8).batch(
            [(dataset.train, np.arange(COUNT))]
        )
        vectors = describe(model, put(pool, by_row(devices)))
        points = embed(model, vectors, put(bags, by_row(devices)))
        memory = jax.tree.map(lambda leaf: leaf[:, None], model.memory(points))
        results.append((vectors, points, adapt(model, points, put(memory, by_row(devices)))))
    eight, one = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), eight, one)
    assert len(eight[1].vector.sharding.device_set) == 8


def test_texts_come_first_and_each_descriptor_is_encoded_by_its_own_encoder(dataset, model):
    pool, _ = Loader(dataset, "both", devices=8).batch([(dataset.labels, np.arange(6))])
    vectors = describe(model, pool)
    texts = describe(model, Pool(pool.texts, None))
    images = describe(model, Pool(None, pool.images))
    np.testing.assert_allclose(vectors, np.concatenate([texts, images]), atol=1e-6)
    hidden = jax.jit(lambda model, *pool: model.text_encoder.packed(*pool, TEXTS_A_ROW))(
        model, pool.texts.tokens, pool.texts.places
    )
    # 12 wide to D = 6: the maximum of each pair of neighbours.
    np.testing.assert_allclose(texts, np.asarray(hidden).reshape(-1, DIM, 2).max(-1), atol=1e-6)


@pytest.mark.parametrize("modalities", ["text", "images"])
def test_a_model_of_one_kind_has_no_encoder_for_the_other(dataset, mesh, modalities):
    config = dataclasses.replace(CONFIG, modalities=modalities, reduce="linear")
    model = new_model(dataset, mesh, config)
    assert (model.image_encoder is None) == (modalities == "text")
    assert (model.text_encoder is None) == (modalities == "images")
    assert len(model.depths()) == 1
    pool, _ = Loader(dataset, modalities, devices=8).batch([(dataset.train, np.arange(9))])
    vectors = jax.eval_shape(lambda model, pool: model.describe(pool), model, pool)
    wanted = TEXTS_A_ROW * len(pool.texts.tokens) if modalities == "text" else len(pool.images.rows)
    assert vectors.shape == (wanted, DIM)


def test_ready_vectors_replace_pixels(dataset, mesh):
    model = new_model(dataset, mesh, vector_width=9)
    ready = np.random.default_rng(4).normal(size=(8, 9)).astype(np.float32)
    vectors = describe(model, Pool(None, Vectors(ready)))
    layer = model.image_encoder.blocks[0]
    mapped = ready @ np.array(layer.kernel[...]) + np.array(layer.bias[...])
    # 9 to 6: run j covers floor(1.5 j) to ceil(1.5 (j + 1)) - 1, two entries each.
    starts = np.array([0, 1, 3, 4, 6, 7])
    expected = np.maximum(mapped[:, starts], mapped[:, starts + 1])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("width", [9, DIM])
def test_ready_text_vectors_replace_tokens(dataset, mesh, width):
    model = new_model(dataset, mesh, vector_width=7, text_vector_width=width)
    ready = np.random.default_rng(4).normal(size=(8, width)).astype(np.float32)
    vectors = describe(model, Pool(Vectors(ready), None))
    layer = model.text_encoder.blocks[0]
    mapped = ready @ np.array(layer.kernel[...]) + np.array(layer.bias[...])
    if width == 9:
        starts = np.array([0, 1, 3, 4, 6, 7])
        mapped = np.maximum(mapped[:, starts], mapped[:, starts + 1])
    np.testing.assert_allclose(vectors, mapped, atol=1e-5)
    images = np.random.default_rng(5).normal(size=(16, 7)).astype(np.float32)
    both = describe(model, Pool(Vectors(ready), Vectors(images)))
    assert both.shape == (24, DIM)
    np.testing.assert_allclose(both[:8], vectors, atol=1e-6)  # texts come first
    assert model.depths() == {"image_encoder": 1, "text_encoder": 1}


def test_untrained_ready_vectors_of_the_models_width_are_unchanged(dataset, mesh):
    model = Mufin(
        CONFIG, vocab=0, vector_width=DIM, text_vector_width=DIM, processing=dataset.processing,
        mesh=mesh, rngs=nnx.Rngs(0),
    )  # fmt: skip
    texts, images = np.random.default_rng(4).normal(size=(2, 8, DIM)).astype(np.float32)
    vectors = describe(model, Pool(Vectors(texts), Vectors(images)))
    np.testing.assert_array_equal(vectors, np.concatenate([texts, images]))


def test_a_saved_model_of_ready_texts_is_loaded(dataset, mesh, tmp_path):
    model = new_model(dataset, mesh, vector_width=7, text_vector_width=9)
    save_model(model, tmp_path)
    again = load_model(tmp_path, mesh)
    assert (again.vector_width, again.text_vector_width) == (7, 9)
    found, wanted = weights(again), weights(model)
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)


def test_embeddings_and_memories_are_pytrees():
    tree = Embedding(jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool), jnp.ones((2, 4)))
    assert jax.tree.map(lambda leaf: leaf[:1], tree).bag.shape == (1, 3, 4)
    memory = Memory(jnp.ones((2, 3, 1, 4)), jnp.ones((2, 3, 1, 4)), jnp.ones((2, 3), bool))
    assert len(jax.tree.leaves(memory)) == 3


def test_labels_that_show_nothing_are_rejected():
    with pytest.raises(InputError, match=r"without model\.label_images leaves labels empty"):
        ModelConfig(modalities="images", label_images=False)


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"heads": 0}, {"dim": 0}])
def test_widths_that_no_attention_block_can_have_are_rejected(wrong):
    with pytest.raises(InputError, match="heads must divide dim"):
        ModelConfig(**wrong)


def test_texts_may_be_as_long_as_the_text_encoder_takes(dataset):
    most = dataset.texts.shape[1]
    for positions in (most, most - 1):
        text = dataclasses.replace(CONFIG.text, max_positions=positions)
        config = dataclasses.replace(CONFIG, text=text)
        if positions == most:
            _check_texts(dataset, config)
            continue
        with pytest.raises(InputError, match=f"texts have up to {most} tokens, but the text"):
            _check_texts(dataset, config)


def test_both_blocks_have_the_heads_of_the_settings():
    for cross in ("attention", "residual"):
        config = dataclasses.replace(CONFIG, heads=3, cross_attention=cross)
        for new in (new_self_attention, new_cross_attention):
            assert new(config, nnx.Rngs(0)).heads == 3


def test_the_halves_of_a_model_share_its_weights_and_have_nothing_else(one_device, dataset):
    model = new_model(dataset, one_device, CONFIG)
    halves = weights(model.encoder()) | weights(model.heads())
    assert len(weights(model.encoder())) + len(weights(model.heads())) == len(halves)
    assert halves.keys() == weights(model).keys()
    assert {name.split("/")[0] for name in weights(model.heads())} == {
        "self_attention",
        "cross_attention",
    }
    assert model.heads().self_attention is model.self_attention
    assert model.encoder().image_encoder is model.image_encoder
