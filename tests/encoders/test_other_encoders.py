"""ResNet, EfficientNet-Lite, DINOv2, CLIP and SigLIP: agreement with their references."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from places import GOLDEN
from small import shaken

from mufin_jax.data.images import read_image
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.clip_image import ClipImageConfig
from mufin_jax.encoders.clip_text import ClipTextConfig
from mufin_jax.encoders.dinov2 import Dinov2Config
from mufin_jax.encoders.efficientnet_lite import EfficientNetLiteConfig
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.pretrained import (
    image_processing,
    load_image_encoder,
    load_text_encoder,
)
from mufin_jax.encoders.registry import new_encoder
from mufin_jax.encoders.resnet import ResNetConfig
from mufin_jax.encoders.siglip import SiglipConfig
from mufin_jax.runtime.errors import InputError

IMAGES = ["resnet_basic", "resnet_bottleneck", "efficientnet_lite"]
IMAGES += ["dinov2", "dinov2_giant", "clip", "siglip"]
SIZES = {"width": 12, "heads": 3, "mlp": 20, "patch": 4, "image_size": 12}
TINY = {
    "basic": ResNetConfig(6, (6, 8, 10), (1, 3, 2)),
    "bottleneck": ResNetConfig(5, (8, 12), (1, 3), bottleneck=True),
    "clip": ClipImageConfig(depth=3, projection=10, **SIZES),
    "siglip": SiglipConfig(depth=3, **SIZES),
    "dinov2": Dinov2Config(depth=3, gated=True, layer_scale=0.5, **SIZES),
    "lite": EfficientNetLiteConfig(6, (6, 8, 10), (1, 3, 2), (3, 5, 3), (1, 2, 1), (1, 2, 6), 9),
}
TEXT = ClipTextConfig(vocab=29, width=12, depth=3, heads=3, mlp=20, max_positions=8, projection=10)
TITLES = ["A red chair", "lamp 42", "the Lamp's chair  and table", "red"]


@pytest.fixture(autouse=True)
def exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(1), (3, 12, 12, 3))


@pytest.mark.parametrize("name", IMAGES)
def test_image_encoders_agree_with_their_references(name):
    # "other" is not square and has another size than the network's.
    expected = np.load(GOLDEN / name / "expected.npz")
    encode = jax.jit(load_image_encoder(GOLDEN / name))
    for size in ("native", "other"):
        pixels = image_processing(GOLDEN / name).normalise(expected[size])
        np.testing.assert_allclose(encode(pixels), expected[f"{size}_vectors"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_prepared_like_by_the_checkpoints_own_processor(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    found = read_image(Image.fromarray(expected["photo"]), image_processing(GOLDEN / name))
    difference = np.abs(found.astype(int) - expected["prepared"])
    assert difference.max() <= 1  # we resize only the part that is kept, which rounds differently


def test_clip_reads_texts_as_hugging_face_does():
    expected = np.load(GOLDEN / "clip" / "expected.npz")
    tokens, lengths = Tokenizer.load(GOLDEN / "clip").encode(TITLES, 25)
    np.testing.assert_array_equal(lengths, expected["lengths"])
    for ours, theirs, length in zip(tokens, expected["tokens"], lengths, strict=True):
        np.testing.assert_array_equal(ours[:length], theirs[:length])
    vectors = jax.jit(load_text_encoder(GOLDEN / "clip"))(tokens, lengths)
    np.testing.assert_allclose(vectors, expected["text_vectors"], rtol=0, atol=1e-5)


def test_a_truncated_text_keeps_the_token_that_clip_pools():
    tokenizer = Tokenizer.load(GOLDEN / "clip")
    tokens, lengths = tokenizer.encode(TITLES, 5)
    ends = tokens[np.arange(4), lengths - 1]
    assert (lengths == 5).any() and (ends == tokenizer.vocab_size - 1).all()


def test_a_packed_text_has_the_vector_that_it_has_alone():
    encoder = shaken_encoder(TEXT)
    tokens = np.random.default_rng(0).integers(1, 29, (3, 7)).astype(np.int32)
    lengths = np.array([3, 1, 0], np.int32)
    alone = np.asarray(jax.jit(encoder)(tokens, lengths))
    row = jnp.asarray([[*tokens[0, :3], *tokens[1, :1], 5, 5, 5]])
    places = jnp.asarray([[0, 0, 0, 1, -1, -1, -1]])
    packed = jax.jit(lambda encoder, row: encoder.packed(row, places, 3))(encoder, row)[0]
    np.testing.assert_allclose(packed, alone, atol=1e-6)
    assert not packed[2].any() and np.abs(packed[:2]).max() > 0.1


@pytest.mark.parametrize("name", ["basic", "siglip", pytest.param("lite", marks=pytest.mark.slow)])
def test_nothing_in_the_trunk_trains_where_the_last_block_trains(name, images):
    encoder = shaken_encoder(TINY[name])
    graphdef, state = nnx.split(encoder)

    def two_ways(state, images):
        encoder = nnx.merge(graphdef, state)
        below = encoder.trunk(images)
        return below.astype(jnp.float32).sum(), (encoder.head(below), encoder(images))

    used, (parts, whole) = jax.jit(jax.grad(two_ways, has_aux=True))(state, images)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert whole.shape == (3, encoder.config.outputs)
    for path, gradient in nnx.to_flat_state(used):
        if np.asarray(gradient[...]).any():
            assert not trainable(path, "last", encoder.config.depth), path


@pytest.mark.parametrize(
    ("name", "how", "close"),
    [
        ("bottleneck", {"layers": "scan", "remat": True}, 1e-5),
        # Its vectors are means over few positions: one activation at ReLU6's bound shows more.
        ("lite", {"layers": "scan", "remat": True}, 1e-4),
        ("text", {"layers": "scan", "remat": True}, 1e-5),
        *(
            (name, {"dtype": "bfloat16"}, 0.05)
            for name in ("basic", "clip", "siglip", "text", "dinov2")
        ),
    ],
)
def test_vectors_are_float32_and_the_same_in_every_way_to_compute_them(name, how, close, images):
    tokens = jnp.arange(21, dtype=jnp.int32).reshape(3, 7)
    inputs = (tokens, jnp.array([7, 2, 5])) if name == "text" else (images,)
    encoder = shaken_encoder(TEXT if name == "text" else TINY[name])
    other = dataclasses.replace(encoder.config, **how)
    graphdef = nnx.graphdef(abstract_module(lambda rngs: new_encoder(other, rngs)))
    found = jax.jit(nnx.merge(graphdef, nnx.state(encoder)))(*inputs)
    wanted = jax.jit(encoder)(*inputs)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=np.abs(wanted).max() * close)


def shaken_encoder(config):
    """Return the encoder with random weights and constant running statistics."""
    encoder = abstract_module(lambda rngs: new_encoder(config, rngs))
    graphdef, _, statistics = nnx.split(encoder, nnx.Param, ...)
    weights = jax.tree.map(jnp.asarray, nnx.state(shaken(encoder), nnx.Param))
    statistics = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.7), statistics)
    return nnx.merge(graphdef, weights, statistics)


def test_running_statistics_never_train():
    state = nnx.state(shaken_encoder(TINY["basic"]))
    for mode in ("last", "full"):
        chosen = [path for path, _ in nnx.to_flat_state(state) if trainable(path, mode, 3)]
        assert chosen and {path[-1] for path in chosen} == {"kernel", "scale", "bias"}


def test_a_deep_new_resnet_keeps_the_size_of_its_input(images):
    encoder = new_encoder(
        ResNetConfig(16, (16,), (16,), bottleneck=True, layers="scan"), nnx.Rngs(0)
    )
    assert 0.05 < float(jnp.std(jax.jit(encoder)(images))) < 5


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (ResNetConfig.resnet_18, 11_176_512),
        (ResNetConfig.resnet_101, 42_500_160),
        (EfficientNetLiteConfig.lite0, 4_652_008 - 1_281_000),  # without the classifier
        (Dinov2Config, 86_580_480 - 768),  # without the token of masked patches
        (ClipImageConfig, 87_849_216),
        (ClipTextConfig, 63_428_096),
        (SiglipConfig, 92_884_224),
    ],
)
def test_the_defaults_have_their_published_number_of_weights(make, count):
    # Parameters of Hugging Face's models with their default (CLIP, SigLIP) or hub configs.
    module = abstract_module(lambda rngs: new_encoder(make(), rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))) == count


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetConfig(widths=(4, 0), depths=(1, 1)), "widths=0; expected at least 1"),
        (lambda: ResNetConfig(widths=(4, 8), depths=(1,)), r"depths=\(1,\); expected one of each"),
        (lambda: ResNetConfig(depths=(1, 1, 1, 10**9)), "depths=1000000000"),
        (
            lambda: EfficientNetLiteConfig(depths=(1, 1)),
            "7 widths, 2 depths, .*expected one of each",
        ),
        (lambda: EfficientNetLiteConfig(kernels=(2,) * 7), "kernels has 2; expected odd numbers"),
        (lambda: Dinov2Config.from_hf({"hidden_act": "relu"}), "hidden_act is 'relu'"),
        (lambda: ClipImageConfig(patch=50), "isn't a multiple of patch=50"),
        (lambda: ClipTextConfig(projection=0), "projection=0"),
        (lambda: SiglipConfig(heads=5), "isn't a multiple of heads=5"),
        (
            lambda: ResNetConfig.from_hf({"layer_type": "x"}),
            "layer_type is 'x'; expected 'bottleneck'",
        ),
        (lambda: SiglipConfig.from_hf({"vision_use_head": False}), "vision_use_head is False"),
        (lambda: ClipTextConfig.from_hf({"hidden_act": "relu"}), "'relu'; expected one of gelu"),
    ],
)
def test_a_network_that_is_not_implemented_is_rejected_with_the_value(make, message):
    with pytest.raises(InputError, match=message):
        make()
