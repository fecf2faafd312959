"""The text encoder: it agrees with Hugging Face's DistilBERT, and padding has no effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from places import GOLDEN

from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.distilbert import DistilBert, DistilBertConfig
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.pretrained import load_text_encoder
from mufin_jax.runtime.errors import InputError

GOLDEN = GOLDEN / "distilbert"
TINY = DistilBertConfig(vocab=29, width=12, depth=2, heads=3, mlp=20, max_positions=8)


@pytest.fixture(autouse=True)
def exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def bert():
    return DistilBert(TINY, nnx.Rngs(0))


@pytest.fixture
def texts():
    tokens = jax.random.randint(jax.random.key(1), (3, 6), 1, 29)
    return tokens, jnp.array([6, 2, 4])


def test_distilbert_agrees_with_hugging_face_on_ragged_texts():
    expected = np.load(GOLDEN / "expected.npz")
    tokens, lengths = jnp.asarray(expected["tokens"]), jnp.asarray(expected["lengths"])
    bert = load_text_encoder(str(GOLDEN))
    real = np.arange(tokens.shape[1]) < expected["lengths"][:, None]
    hidden = np.asarray(jax.jit(bert.hidden)(tokens, lengths))
    np.testing.assert_allclose(hidden[real], expected["hidden"][real], rtol=0, atol=1e-5)
    means = jax.jit(bert)(tokens, lengths)
    np.testing.assert_allclose(means, expected["mean"], rtol=0, atol=1e-5)


def test_tokens_after_the_end_of_a_text_are_ignored(bert, texts):
    tokens, lengths = texts
    behind = jnp.arange(6)[None] >= lengths[:, None]
    scribbled = jnp.where(behind, 28 - tokens, tokens)
    longer = jnp.pad(tokens, ((0, 0), (0, 2)))
    encode = jax.jit(bert)
    expected = encode(tokens, lengths)
    np.testing.assert_allclose(encode(scribbled, lengths), expected, atol=1e-6)
    np.testing.assert_allclose(encode(longer, lengths), expected, atol=1e-6)


def test_every_real_token_counts(bert, texts):
    tokens, lengths = np.array(texts[0]), texts[1]
    encode = jax.jit(bert)
    before = encode(tokens, lengths)
    for row, column in ((0, 5), (1, 1), (2, 0)):
        changed = tokens.copy()
        changed[row, column] = (changed[row, column] + 1) % 29
        moved = np.abs(encode(changed, lengths) - before).max(axis=1)
        assert moved[row] > 1e-4 and np.delete(moved, row).max() == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_empty_text_is_zero_and_leaves_gradients_finite(bert, texts, dtype):
    config = DistilBertConfig(**{**vars(TINY), "dtype": dtype})
    graphdef = nnx.graphdef(abstract_module(lambda rngs: DistilBert(config, rngs)))
    tokens, state = texts[0], nnx.state(bert)
    lengths = jnp.array([0, 2, 0])

    def loss(state):
        vectors = nnx.merge(graphdef, state)(tokens, lengths)
        return (vectors**2).sum(), vectors

    gradients, vectors = jax.jit(jax.grad(loss, has_aux=True))(state)
    assert vectors.dtype == jnp.float32
    vectors = np.asarray(vectors)
    assert (vectors[[0, 2]] == 0).all() and np.abs(vectors[1]).max() > 0
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()


def test_head_after_trunk_gives_what_the_encoder_gives(bert, texts):
    tokens, lengths = texts
    places = jnp.where(jnp.arange(tokens.shape[1])[None] < lengths[:, None], 0, -1)
    states = jax.jit(bert.trunk)(tokens, places)
    assert states.shape == (3, 6, 12)
    head = jax.jit(lambda bert, states: bert.head(states, places, 1)[:, 0])(bert, states)
    whole = jax.jit(bert)(tokens, lengths)
    np.testing.assert_allclose(head, whole, atol=1e-6)


def test_a_text_beyond_the_last_position_is_rejected(bert):
    with pytest.raises(ValueError, match="9 tokens"):
        bert(jnp.ones((2, 9), int), jnp.array([9, 1]))


def test_only_the_last_block_trains_in_mode_last(bert):
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(bert))]
    chosen = [path for path in paths if trainable(path, "last", depth=2)]
    assert {path[:2] for path in chosen} == {("blocks", 1)} and len(chosen) == 16


@pytest.mark.parametrize(
    "change, message",
    [({"vocab": 0}, "vocab=0"), ({"heads": 7}, "heads=7"), ({"max_positions": -1}, "=-1")],
)
def test_an_invalid_distilbert_is_rejected_with_the_value(change, message):
    with pytest.raises(InputError, match=message):
        DistilBertConfig(**{**vars(TINY), **change})


def test_the_base_size_has_its_published_number_of_weights():
    # Hugging Face's DistilBertModel: 66,362,880.
    bert = abstract_module(lambda rngs: DistilBert(DistilBertConfig.base(), rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(bert))) == 66_362_880
