"""The image encoder: it agrees with Hugging Face's ViT and can be split at its last block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from places import GOLDEN

from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.pretrained import image_processing, load_image_encoder
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.vit import ViT, ViTConfig
from mufin_jax.runtime.errors import InputError

TINY = ViTConfig(width=12, depth=3, heads=2, mlp=20, patch=4, image_size=12)


@pytest.fixture(autouse=True)
def exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(1), (5, 12, 12, 3))


@pytest.fixture(scope="module")
def vit():
    return ViT(TINY, nnx.Rngs(0))


@pytest.mark.parametrize("folder", ["vit", "vit_new_names"])
@pytest.mark.parametrize("size", ["native", "other"])
def test_vit_agrees_with_hugging_face(folder, size):
    # "other" is 51 x 32 for a network of 24: positions are resampled, a remainder is cut.
    expected = np.load(GOLDEN / folder / "expected.npz")
    pixels = image_processing(str(GOLDEN / folder)).normalise(expected[size])
    actual = jax.jit(load_image_encoder(str(GOLDEN / folder)))(pixels)
    np.testing.assert_allclose(actual, expected[f"{size}_cls"], rtol=0, atol=1e-5)


def test_positions_resampled_once_give_what_resampling_at_each_call_gives(images):
    images = images.repeat(4, axis=1).repeat(4, axis=2)
    once = load_image_encoder(str(GOLDEN / "vit"), image_size=48)
    assert once.config.image_size == 48 and once.positions.shape == (37, 24)
    # Not compiled: two different programs would round differently.
    np.testing.assert_array_equal(once(images), load_image_encoder(GOLDEN / "vit")(images))


def test_the_head_gives_the_cls_row_of_the_whole_last_block(vit, images):
    @jax.jit
    def three_ways(images):
        tokens = vit.trunk(images)
        return vit.norm(vit.blocks[2](tokens))[:, 0], vit.head(tokens), vit(images)

    whole, head, all_of_it = three_ways(images)
    np.testing.assert_allclose(head, whole, atol=1e-6)
    np.testing.assert_allclose(all_of_it, whole, atol=1e-6)


def test_every_patch_reaches_the_cls_token(vit, images):
    gradient = jax.jit(jax.grad(lambda x: vit(x)[:, 0].sum()))(images)
    assert (np.abs(gradient).sum((0, 3)) > 0).all()


def test_bfloat16_computes_coarsely_but_keeps_weights_gradients_and_output_float32(vit, images):
    config = ViTConfig(**{**vars(TINY), "dtype": "bfloat16"})
    graphdef = nnx.graphdef(abstract_module(lambda rngs: ViT(config, rngs)))
    coarse = nnx.merge(graphdef, nnx.state(vit))
    assert jax.eval_shape(coarse.trunk, images).dtype == jnp.bfloat16
    exact, rough = jax.jit(vit)(images), jax.jit(coarse)(images)
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.abs(exact - rough).max() < 0.1
    state = nnx.state(coarse)
    gradients = jax.jit(jax.grad(lambda s: nnx.merge(graphdef, s)(images)[:, 0].sum()))(state)
    for leaf in [*jax.tree.leaves(state), *jax.tree.leaves(gradients)]:
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()


def test_the_module_holds_weights_only(vit):
    assert all(type(p) is nnx.Param for _, p in nnx.to_flat_state(nnx.state(vit)))


def test_a_new_miniature_vit_tells_images_apart():
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    narrow = ViTConfig.miniature()
    similarity = {}
    for std in (None, 0.02):
        vit = ViT(ViTConfig(**{**vars(narrow), "init_std": std}), nnx.Rngs(0))
        x = np.asarray(jax.jit(vit)(images))
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        similarity[std] = (x @ x.T)[~np.eye(4, dtype=bool)]
    assert similarity[None].max() < 0.7 < similarity[0.02].min()


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("frozen", set()),
        ("last", {("blocks", 2), ("norm",)}),
        ("full", {("blocks", n) for n in range(3)} | {(n,) for n in ("norm", "cls", "positions")}),
    ],
)
def test_each_mode_trains_its_parts_of_a_vit(vit, mode, expected):
    if mode == "full":
        expected = expected | {("patches",)}
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(vit))]
    chosen = [p for p in paths if trainable(p, mode, depth=3)]
    assert {p[:2] if p[0] == "blocks" else p[:1] for p in chosen} == expected
    assert len(chosen) == {"frozen": 0, "last": 18, "full": len(paths)}[mode]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"heads": 5}, "width=12 isn't a multiple of heads=5"),
        ({"depth": 0}, "depth=0"),
        ({"patch": 5}, "image_size=12 isn't a multiple of patch=5"),
        ({"patch": 0}, "patch=0"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0"),
        ({"init_std": -1.0}, "init_std=-1.0"),
    ],
)
def test_an_invalid_vit_is_rejected_with_the_value(change, message):
    with pytest.raises(InputError, match=message):
        ViTConfig(**{**vars(TINY), **change})


def test_base_16_has_its_published_number_of_weights():
    # That of Hugging Face's ViTModel(ViTConfig(), add_pooling_layer=False).
    vit = abstract_module(lambda rngs: ViT(ViTConfig.base_16(), rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(vit))) == 85_798_656


def test_normalising_on_the_device_gives_what_numpy_gives():
    processing = ImageProcessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    by_hand = (pixels / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    on_device = jax.jit(processing.normalise)(pixels)
    for ours in (processing.normalise(pixels), on_device):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, by_hand, atol=1e-6)
