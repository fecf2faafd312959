"""Claims about the attention block A(Q, K): the textbook's numbers, factored or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from small import shaken

from mufin_jax.model.attention import AttentionBlock
from mufin_jax.runtime.distributed.mesh import BY_ROW, REPLICATED, over_devices

DIM = 6
run = jax.jit(lambda block, queries, keys, mask: block(queries, keys, mask))
cross = jax.jit(lambda block, queries, memory: block.attend(queries, memory))


def random_block(heads: int) -> AttentionBlock:
    return shaken(AttentionBlock(DIM, heads, rngs=nnx.Rngs(0)), seed=heads)


def bags(count: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw random bags: the first is full, and each next one has one descriptor less."""
    rng = np.random.default_rng(seed)
    sizes = width - np.arange(count) % width
    vectors = rng.normal(size=(count, width, DIM)).astype(np.float32)
    return vectors, np.arange(width) < sizes[:, None]


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def textbook(block: AttentionBlock, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """LayerNorm(Q + concat_g(softmax(q_g k_g^T / sqrt(e)) v_g) O) of one bag, head by head."""

    def linear(layer: nnx.Linear, x: np.ndarray) -> np.ndarray:
        return x @ np.array(layer.kernel[...]) + np.array(layer.bias[...])

    q, k, v = (
        linear(getattr(block, name), x).astype(np.float64)
        for name, x in (("query", queries), ("key", keys), ("value", keys))
    )
    size = DIM // block.heads
    heads = []
    for part in (slice(g * size, (g + 1) * size) for g in range(block.heads)):
        logits = np.exp(q[:, part] @ k[:, part].T / np.sqrt(size))
        heads.append(logits / logits.sum(1, keepdims=True) @ v[:, part])
    out = queries + linear(block.out, np.concatenate(heads, 1))
    return layer_norm(out, np.array(block.norm.scale[...]), np.array(block.norm.bias[...]))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_attention_is_the_textbooks_for_any_number_of_heads(heads):
    block = random_block(heads)
    (queries, _), (keys, mask) = bags(4, 2, seed=0), bags(4, 5, seed=1)
    actual = run(block, queries, keys, mask)
    for i in range(4):
        expected = textbook(block, queries[i], keys[i][mask[i]])
        np.testing.assert_allclose(actual[i], expected, atol=1e-5)


def test_a_new_block_is_layer_norm_of_q_plus_softmax_qk_k():
    block = AttentionBlock(DIM, rngs=nnx.Rngs(0))
    (queries, _), (keys, mask) = bags(3, 4, seed=2), bags(3, 3, seed=3)
    actual = run(block, queries, keys, mask)
    for i in range(3):
        k = keys[i][mask[i]]
        weights = np.exp(queries[i] @ k.T / np.sqrt(DIM))
        attended = queries[i] + weights / weights.sum(1, keepdims=True) @ k
        np.testing.assert_allclose(actual[i], layer_norm(attended, 1, 0), atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_memories_made_once_a_label_give_what_each_pair_alone_gives(heads):
    block = random_block(heads)
    (points, _), (labels, mask) = bags(3, 2, seed=4), bags(4, 5, seed=5)
    memory = jax.jit(lambda block, keys, mask: block.memory(keys, mask))(block, labels, mask)
    actual = cross(block, points[:, None], jax.tree.map(lambda leaf: leaf[None], memory))
    assert actual.shape == (3, 4, 2, DIM)
    for i in range(3):
        for label in range(4):
            expected = textbook(block, points[i], labels[label][mask[label]])
            np.testing.assert_allclose(actual[i, label], expected, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_the_order_of_queries_carries_over_and_that_of_keys_is_lost(heads):
    block = random_block(heads)
    (queries, _), (keys, mask) = bags(2, 4, seed=6), bags(2, 5, seed=7)
    plain = run(block, queries, keys, mask)
    of_queries, of_keys = [2, 0, 3, 1], [4, 2, 0, 3, 1]
    moved = run(block, queries[:, of_queries], keys[:, of_keys], mask[:, of_keys])
    np.testing.assert_allclose(moved, plain[:, of_queries], atol=1e-6)


def test_the_content_of_padding_has_no_effect_even_on_gradients():
    block = random_block(2)
    (queries, _), (keys, mask) = bags(3, 2, seed=8), bags(3, 4, seed=9)
    loud = np.where(mask[..., None], keys, 1e4).astype(np.float32)
    np.testing.assert_array_equal(run(block, queries, loud, mask), run(block, queries, keys, mask))
    grads = jax.grad(lambda keys: run(block, queries, keys, mask)[..., 0].sum())(loud)
    assert np.abs(grads[mask]).min() > 0 and not np.any(grads[~mask])


def test_over_an_empty_bag_attention_adds_nothing():
    block = random_block(2)
    (queries, _), (keys, _) = bags(2, 3, seed=10), bags(2, 4, seed=11)
    actual = run(block, queries, keys, np.zeros((2, 4), bool))
    expected = layer_norm(queries, np.array(block.norm.scale[...]), np.array(block.norm.bias[...]))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_weights_of_attention_sum_to_one_over_real_keys():
    block = random_block(3)
    (queries, _), (keys, mask) = bags(3, 2, seed=12), bags(3, 5, seed=13)
    weights = np.asarray(
        jax.jit(lambda block, q, k, m: block.weights(q, block.memory(k, m)))(
            block, queries, keys, mask
        )
    )
    assert weights.shape == (3, 3, 2, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not weights[np.broadcast_to(~mask[:, None, None], weights.shape)].any()


def test_pmap_shard_map_and_one_device_give_the_same_numbers(mesh):
    block = random_block(2)
    (queries, _), (keys, mask) = bags(16, 3, seed=14), bags(16, 4, seed=15)
    alone = run(block, queries, keys, mask)
    specs = (REPLICATED, BY_ROW, BY_ROW, BY_ROW)
    assert BY_ROW == PartitionSpec("devices")
    local = jax.jit(over_devices(lambda block, *bags: block(*bags), mesh, specs, BY_ROW))
    sharded = local(block, queries, keys, mask)
    assert len(sharded.sharding.device_set) == 8
    parts = [x.reshape(8, 2, *x.shape[1:]) for x in (queries, keys, mask)]
    mapped = jax.pmap(lambda *bags: block(*bags))(*parts)
    assert len(mapped.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, alone, atol=1e-6)
    np.testing.assert_allclose(jnp.reshape(mapped, alone.shape), alone, atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_rejected():
    with pytest.raises(ValueError, match="heads=4 must divide dim=6"):
        AttentionBlock(DIM, 4, rngs=nnx.Rngs(0))
