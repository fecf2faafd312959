"""The parts of transformers: layers with their initial weights, attention, sequences of blocks.

Matrices multiply in a network's compute dtype and add up in float32; weights, LayerNorm and softmax
are float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float


def compute_dtype(wanted: Literal["auto", "float32", "bfloat16"]) -> str:
    """Return the dtype in which matrices multiply on this machine.

    A CPU gains nothing from bfloat16: XLA computes in float32 and rounds.
    """
    if wanted == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return wanted


def run_blocks(
    blocks: Sequence[nnx.Module],
    config: Any,
    states: Float[Array, "..."],
    call: Callable[..., Array],
    kinds: np.ndarray | None = None,
) -> Float[Array, "..."]:
    """Apply one block after the other.

    Args:
        blocks: Modules of the same shape; only a single one may change the states' shape.
        config: `layers` tells how they are compiled, `remat` what the backward pass keeps.
        states: The input of the first block.
        call: (block, states) -> states; or (block, states, kind) -> states.
        kinds: Of each block, where blocks of one shape compute in several ways.
    """
    if config.remat:
        call = jax.checkpoint(call)
    if config.layers == "unrolled" or len(blocks) < 2:
        for number, block in enumerate(blocks):
            states = call(block, states, *([] if kinds is None else [kinds[number]]))
        return states
    graphdef = nnx.graphdef(blocks[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, blocks))

    def one(states: Array, of_block: Any) -> tuple[Array, None]:
        state, *kind = of_block
        return call(nnx.merge(graphdef, state), states, *kind), None

    return jax.lax.scan(one, states, (stacked,) if kinds is None else (stacked, kinds))[0]


def attend(
    query: Float[Array, "i q width"],
    key: Float[Array, "i p width"],
    value: Float[Array, "i p width"],
    heads: int,
    seen: Bool[Array, "i q p"] | None = None,
    bias: Float[Array, "heads q p"] | None = None,
) -> Float[Array, "i q width"]:
    """Compute multi-head softmax(q k^T / sqrt(d) + bias) v over the keys seen, softmax in float32.

    The result of a query that sees no key is finite and has no meaning. GPUs have a fused kernel;
    on a CPU separate products for each head of each item are a third faster.
    """
    if jax.default_backend() != "cpu":
        split = [x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value)]
        plain = seen is None and bias is None and query.shape == key.shape
        if plain and _has_flash(query.dtype, split[0].shape[3]):
            attended = _flash(*split)
        else:
            mask = None if seen is None else seen[:, None]
            added = None if bias is None else bias[None].astype(query.dtype)
            attended = jax.nn.dot_product_attention(*split, bias=added, mask=mask)
        return attended.reshape(*attended.shape[:2], -1)
    items, rows, width = query.shape

    def split_by(axes: tuple[int, ...], x: Array) -> Array:
        parts = x.reshape(*x.shape[:2], heads, width // heads).transpose(axes)
        return parts.reshape(items * heads, *parts.shape[2:])

    by_row, by_entry = (0, 2, 1, 3), (0, 2, 3, 1)
    query = split_by(by_row, query) * (width // heads) ** -0.5
    logits = jnp.matmul(query, split_by(by_entry, key), preferred_element_type=jnp.float32)
    if bias is not None or seen is not None:
        parts = logits.reshape(items, heads, *logits.shape[1:])
        parts = parts if bias is None else parts + bias[None]
        parts = parts if seen is None else jnp.where(seen[:, None], parts, -1e30)
        logits = parts.reshape(logits.shape)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    attended = (weights @ split_by(by_row, value)).reshape(items, heads, rows, -1)
    return attended.transpose(by_row).reshape(items, rows, width)


def _has_flash(dtype: Any, head: int) -> bool:
    """Return whether this machine has cuDNN's fused attention for heads of this width."""
    if jax.default_backend() != "gpu" or dtype != jnp.bfloat16 or head % 8 or head > 128:
        return False
    # "9.0" on NVIDIA's GPUs; AMD's have names.
    major = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")[0]
    return major.isdigit() and int(major) >= 8


def _flash(
    query: Float[Array, "i p h e"], key: Float[Array, "i p h e"], value: Float[Array, "i p h e"]
) -> Float[Array, "i p h e"]:
    """Compute attention by cuDNN, whose backward pass requires an even number of tokens."""
    items, tokens = query.shape[:2]
    options: dict[str, Any] = {"implementation": "cudnn"}
    if tokens % 2:
        odd = ((0, 0), (0, 1), (0, 0), (0, 0))
        query, key, value = (jnp.pad(x, odd) for x in (query, key, value))
        lengths = jnp.full(items, tokens, jnp.int32)
        options |= {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
    return jax.nn.dot_product_attention(query, key, value, **options)[:, :tokens]


@jax.checkpoint
def gelu(hidden: Float[Array, "*b mlp"]) -> Float[Array, "*b mlp"]:
    """Compute the exact GELU; the backward pass computes it again, which saves a third of memory.

    It uses erf, in float32: erfc, which `jax.nn.gelu` uses, costs twice as much on a CPU.
    """
    x = hidden.astype(jnp.float32)
    return (0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))).astype(hidden.dtype)


@jax.checkpoint
def gelu_tanh(hidden: Float[Array, "*b mlp"]) -> Float[Array, "*b mlp"]:
    """Compute the GELU by its tanh formula; the backward pass computes it again."""
    return jax.nn.gelu(hidden, approximate=True)


@jax.checkpoint
def quick_gelu(hidden: Float[Array, "*b mlp"]) -> Float[Array, "*b mlp"]:
    """Compute x sigmoid(1.702 x), CLIP's activation; the backward pass computes it again."""
    return hidden * jax.nn.sigmoid(1.702 * hidden)


Activation = Literal["gelu", "gelu_pytorch_tanh", "quick_gelu"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}
"""The activations by their Hugging Face names."""


def normal(std: float | None, inputs: int) -> jax.nn.initializers.Initializer:
    """Return an initialiser: normal, cut at two deviations; a std of None means 1/sqrt(inputs)."""
    return jax.nn.initializers.truncated_normal(inputs**-0.5 if std is None else std)


def linear(inputs: int, outputs: int, config: Any, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    """Return the layer x W + b in the config's compute dtype, with float32 weights."""
    kernel_init, dtype = normal(config.init_std, inputs), compute_dtype(config.dtype)
    return nnx.Linear(
        inputs, outputs, use_bias=bias, dtype=dtype, kernel_init=kernel_init, rngs=rngs,
        dot_general=_dot_of_rows,
    )  # fmt: skip


def _dot_of_rows(
    x: Float[Array, "*b i"], kernel: Float[Array, "i o"], *_: Any, **options: Any
) -> Float[Array, "*b o"]:
    """Multiply x's last axis with the kernel's first, in place of nnx.Linear's `dot_general`.

    x is reshaped to a matrix, so the kernel's gradient sums over one axis. For a sum over several
    axes, XLA's CPU compiler first copies one side transposed (docs/performance.md).
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], kernel.shape[1])


def layer_norm(config: Any, rngs: nnx.Rngs, bias: bool = True) -> nnx.LayerNorm:
    """Return a LayerNorm over the width in float32, its variance in two passes as in torch."""
    return nnx.LayerNorm(
        config.width, epsilon=config.layer_norm_eps, dtype="float32", use_bias=bias,
        use_fast_variance=False, rngs=rngs,
    )  # fmt: skip
