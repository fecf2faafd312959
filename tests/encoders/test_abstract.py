"""Modules of shapes without weights equal those of Flax's own way, and take less time."""

import dataclasses
import time

import jax
from flax import nnx

from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.vit import ViT, ViTConfig

CONFIG = ViTConfig(width=12, depth=3, heads=2, mlp=10, patch=4, image_size=8)


def test_an_abstract_module_has_the_structure_and_shapes_of_the_module():
    module, abstract = ViT(CONFIG, nnx.Rngs(0)), abstract_module(lambda rngs: ViT(CONFIG, rngs))
    assert nnx.graphdef(abstract) == nnx.graphdef(module)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.state(module))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.state(abstract)) == shapes
    leaves = jax.tree.leaves(nnx.state(abstract))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_an_abstract_deep_module_takes_a_fraction_of_the_time():
    deep = dataclasses.replace(CONFIG, depth=8)
    start = time.process_time()
    nnx.eval_shape(lambda: ViT(deep, nnx.Rngs(0)))
    middle = time.process_time()
    abstract_module(lambda rngs: ViT(deep, rngs))
    assert time.process_time() - middle < 0.5 * (middle - start)
