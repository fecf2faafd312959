"""What ResNet and EfficientNet-Lite are made of: convolutions with a batch norm, and stages.

Batch norms apply a checkpoint's running statistics, which never train: a batch of MUFIN holds
pictures of whichever points and labels were drawn, and their statistics are no property of a
picture.
"""

from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.layers import run_blocks
from mufin_jax.encoders.naming import Layer, same


def kernel_of(values: np.ndarray) -> np.ndarray:
    """Return torch's (output, input, row, column) as (row, column, input, output)."""
    return values.transpose(2, 3, 1, 0)


BATCH_NORM: Layer = (
    (".weight", ".scale", same),
    (".bias", ".bias", same),
    (".running_mean", ".mean", same),
    (".running_var", ".variance", same),
)
"""How a batch norm of torch is read into a `Convolution`."""


class Convolution(nnx.Module):
    """A convolution and the batch norm after it, folded into its kernel and a shift.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        size: Rows and columns of the kernel, an odd number.
        stride: Pixels from one output to the next.
        rngs: Source of the initial weights.
        scale: The batch norm's initial factor.
        epsilon: Added to the variance.
        padding: centre: half of the kernel on each side, as torch has it; same: as little as
            possible, the odd pixel at the end, as TensorFlow has it.
        groups: Parts of the channels that do not see each other.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        rngs: nnx.Rngs,
        scale: float = 1.0,
        *,
        epsilon: float = 1e-5,
        padding: Literal["centre", "same"] = "centre",
        groups: int = 1,
    ):
        self.stride, self.epsilon, self.padding, self.groups = stride, epsilon, padding, groups
        draw = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(draw(rngs.params(), (size, size, inputs // groups, outputs)))
        self.scale, self.bias = nnx.Param(jnp.full(outputs, scale)), nnx.Param(jnp.zeros(outputs))
        self.mean, self.variance = (
            nnx.BatchStat(make(outputs, jnp.float32)) for make in (jnp.zeros, jnp.ones)
        )

    def __call__(self, x: Float[Array, "i h w c"]) -> Float[Array, "i y x d"]:
        """Convolve and normalise, in the dtype of x."""
        factor = self.scale[...] * jax.lax.rsqrt(self.variance[...] + self.epsilon)
        kernel = (self.kernel[...] * factor[None, None, None]).astype(x.dtype)
        shift = (self.bias[...] - self.mean[...] * factor).astype(x.dtype)
        edge = kernel.shape[0] // 2
        if kernel.shape[2] == 1 and self.groups == kernel.shape[3]:
            return self._by_channel(x, kernel[:, :, 0]) + shift[None, None, None]
        convolved = jax.lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride),
            "SAME" if self.padding == "same" else ((edge, edge), (edge, edge)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=self.groups,
        )  # fmt: skip
        return convolved + shift[None, None, None]

    def _by_channel(
        self, x: Float[Array, "i h w c"], kernel: Float[Array, "k k c"]
    ) -> Float[Array, "i y x c"]:
        """Convolve each channel by itself: a sum of shifted pictures, each times a kernel's entry.

        On a CPU, XLA's convolution with so many groups takes twenty to fifty times as long. The
        barriers keep the sum apart from what stands around it: its rounding then never depends on
        how a unit is compiled.
        """
        size, step = kernel.shape[0], self.stride
        edges, counts = [], []
        for length in x.shape[1:3]:
            count = -(-length // step)
            before = after = size // 2
            if self.padding == "same":
                missing = max((count - 1) * step + size - length, 0)
                before, after = missing // 2, missing - missing // 2
            edges.append((before, after))
            counts.append((length + before + after - size) // step + 1)
        x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *edges, (0, 0))))
        rows, columns = ((count - 1) * step + 1 for count in counts)
        total = jnp.zeros((), x.dtype)
        for i in range(size):
            for j in range(size):
                shifted = x[:, i : i + rows : step, j : j + columns : step]
                total = total + shifted * kernel[i, j][None, None, None]
        return jax.lax.optimization_barrier(total)


class Stage(nnx.Module):
    """Units of one width; the first one may change the number of channels and shrink the picture.

    Args:
        units: In their order; all but the first are of one shape.
        config: The encoder's, for how equal units are compiled.
    """

    def __init__(self, units: Iterable[nnx.Module], config: Any):
        self.config, self.units = config, nnx.List(units)

    def __call__(self, x: Float[Array, "i h w c"]) -> Float[Array, "i y x d"]:
        """Apply one unit after the other."""
        first, *like = self.units
        for units in ([first], like):  # units of one shape, which may be compiled as one
            x = run_blocks(units, self.config, x, lambda unit, x: unit(x))
        return x
