"""Sequences of blocks give the same numbers with every way to compile them."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mufin_jax.encoders.checks import check_transformer
from mufin_jax.encoders.distilbert import DistilBert, DistilBertConfig
from mufin_jax.encoders.layers import compute_dtype, linear
from mufin_jax.encoders.vit import ViT, ViTConfig
from mufin_jax.runtime.errors import InputError

IMAGES = ViTConfig(width=12, depth=3, heads=3, mlp=20, patch=8, image_size=24)
TEXTS = DistilBertConfig(vocab=40, width=12, depth=3, heads=3, mlp=20, max_positions=9)


def encode(module, config, *inputs):
    """Return a network's vectors, and the gradient of their weighted sum."""
    graphdef, state = nnx.split(module(config, nnx.Rngs(0)))
    weights = jnp.arange(1.0, 13)

    def of(state):
        vectors = nnx.merge(graphdef, state)(*inputs)
        return (vectors @ weights).sum(), vectors

    (_, vectors), gradients = jax.jit(jax.value_and_grad(of, has_aux=True))(state)
    return vectors, gradients


@pytest.fixture(scope="module", params=["image", "text"])
def unrolled(request):
    """A network of a kind, its input, and its output with unrolled blocks."""
    rng = np.random.default_rng(0)
    if request.param == "image":
        module, config = ViT, IMAGES
        inputs = [jnp.asarray(rng.normal(size=(3, 24, 24, 3)), jnp.float32)]
    else:
        module, config = DistilBert, TEXTS
        inputs = [jnp.asarray(rng.integers(0, 40, (3, 9)), jnp.int32), jnp.array([9, 1, 4])]
    return module, config, inputs, encode(module, config, *inputs)


@pytest.mark.parametrize(
    "how", [{"layers": "scan"}, {"remat": True}, {"layers": "scan", "remat": True}]
)
def test_scanned_and_recomputed_blocks_give_the_numbers_and_gradients_of_unrolled_ones(
    how, unrolled
):
    module, config, inputs, wanted = unrolled
    found = encode(module, dataclasses.replace(config, **how), *inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), found, wanted)


def test_no_gradient_of_a_matrix_sums_over_more_than_one_axis(unrolled):
    # XLA's CPU compiler copies one side of such a product transposed before it multiplies.
    module, config, inputs, _ = unrolled
    graphdef, state = nnx.split(module(config, nnx.Rngs(0)))
    gradient = jax.grad(lambda state: nnx.merge(graphdef, state)(*inputs).sum())
    program = str(jax.make_jaxpr(gradient)(state))
    summed = re.findall(r"dot_general\[\s*dimension_numbers=\(\(\[([\d, ]+)\]", program)
    assert len(summed) > 3 * 6 * config.depth
    assert not [axes for axes in summed if "," in axes]


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (2, 3, 4)])
def test_a_layer_keeps_the_axes_of_its_input_even_empty_ones(shape):
    layer = linear(4, 5, IMAGES, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), shape)
    assert layer(x).shape == (*shape[:-1], 5)
    np.testing.assert_allclose(layer(x), x @ layer.kernel[...], atol=1e-6)


def test_a_cpu_computes_in_float32_and_an_accelerator_in_bfloat16(monkeypatch):
    assert compute_dtype("auto") == "float32" and compute_dtype("bfloat16") == "bfloat16"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compute_dtype("auto") == "bfloat16" and compute_dtype("float32") == "float32"


@pytest.mark.parametrize("wrong", [{"layers": "rolled"}, {"dtype": "float16"}])
def test_unknown_dtypes_and_ways_to_compile_blocks_are_rejected(wrong):
    # Not with ViTConfig: in tests, beartype would reject the types of its fields first.
    with pytest.raises(InputError, match=next(iter(wrong))):
        check_transformer(SimpleNamespace(**vars(IMAGES) | wrong))
