"""An image encoder of convolutions: ResNet, pooled by the mean over the picture (paper, Polyvore).

The numbers are those of Hugging Face's `ResNetModel` in evaluation mode, its `pooler_output`. Batch
norms apply the checkpoint's running statistics, which never train: a batch of MUFIN holds pictures
of whichever points and labels were drawn, and their statistics are no property of a picture. A
stage corresponds to a transformer's block: where `last` trains, that is the fourth of four stages.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import check_computed, check_size, reject_unless
from mufin_jax.encoders.convolution import BATCH_NORM, Convolution, Stage, kernel_of
from mufin_jax.encoders.layers import compute_dtype
from mufin_jax.encoders.naming import Layer, Naming
from mufin_jax.runtime.errors import InputError

_MOST = 65_536
_REDUCTION = 4


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet; the defaults are ResNet-18.

    Raises:
        InputError: A size below 1, different numbers of widths and depths, an unknown dtype.
    """

    stem: int = 64
    """Channels of the first convolution."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Output channels of each stage."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Units of each stage."""
    bottleneck: bool = False
    """Whether a unit has three convolutions, the middle one with a quarter of the channels."""
    stride_first: bool = False
    """Whether the first stage halves the picture, as the others do."""
    stride_reducing: bool = False
    """Whether a bottleneck halves the picture in its first convolution, not in its second."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What convolutions multiply in. Weights and the result stay float32. auto: bfloat16 on
    accelerators, float32 on a CPU, where bfloat16 gains nothing."""
    layers: Literal["unrolled", "scan"] = "unrolled"
    """How the equal units of a stage are compiled: one by one, or as one that runs many times. That
    compiles several times faster."""
    remat: bool = False
    """Whether the backward pass computes each unit again: less memory, a third more work."""

    @property
    def depth(self) -> int:
        """Return the number of stages."""
        return len(self.widths)

    @property
    def outputs(self) -> int:
        """Return the width of the vectors."""
        return self.widths[-1]

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        for name, most in (("stem", _MOST), ("widths", _MOST), ("depths", 10_000)):
            check_size(self, name, most)
        if not self.widths or len(self.widths) != len(self.depths):
            raise InputError(
                f"ResNetConfig: widths={self.widths} and depths={self.depths}; expected one of "
                "each for every stage"
            )
        check_computed(self)

    @classmethod
    def resnet_18(cls) -> "ResNetConfig":
        """Return ResNet-18: the paper's MUFIN (ResNet-18, alpha = 1) on Polyvore."""
        return cls()

    @classmethod
    def resnet_101(cls) -> "ResNetConfig":
        """Return ResNet-101, which describes VisualBERT's pictures."""
        return cls(widths=(256, 512, 1024, 2048), depths=(3, 4, 23, 3), bottleneck=True)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ResNetConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, hidden_act="relu", num_channels=3)
        kind = config.get("layer_type", "bottleneck")
        if kind != "basic":
            reject_unless({"layer_type": kind}, layer_type="bottleneck")
        return cls(
            stem=config.get("embedding_size", 64),
            widths=tuple(config.get("hidden_sizes", (256, 512, 1024, 2048))),
            depths=tuple(config.get("depths", (3, 4, 6, 3))),
            bottleneck=kind == "bottleneck",
            stride_first=config.get("downsample_in_first_stage", False),
            stride_reducing=config.get("downsample_in_bottleneck", False),
        )


def _units(config: ResNetConfig) -> Iterable[tuple[int, ...]]:
    """Yield (stage, place in it) for every unit."""
    return ((stage, n) for stage, depth in enumerate(config.depths) for n in range(depth))


_CONVOLUTION: Layer = (
    (".convolution.weight", ".kernel", kernel_of),
    *((f".normalization{theirs}", ours, convert) for theirs, ours, convert in BATCH_NORM),
)
NAMING = Naming(
    prefix="resnet.",
    table=(
        ("embedder.embedder", "stem", _CONVOLUTION),
        ("encoder.stages.{}.layers.{}.shortcut", "blocks.{}.units.{}.shortcut", _CONVOLUTION),
        ("encoder.stages.{}.layers.{}.layer.0", "blocks.{}.units.{}.convolutions.0", _CONVOLUTION),
        ("encoder.stages.{}.layers.{}.layer.1", "blocks.{}.units.{}.convolutions.1", _CONVOLUTION),
        ("encoder.stages.{}.layers.{}.layer.2", "blocks.{}.units.{}.convolutions.2", _CONVOLUTION),
    ),
    ignored=("*.num_batches_tracked", "classifier.*"),
    blocks=_units,
)


class ResNet(nnx.Module):
    """Images to vectors: the mean of the last stage's channels over the picture."""

    Config = ResNetConfig
    naming = NAMING

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        self.stem = Convolution(3, config.stem, 7, 2, rngs)
        enters = (config.stem, *config.widths)
        self.blocks = nnx.List([_stage(config, n, enters[n], rngs) for n in range(config.depth)])

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i outputs"]:
        """Encode normalised images of any size."""
        return self.head(self.trunk(images))

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i y x c"]:
        """Compute the input of the last stage, in the compute dtype."""
        x = jax.nn.relu(self.stem(images.astype(self.dtype)))
        window, strides, edges = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, edges)
        for stage in list(self.blocks)[:-1]:
            x = stage(x)
        return x

    def head(self, below: Float[Array, "i y x c"]) -> Float[Array, "i outputs"]:
        """Apply the last stage and take the mean over the picture; float32."""
        x = self.blocks[self.config.depth - 1](below.astype(self.dtype))
        return x.astype(jnp.float32).mean((1, 2))

    def resize(self, image_size: int) -> None:
        """Do nothing: a convolution takes pictures of any size."""


def _stage(config: ResNetConfig, number: int, inputs: int, rngs: nnx.Rngs) -> Stage:
    """Return a stage whose first unit changes the number of channels and halves the picture."""
    width, stride = config.widths[number], 2 if number or config.stride_first else 1
    units = (
        Unit(config, width if n else inputs, width, 1 if n else stride, rngs)
        for n in range(config.depths[number])
    )
    return Stage(units, config)


class Unit(nnx.Module):
    """relu(x + convolutions of x); where the shape changes, a shortcut convolves x, too."""

    def __init__(
        self, config: ResNetConfig, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs
    ):
        # A new unit adds nothing at first: without batch statistics, sums over 33 units of random
        # convolutions would grow by 2^33.
        if config.bottleneck:
            narrow = max(1, outputs // _REDUCTION)
            first, second = (stride, 1) if config.stride_reducing else (1, stride)
            convolutions = [
                Convolution(inputs, narrow, 1, first, rngs),
                Convolution(narrow, narrow, 3, second, rngs),
                Convolution(narrow, outputs, 1, 1, rngs, scale=0.0),
            ]
        else:
            convolutions = [
                Convolution(inputs, outputs, 3, stride, rngs),
                Convolution(outputs, outputs, 3, 1, rngs, scale=0.0),
            ]
        self.convolutions = nnx.List(convolutions)
        changes = inputs != outputs or stride != 1
        self.shortcut = Convolution(inputs, outputs, 1, stride, rngs) if changes else None

    def __call__(self, x: Float[Array, "i h w c"]) -> Float[Array, "i y x d"]:
        """Add the convolutions to the input, or to the shortcut's output."""
        added = x
        for number, convolution in enumerate(self.convolutions):
            added = convolution(jax.nn.relu(added) if number else added)
        return jax.nn.relu(added + (x if self.shortcut is None else self.shortcut(x)))
