"""A seed gives an encoder the same weights in every version: the order of the draws is fixed."""

import numpy as np
import pytest
from flax import nnx

from mufin_jax.encoders.registry import ENCODERS, new_encoder

SIZES = {"width": 12, "depth": 2, "heads": 3, "mlp": 20}
IMAGE = {**SIZES, "patch": 4, "image_size": 12}
TEXT = {**SIZES, "vocab": 29, "max_positions": 8}


# The first entries of three weights, drawn first, in the middle and last, by version 0.1.
@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("vit", IMAGE, {"positions": -0.011800228, "blocks.1.down.kernel": -0.008173998}),
        ("clip_image", {**IMAGE, "projection": 10},
         {"positions": 0.023918588, "blocks.1.down.kernel": 0.001570496,
          "projection.kernel": 0.01088317}),
        ("siglip", IMAGE,
         {"positions": 0.023918588, "blocks.1.down.kernel": -0.007615706,
          "pooling.value.kernel": -0.000298514}),
        ("distilbert", TEXT, {"positions": -0.037700832, "blocks.1.down.kernel": 0.007100767}),
        ("clip_text", {**TEXT, "projection": 10},
         {"positions": -0.037700832, "blocks.1.down.kernel": 0.007100767,
          "projection.kernel": -0.008145475}),
        ("visual_bert", {**TEXT, "visual": 5},
         {"positions": -0.037700832, "blocks.1.down.kernel": 0.000698171,
          "pooling.kernel": 0.014197325}),
    ],
)  # fmt: skip
def test_a_seed_gives_the_weights_that_it_gave_in_the_first_version(name, sizes, expected):
    encoder = new_encoder(ENCODERS[name].config_class()(**sizes), nnx.Rngs(0))
    weights = nnx.to_flat_state(nnx.state(encoder))
    drawn = {".".join(map(str, path)): np.asarray(value[...]).ravel()[0] for path, value in weights}
    found = {part: drawn[part] for part in expected}
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
