"""Packed texts: each occurs once, little is padding, and texts do not affect one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mufin_jax.data.bags import TEXTS_A_ROW
from mufin_jax.data.packing import pack_texts
from mufin_jax.encoders.distilbert import DistilBert, DistilBertConfig


def texts_of(lengths, seed=0):
    lengths = np.asarray(lengths, np.int32)
    tokens = np.random.default_rng(seed).integers(1, 50, (len(lengths), 33)).astype(np.int32)
    return np.where(np.arange(33)[None] < lengths[:, None], tokens, 0), lengths


def packed_on_device(tokens, lengths):
    rows, places, homes = pack_texts(np.asarray(tokens), np.asarray(lengths))
    return jnp.asarray(rows), jnp.asarray(places), homes


LENGTHS = {
    "many": np.random.default_rng(3).integers(2, 33, 101),
    "short": np.full(50, 3),
    "one": [7],
    "long": [33, 33, 32],
    "none": [],
    "empty": [0, 4, 0],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_text_is_complete_at_its_row_and_place(lengths):
    tokens, lengths = texts_of(lengths)
    rows, places, homes = pack_texts(tokens, lengths)
    assert rows.shape == places.shape
    assert len(set(homes.tolist())) == len(homes)
    for text, home in enumerate(homes):
        row, place = divmod(int(home), TEXTS_A_ROW)
        where = np.flatnonzero(places[row] == place)
        np.testing.assert_array_equal(rows[row, where], tokens[text, : lengths[text]])
        assert not len(where) or where[-1] - where[0] == len(where) - 1  # neighbours
    assert (places >= 0).sum() == lengths.sum()


def test_little_of_a_batch_of_titles_is_padding():
    # Lengths of titles: 18 tokens on average, 32 at most.
    lengths = np.clip(np.random.default_rng(1).gamma(6, 3, 3000), 4, 32).astype(np.int32)
    rows, places, _ = pack_texts(*texts_of(lengths))
    assert rows.shape[1] == 64
    assert (places >= 0).sum() > 0.97 * places.size


def test_a_single_text_is_not_padded_to_the_maximal_length():
    assert pack_texts(*texts_of([10]))[0].shape == (1, 16)


def test_a_packed_text_gets_the_vector_that_it_gets_alone():
    config = DistilBertConfig(vocab=50, width=12, depth=2, heads=3, mlp=16, max_positions=33)
    bert = DistilBert(config, nnx.Rngs(0))
    tokens, lengths = map(jnp.asarray, texts_of([5, 33, 1, 12, 9, 2, 2, 2, 2, 2, 2, 2]))
    alone = jax.jit(lambda bert: bert(tokens, lengths))(bert)
    rows, places, homes = packed_on_device(tokens, lengths)
    packed = jax.jit(lambda bert: bert.packed(rows, places, TEXTS_A_ROW))(bert)
    packed = np.asarray(packed).reshape(-1, 12)
    np.testing.assert_allclose(packed[homes], alone, atol=1e-5)
    free = np.setdiff1d(np.arange(len(packed)), homes)
    assert not packed[free].any()  # places without a text


def test_the_gradient_of_a_packed_text_does_not_depend_on_its_neighbours():
    config = DistilBertConfig(vocab=50, width=12, depth=2, heads=3, mlp=16, max_positions=33)
    bert = DistilBert(config, nnx.Rngs(0))
    graphdef, state = nnx.split(bert)
    tokens, lengths = map(jnp.asarray, texts_of([5, 20, 12, 9]))
    rows, places, homes = packed_on_device(tokens, lengths)
    weight = np.random.default_rng(2).normal(size=(4, 12)).astype(np.float32)

    def alone(state):
        return (nnx.merge(graphdef, state)(tokens, lengths) * weight).sum()

    def packed(state):
        found = nnx.merge(graphdef, state).packed(rows, places, TEXTS_A_ROW).reshape(-1, 12)
        return (found[homes] * weight).sum()

    ours, wanted = jax.jit(jax.grad(packed))(state), jax.jit(jax.grad(alone))(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, wanted)
