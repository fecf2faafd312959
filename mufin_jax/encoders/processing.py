"""How a picture becomes numbers: its size, how it is fitted into the square, its normalisation.

Preparation resizes pictures once and stores them as uint8 (`size`, `fit`, `resample`). `normalise`
runs on the device, just before the encoder, so only a quarter of the bytes cross to it. This file
needs neither JAX nor an accelerator; therefore preparation needs neither.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from mufin_jax.runtime.errors import InputError

Fit = Literal["pad", "stretch", "crop"]
Resample = Literal["bilinear", "bicubic", "lanczos"]

MAX_SIDE = 2048
"""Pixels of a picture's side: 12 MB a picture, of which some dozen are in memory at once."""
_LEAST_STD, _MOST = 1e-6, 1e6  # within these, float32 has all digits

# By the numbers that Pillow gives them, which Hugging Face writes into its files.
_PILLOW_FILTERS: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclasses.dataclass(frozen=True)
class ImageProcessing:
    """The preprocessing that an image encoder expects.

    Raises:
        InputError: A size below 1 or above `MAX_SIDE`, an unknown fit or filter, or a mean or std
            that isn't three numbers of a usual size (std above 0).
    """

    size: int = 224
    """Height and width of a prepared picture, in pixels."""
    fit: Fit = "pad"
    """pad: keep the proportions and add a border; stretch: resize both sides to `size`; crop: keep
    the proportions and cut out the middle."""
    resample: Resample = "bilinear"
    """The filter that resizes."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each channel (R, G, B), on the scale 0 to 1."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divides each channel, after the subtraction."""
    share: float = 1.0
    """crop: the part of the shorter side that is kept."""

    def __post_init__(self) -> None:
        """Reject invalid values; accept lists for mean and std, since JSON has no tuples."""
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        if not 1 <= self.size <= MAX_SIDE:
            raise InputError(f"image size is {self.size}; expected 1 to {MAX_SIDE:,} pixels")
        if self.fit not in get_args(Fit):
            raise InputError(
                f"image fit is {self.fit!r}; expected one of {', '.join(get_args(Fit))}"
            )
        if self.resample not in get_args(Resample):
            allowed = ", ".join(get_args(Resample))
            raise InputError(f"image resample is {self.resample!r}; expected one of {allowed}")
        if min(self.std) <= 0:
            raise InputError(f"image std is {self.std}; expected three numbers above 0")
        if min(self.std) < _LEAST_STD or max(map(abs, (*self.mean, *self.std))) > _MOST:
            raise InputError(
                f"image mean is {self.mean} and std is {self.std}; expected at most {_MOST:g}, and "
                f"std of at least {_LEAST_STD:g}"
            )
        if not 0 < self.share <= 1:
            raise InputError(f"image share is {self.share}; expected above 0, at most 1")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ImageProcessing":
        """Read a Hugging Face `preprocessor_config.json`.

        Raises:
            InputError: It lacks the size, or requires a step that preparation doesn't do.
        """
        size, fit, share = _square(config)
        if not config.get("do_resize", True):
            raise InputError("do_resize is off; only checkpoints that resize images are supported")
        if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3):
            raise InputError(f"rescale_factor={config['rescale_factor']}; expected 1/255")
        resample = _PILLOW_FILTERS.get(config.get("resample", 2))
        if resample is None:
            known = ", ".join(f"{n} ({name})" for n, name in _PILLOW_FILTERS.items())
            raise InputError(f"resample={config['resample']}; expected one of {known}")
        if not config.get("do_normalize", True):
            return cls(size, fit, resample, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), share)
        mean = _three_numbers("mean", config.get("image_mean") or cls.mean)
        std = _three_numbers("std", config.get("image_std") or cls.std)
        return cls(size, fit, resample, mean, std, share)

    def to_hf(self) -> dict[str, Any]:
        """Return a Hugging Face `preprocessor_config.json` of this preprocessing.

        No processor there pads: of `pad`, it resizes pictures that are square already.
        """
        square = {"height": self.size, "width": self.size}
        crop = self.fit == "crop"
        return {
            "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor",
            "do_resize": True, "do_center_crop": crop,
            "size": {"shortest_edge": round(self.size / self.share)} if crop else square,
            **({"crop_size": square} if crop else {}),
            "resample": next(n for n, name in _PILLOW_FILTERS.items() if name == self.resample),
            "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(self.mean), "image_std": list(self.std),
        }  # fmt: skip

    def normalise(self, pixels: Any) -> Any:
        """Return (pixels / 255 - mean) / std in float32, computed by the library of `pixels`.

        Args:
            pixels: uint8, (..., 3): a numpy array or a JAX array, traced ones included.

        Returns:
            The same kind of array, float32, of the same shape.
        """
        # One multiplication and one addition; reshaped because rank promotion may be forbidden.
        shape = (1,) * (pixels.ndim - 1) + (3,)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return pixels.astype(np.float32) * (1 / (np.float32(255) * std)) - mean / std


def _square(config: Mapping[str, Any]) -> tuple[int, Fit, float]:
    """Return the size, fit and share that a preprocessor requires."""
    side, shorter = _side(config, "size", 224)
    if config.get("do_center_crop"):  # CLIP's: the shorter side to one size, the middle of another
        size = _side(config, "crop_size", side)[0]
        if size > side:
            raise InputError(f"crop_size={size} is more than size={side}; expected at most as much")
        return size, "crop", size / side
    if "crop_pct" in config and side < 384:  # ConvNeXt's: above it, the whole picture
        share = config["crop_pct"]
        return side, "crop", side / int(side / (224 / 256 if share is None else float(share)))
    if shorter and "crop_pct" not in config:
        raise InputError(f"size={config['size']}; expected a square's height and width, or a crop")
    return side, "stretch", 1.0


def _side(config: Mapping[str, Any], name: str, default: int) -> tuple[int, bool]:
    """Return the side of a square, and whether it is given as a picture's shorter side."""
    size = config.get(name, default)
    shorter = isinstance(size, Mapping) and "shortest_edge" in size
    if isinstance(size, Mapping):
        sides = {size["shortest_edge"]} if shorter else {size.get("height"), size.get("width")}
        size = sides.pop() if len(sides) == 1 else None
    if not isinstance(size, int) or not 1 <= size <= MAX_SIDE:
        raise InputError(
            f"{name}={repr(config[name])[:200]}; expected a square's height and width, or the "
            f"shorter side, of 1 to {MAX_SIDE:,} pixels"
        )
    return size, shorter


def _three_numbers(name: str, values: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"image {name} is {repr(values)[:200]}; expected three numbers (R, G, B)"
        ) from None
    if not all(map(math.isfinite, (red, green, blue))):
        raise InputError(f"image {name} is {values!r}; expected three finite numbers")
    return red, green, blue
