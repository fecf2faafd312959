"""Abstract modules equal those that Flax makes, and draw no random keys."""

import jax
import pytest
from flax import nnx

from mufin_jax.encoders.abstract import abstract_module, array_sizes
from mufin_jax.encoders.vit import ViT, ViTConfig

CONFIG = ViTConfig(width=12, depth=3, heads=2, mlp=10, patch=4, image_size=8)


def test_an_abstract_module_has_the_structure_and_shapes_of_the_module():
    module, abstract = ViT(CONFIG, nnx.Rngs(0)), abstract_module(lambda rngs: ViT(CONFIG, rngs))
    assert nnx.graphdef(abstract) == nnx.graphdef(module)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.state(module))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.state(abstract)) == shapes
    leaves = jax.tree.leaves(nnx.state(abstract))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_an_abstract_module_draws_no_key_per_weight(monkeypatch):
    """Drawing a key from a stream while shapes are traced takes most of Flax's own time."""

    def refuse(stream, *args, **kwargs):
        raise AssertionError("a key was drawn from a stream")

    monkeypatch.setattr(nnx.RngStream, "__call__", refuse)
    with pytest.raises(AssertionError, match="a key was drawn"):
        nnx.eval_shape(lambda: ViT(CONFIG, nnx.Rngs(0)))
    abstract_module(lambda rngs: ViT(CONFIG, rngs))


def test_array_sizes_are_those_of_all_arrays_that_a_function_makes_inner_ones_too():
    @jax.jit
    def inner(x):
        return (x[:, None] * x[None]).sum(1)

    def outer(x):
        return jax.lax.scan(lambda carry, _: (inner(carry), None), x, None, length=3)[0]

    found = array_sizes(outer, jax.ShapeDtypeStruct((10,), "float32"))
    assert max(found) == 10 * 10 * 4 and min(found) >= 0
