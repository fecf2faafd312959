"""What the transformers are made of: layers with their initial weights, attention, runs of blocks.

Matrices multiply in a network's compute dtype and add up in float32; weights, LayerNorm and softmax
are float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


def compute_dtype(wanted: Literal["auto", "float32", "bfloat16"]) -> str:
    """What matrices multiply in on this machine.

    A CPU gains nothing by bfloat16: XLA computes in float32 and rounds.
    """
    if wanted == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return wanted


def run_blocks(
    blocks: Sequence[nnx.Module],
    config: Any,
    states: Float[Array, "*b width"],
    call: Callable[[Any, Array], Array],
) -> Float[Array, "*b width"]:
    """Apply one block after the other.

    Args:
        blocks: modules of the same shape.
        config: `layers` says how they are compiled, `remat` what the backward pass keeps.
        states: what enters the first block.
        call: (block, states) -> states.
    """
    if config.remat:
        call = jax.checkpoint(call)
    if config.layers == "unrolled" or len(blocks) < 2:
        for block in blocks:
            states = call(block, states)
        return states
    graphdef = nnx.graphdef(blocks[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, blocks))

    def one(states: Array, state: Any) -> tuple[Array, None]:
        return call(nnx.merge(graphdef, state), states), None

    return jax.lax.scan(one, states, stacked)[0]


def attend(
    query: Float[Array, "i q width"],
    key: Float[Array, "i p width"],
    value: Float[Array, "i p width"],
    heads: int,
    seen: Bool[Array, "i q p"] | None = None,
) -> Float[Array, "i q width"]:
    """Multi-head softmax(q k^T / sqrt(d)) v over the keys seen; the softmax is float32.

    Where a query sees no key its result is finite and means nothing.
    """
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    mask = None if seen is None else seen[:, None]
    attended = jax.nn.dot_product_attention(query, key, value, mask=mask)
    return attended.reshape(*attended.shape[:2], -1)


def normal(std: float | None, inputs: int) -> jax.nn.initializers.Initializer:
    """Normal weights cut at two deviations; a std of None means 1/sqrt(inputs)."""
    return jax.nn.initializers.truncated_normal(inputs**-0.5 if std is None else std)


def linear(inputs: int, outputs: int, config: Any, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    """x W + b in the config's compute dtype, with float32 weights."""
    kernel_init, dtype = normal(config.init_std, inputs), compute_dtype(config.dtype)
    return nnx.Linear(
        inputs, outputs, use_bias=bias, dtype=dtype, kernel_init=kernel_init, rngs=rngs
    )


def layer_norm(config: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A LayerNorm over the width in float32; its variance in two passes, as torch has it."""
    width, eps = config.width, config.layer_norm_eps
    return nnx.LayerNorm(width, epsilon=eps, dtype="float32", use_fast_variance=False, rngs=rngs)
