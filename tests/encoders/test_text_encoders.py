"""BERT, RoBERTa, XLM-RoBERTa, MPNet and ModernBERT: agreement with sentence-transformers'."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from places import GOLDEN
from small import shaken

from mufin_jax.data.packing import pack_texts
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.bert import BertConfig
from mufin_jax.encoders.efficientnet_lite import EfficientNetLiteConfig
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.modernbert import ModernBertConfig
from mufin_jax.encoders.mpnet import MpnetConfig, buckets
from mufin_jax.encoders.pretrained import load_text_encoder
from mufin_jax.encoders.registry import new_encoder
from mufin_jax.encoders.roberta import RobertaConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.runtime.errors import InputError

CHECKPOINTS = ["minilm", "roberta", "xlm_roberta", "mpnet", "modernbert"]
TITLES = ["A red chair", "lamp 42", "the Lamp's chair  and table", "red", "chair lamp " * 80]
SIZES = {"vocab": 29, "width": 12, "depth": 3, "heads": 3, "mlp": 20, "max_positions": 9}
TINY = {
    "bert": BertConfig(**SIZES, normalise=True),
    "roberta": RobertaConfig(**SIZES, pooling="last"),
    "mpnet": MpnetConfig(**SIZES, pooling="cls", normalise=True),
    "modernbert": ModernBertConfig(**SIZES | {"depth": 4}, whole=(0, 2), neighbours=2),
}


@pytest.fixture(autouse=True)
def exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(params=["bert", "modernbert"])
def encoder(request):
    return shaken_encoder(TINY[request.param])


def shaken_encoder(config):
    """The encoder with random weights."""
    graphdef, state = nnx.split(shaken(abstract_module(lambda rngs: new_encoder(config, rngs))))
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))


@pytest.fixture
def texts():
    tokens = np.random.default_rng(0).integers(1, 29, (4, 7)).astype(np.int32)
    return jnp.asarray(tokens), jnp.array([7, 1, 0, 4])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_text_encoders_agree_with_the_reference_from_titles_to_vectors(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    tokens, lengths = Tokenizer.load(GOLDEN / name).encode(TITLES, 180)
    np.testing.assert_array_equal(lengths, expected["lengths"])
    width = expected["tokens"].shape[1]
    np.testing.assert_array_equal(tokens[:, :width], expected["tokens"])
    places = np.where(np.arange(width) < lengths[:, None], 0, -1)
    states, vectors = jax.jit(in_steps)(load_text_encoder(GOLDEN / name), tokens[:, :width], places)
    states = np.where(places[..., None] == 0, states, 0)
    np.testing.assert_allclose(states, expected["hidden"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(vectors, expected["vectors"], rtol=0, atol=1e-5)


def in_steps(encoder, tokens, places):
    """The last hidden state, and the vectors of one text a row."""
    below = encoder.trunk(tokens, places)
    return encoder.last(below, places), encoder.head(below, places, 1)[:, 0]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_packed_titles_have_the_vectors_of_the_reference(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    rows, places, slots = pack_texts(expected["tokens"][:4], expected["lengths"][:4], 16)
    encode = jax.jit(lambda encoder, *row: encoder.packed(*row, 8))
    vectors = encode(load_text_encoder(GOLDEN / name), rows, places)
    assert len(rows) < 4
    found = np.asarray(vectors).reshape(-1, vectors.shape[-1])[slots]
    np.testing.assert_allclose(found, expected["vectors"][:4], rtol=0, atol=1e-5)


def test_an_empty_text_is_zero_and_leaves_gradients_finite(encoder, texts):
    graphdef, state = nnx.split(encoder)

    def loss(state):
        vectors = nnx.merge(graphdef, state)(*texts)
        return (vectors**2).sum() + vectors.sum(), vectors

    gradients, vectors = jax.jit(jax.grad(loss, has_aux=True))(state)
    assert vectors.dtype == jnp.float32 and not np.asarray(vectors)[2].any()
    assert np.abs(np.asarray(vectors)[[0, 1, 3]]).max(1).min() > 0.01
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_tokens_after_the_end_of_a_text_are_ignored(encoder, texts):
    tokens, lengths = texts
    scribbled = jnp.where(jnp.arange(7)[None] >= lengths[:, None], 28 - tokens, tokens)
    encode = jax.jit(encoder)
    np.testing.assert_array_equal(encode(scribbled, lengths), encode(tokens, lengths))


@pytest.mark.parametrize("name", ["mpnet", "modernbert"])
def test_nothing_in_the_trunk_trains_where_the_last_block_trains(name, texts):
    graphdef, state = nnx.split(shaken_encoder(TINY[name]))
    depth = TINY[name].depth
    places = jnp.where(jnp.arange(7)[None] < texts[1][:, None], 0, -1)

    def two_ways(state, tokens):
        encoder = nnx.merge(graphdef, state)
        below = encoder.trunk(tokens, places)
        return below.sum(), (encoder.head(below, places, 1)[:, 0], encoder(*texts))

    used, (parts, whole) = jax.jit(jax.grad(two_ways, has_aux=True))(state, texts[0])
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    for path, gradient in nnx.to_flat_state(used):
        if np.asarray(gradient[...]).any():
            assert not trainable(path, "last", depth), path
    chosen = {path[0] for path, _ in nnx.to_flat_state(state) if trainable(path, "last", depth)}
    assert chosen in ({"blocks"}, {"blocks", "norm"})


@pytest.mark.parametrize(
    ("name", "how", "close"),
    [
        ("mpnet", {"layers": "scan", "remat": True}, 1e-5),
        ("modernbert", {"layers": "scan", "remat": True}, 1e-5),
        ("bert", {"dtype": "bfloat16"}, 0.05),
        ("modernbert", {"dtype": "bfloat16"}, 0.05),
    ],
)
def test_vectors_are_float32_and_the_same_however_they_are_computed(name, how, close, texts):
    state = nnx.state(shaken_encoder(TINY[name]))
    found, wanted = (
        jax.jit(nnx.merge(nnx.graphdef(abstract_module(lambda r, c=c: new_encoder(c, r))), state))(
            *texts
        )
        for c in (dataclasses.replace(TINY[name], **how), TINY[name])
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=np.abs(wanted).max() * close)


def test_near_distances_have_a_bucket_each_and_far_ones_share_the_last():
    places = np.arange(-200, 201)
    found = dict(zip(places.tolist(), buckets(places, 32).tolist(), strict=True))
    assert [found[n] for n in (0, -1, -7, -8, -11, -12, -127, -200)] == [0, 1, 7, 8, 8, 9, 15, 15]
    assert [found[n] for n in (1, 7, 8, 200)] == [17, 23, 24, 31]


@pytest.mark.parametrize(
    ("make", "count"),
    [
        # Parameters of Hugging Face's models, without poolers and the positions of padding.
        (BertConfig, 108_891_648),
        (RobertaConfig, 124_645_632 - 590_592 - 2 * 768),
        (MpnetConfig, 108_894_336),
        (ModernBertConfig, 149_014_272),
    ],
)
def test_the_defaults_have_their_published_number_of_weights(make, count):
    module = abstract_module(lambda rngs: new_encoder(make(), rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module))) == count


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BertConfig(types=0), "types=0"),
        (lambda: MpnetConfig(buckets=3), "buckets=3; expected at least 4"),
        (lambda: ModernBertConfig(width=15, heads=3), "heads=3; expected heads of an even width"),
        (lambda: ModernBertConfig(near_theta=0.0), "near_theta=0.0; expected above 0"),
        (lambda: ModernBertConfig(whole_theta=math.inf), "whole_theta=inf, .*; expected above 0"),
        (lambda: BertConfig.from_hf({"layer_norm_eps": math.inf}), "layer_norm_eps=inf; expected"),
        (lambda: MpnetConfig(layer_norm_eps=1e30), "layer_norm_eps=1e[+]30; expected above 0"),
        (lambda: ViTConfig(layer_norm_eps=math.nan), "layer_norm_eps=nan; expected above 0"),
        (lambda: ViTConfig(layer_norm_eps=1e-50), "layer_norm_eps=1e-50; expected above 0"),
        (lambda: ViTConfig(init_std=math.inf), "init_std=inf; expected above 0"),
        (lambda: EfficientNetLiteConfig(epsilon=math.inf), "epsilon=inf; expected above 0"),
        (lambda: BertConfig.from_hf({"hidden_act": "relu"}), "'relu'; expected 'gelu'"),
        (
            lambda: BertConfig.from_hf({"position_embedding_type": "relative_key"}),
            "'relative_key'; expected 'absolute'",
        ),
        (lambda: RobertaConfig.from_hf({"pad_token_id": 0}), "pad_token_id is 0; expected 1"),
        (lambda: ModernBertConfig.from_hf({"mlp_bias": True}), "mlp_bias is True"),
        (lambda: ModernBertConfig.from_hf({"layer_types": ["x"]}), "layer_types has 'x'"),
        (
            lambda: ModernBertConfig.from_hf({"rope_scaling": {"factor": 2}}),
            "rope_scaling is .*expected None",
        ),
    ],
)
def test_a_network_that_is_not_implemented_is_rejected_with_the_value(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_modernbert_config_of_transformers_4_is_read():
    older = {"global_attn_every_n_layers": 2, "global_rope_theta": 7.0, "local_rope_theta": 5.0}
    config = ModernBertConfig.from_hf({**older, "num_hidden_layers": 5, "local_attention": 10})
    assert (config.whole, config.neighbours) == ((0, 2, 4), 5)
    assert (config.whole_theta, config.near_theta) == (7.0, 5.0)
