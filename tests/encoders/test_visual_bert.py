"""VisualBERT as an encoder: it agrees with Hugging Face's."""

import dataclasses
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from places import GOLDEN
from safetensors.numpy import load_file, save_file
from small import shaken

from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.pretrained import load_text_encoder
from mufin_jax.encoders.registry import is_joint, new_encoder
from mufin_jax.encoders.visual_bert import VisualBert, VisualBertConfig
from mufin_jax.runtime.errors import InputError

TINY = VisualBertConfig(
    vocab=29, width=12, depth=3, heads=3, mlp=20, max_positions=8, visual=5, init_std=None
)


@pytest.fixture(autouse=True)
def exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def asked():
    """Tokens, vectors of pictures, and which of both are real."""
    rng = np.random.default_rng(0)
    tokens, vectors = rng.integers(0, 29, (3, 7)), rng.normal(size=(3, 4, 5))
    real = np.arange(7) < np.array([[7], [2], [4]])
    shown = np.arange(4) < np.array([[2], [4], [0]])
    return tokens.astype(np.int32), real, vectors.astype(np.float32), shown


def shaken_encoder():
    """The tiny encoder with random weights, on the device."""
    graphdef, state = nnx.split(shaken(new_encoder(TINY, nnx.Rngs(0))))
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))


def test_texts_with_pictures_without_any_and_pictures_alone_agree_with_hugging_face():
    expected = np.load(GOLDEN / "visual_bert" / "expected.npz")
    tokens, vectors = expected["tokens"], expected["vectors"]
    real = np.arange(tokens.shape[1]) < expected["lengths"][:, None]
    shown = np.arange(vectors.shape[1]) < expected["pictures"][:, None]
    assert 2 in expected["lengths"] and 0 in expected["pictures"]
    encoder = load_text_encoder(GOLDEN / "visual_bert")
    found = jax.jit(encoder)(tokens, real, vectors, shown)
    np.testing.assert_allclose(found, expected["pooled"], rtol=0, atol=1e-5)


def test_a_bert_agrees_with_hugging_face_on_texts_and_gets_a_new_map_of_pictures(caplog):
    expected = np.load(GOLDEN / "bert" / "expected.npz")
    tokens = expected["tokens"]
    real = np.arange(tokens.shape[1]) < expected["lengths"][:, None]
    with caplog.at_level(logging.WARNING):
        encoder = load_text_encoder(GOLDEN / "bert", joint=True)
    assert "no weights for visual.bias, visual.kernel, visual_positions" in caplog.text
    vectors, shown = np.ones((5, 2, 2048), np.float32), np.zeros((5, 2), bool)
    encode = jax.jit(encoder)
    np.testing.assert_allclose(
        encode(tokens, real, vectors, shown), expected["pooled"], rtol=0, atol=1e-5
    )
    assert np.abs(encode(tokens, real, vectors, ~shown) - expected["pooled"]).max() > 0.1
    np.testing.assert_array_equal(encoder.visual_types[...], encoder.types[...])
    again = load_text_encoder(GOLDEN / "bert", joint=True)
    np.testing.assert_array_equal(again.visual.kernel[...], encoder.visual.kernel[...])


def test_no_two_weights_of_a_bert_share_their_memory():
    encoder = load_text_encoder(GOLDEN / "bert", joint=True)
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(encoder)))
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves]  # a step overwrites each of them
    assert len(set(places)) == len(places)


def test_a_visual_bert_that_lacks_one_of_its_parts_is_rejected(tmp_path):
    shutil.copytree(GOLDEN / "visual_bert", tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    del weights["visual_bert.embeddings.visual_projection.bias"]
    save_file(weights, tmp_path / "cut" / "model.safetensors")
    with pytest.raises(InputError, match=r"not filled: visual\.bias"):
        load_text_encoder(tmp_path / "cut")


def test_padding_and_the_order_of_pictures_leave_a_vector_unchanged(asked):
    encoder = shaken_encoder()
    encode = jax.jit(encoder)
    wanted, (tokens, real, vectors, shown) = encode(*asked), asked
    tokens, vectors = np.where(real, tokens, 11), np.where(shown[..., None], vectors, 1e3)
    wider = [np.pad(part, ((0, 0), (0, 9))) for part in (tokens, real)]  # beyond max_positions
    turned = [part[:, ::-1] for part in (vectors, shown)]
    np.testing.assert_allclose(encode(*wider, *turned), wanted, atol=1e-5)
    assert np.abs(np.asarray(wanted)).max() > 0.1


def test_each_picture_that_is_shown_counts(asked):
    graphdef, state = nnx.split(shaken_encoder())
    tokens, real, vectors, shown = map(jnp.asarray, asked)

    def total(vectors):
        return nnx.merge(graphdef, state)(tokens, real, vectors, shown).sum()

    moved = np.abs(jax.jit(jax.grad(total))(vectors)).max(-1)
    np.testing.assert_array_equal(moved > 1e-6, shown)


@pytest.mark.parametrize(
    ("how", "close"),
    [({"layers": "scan", "remat": True}, 1e-5), ({"dtype": "bfloat16"}, 0.05)],
)
def test_vectors_are_float32_and_the_same_in_every_way_to_compute_them(how, close, asked):
    encoder = shaken_encoder()
    other = dataclasses.replace(TINY, **how)
    graphdef = nnx.graphdef(abstract_module(lambda rngs: new_encoder(other, rngs)))
    found = jax.jit(nnx.merge(graphdef, nnx.state(encoder)))(*asked)
    wanted = jax.jit(encoder)(*asked)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=np.abs(wanted).max() * close)


def test_last_trains_the_last_block_and_the_pooler():
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(new_encoder(TINY, nnx.Rngs(0))))]
    chosen = {path[0] for path in paths if trainable(path, "last", TINY.depth)}
    assert chosen == {"blocks", "pooling"}


def test_bert_large_with_pictures_has_its_published_number_of_weights():
    # BERT-large has 335,141,888 parameters; types, positions and a map of pictures come on top.
    module = abstract_module(lambda rngs: VisualBert(VisualBertConfig.large(), rngs))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))
    assert count == 335_141_888 + 1024 * (2 + 512 + 2048 + 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bypass_transformer": True}, "bypass_transformer is True"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "expected 'absolute'"),
        ({"type_vocab_size": 1}, "types=1; expected one for pictures, too: 2"),
        ({"visual_embedding_dim": 0}, "visual=0"),
    ],
)
def test_a_network_that_is_not_implemented_is_rejected_with_the_value(values, message):
    with pytest.raises(InputError, match=message):
        VisualBertConfig.from_hf({"model_type": "visual_bert", **values})


def test_only_visual_bert_is_joint():
    assert is_joint(TINY) and not is_joint(DistilBertConfig())
