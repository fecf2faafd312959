"""The learned temperature of a softmax loss: one scalar among the weights that train.

It stands in the state's `train` as its logarithm, under the name of a part, only where it is
learned: checkpoints of other runs have no such array. It is no part of the model, which is saved
without it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PART = "temperature"
"""The name of the temperature among the parts that train."""

LOWEST = 0.01
"""A learned temperature stays above this value: below, one pair decides the loss (as in CLIP)."""


def initial(temperature: float) -> dict[str, Any]:
    """Return the part of the weights that holds this temperature."""
    return {PART: np.log(np.float32(temperature))}


def temperature_of(train: Mapping[str, Any], fixed: float) -> jax.Array | float:
    """Return the temperature that the weights hold, or the fixed one."""
    if PART not in train:
        return fixed
    return jnp.maximum(jnp.exp(train[PART]), LOWEST)


def without_temperature(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights that are of the model."""
    return {part: weights for part, weights in train.items() if part != PART}
