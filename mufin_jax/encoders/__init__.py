"""The encoders by name, and which of their parts train.

To add one: write its config, module and renaming table in a file of its own, after `interface.py`,
and its line in `ENCODERS`. Importing this package imports no JAX; an encoder's file is imported
when it is used.
"""

import dataclasses
import functools
import importlib
import operator
from collections.abc import Mapping
from typing import Any, Literal, get_args

from mufin_jax.runtime.errors import InputError

Training = Literal["frozen", "last", "full"]
Modality = Literal["image", "text"]


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """Where an architecture lives, and which checkpoints are of it."""

    modality: Modality
    """What it encodes."""
    module: str
    """`file:class` of its module, in this folder."""
    model_types: tuple[str, ...]
    """What its checkpoints are called in config.json, as `model_type`."""
    joint: bool = False
    """Whether it reads a text and vectors of its pictures together, an `interface.JointEncoder`."""

    def module_class(self) -> type[Any]:
        """Import the module's class, an `interface.Encoder`; call it with (config, rngs)."""
        file, name = self.module.split(":")
        return getattr(importlib.import_module(f"{__name__}.{file}"), name)

    def config_class(self) -> type[Any]:
        """Import the config's dataclass, an `interface.EncoderConfig`."""
        return self.module_class().Config


ENCODERS = {
    "vit": EncoderKind("image", "vit:ViT", ("vit",)),
    "resnet": EncoderKind("image", "resnet:ResNet", ("resnet",)),
    "clip_image": EncoderKind("image", "clip_image:ClipImage", ("clip", "clip_vision_model")),
    "siglip": EncoderKind("image", "siglip:Siglip", ("siglip", "siglip_vision_model")),
    "distilbert": EncoderKind("text", "distilbert:DistilBert", ("distilbert",)),
    "clip_text": EncoderKind("text", "clip_text:ClipText", ("clip", "clip_text_model")),
    "visual_bert": EncoderKind("text", "visual_bert:VisualBert", ("visual_bert", "bert"), True),
}
"""Keyed by the names that saved models have for them."""


def find(name: str) -> EncoderKind:
    """Look an encoder up.

    Raises:
        InputError: no encoder has this name.
    """
    if name not in ENCODERS:
        raise InputError(f"no encoder is called {name!r}; there are {', '.join(ENCODERS)}")
    return ENCODERS[name]


def of_modality(modality: Modality) -> dict[str, EncoderKind]:
    """The encoders of images, or those of texts."""
    return {name: kind for name, kind in ENCODERS.items() if kind.modality == modality}


def configs(modality: Modality) -> Any:
    """The type of a config of any of them: a union."""
    return functools.reduce(
        operator.or_, (kind.config_class() for kind in of_modality(modality).values())
    )


def of_checkpoint(modality: Modality, model_type: Any) -> EncoderKind:
    """Look up what encodes images, or texts, with the weights of a checkpoint.

    Raises:
        InputError: none does with a checkpoint of this `model_type`.
    """
    kinds = of_modality(modality).values()
    for kind in kinds:
        if model_type in kind.model_types:
            return kind
    known = ", ".join(name for kind in kinds for name in kind.model_types)
    given = repr(model_type)[:200]
    raise InputError(f"model_type is {given}; want one that encodes {modality}s: {known}")


def new_encoder(config: Any, rngs: Any) -> Any:
    """Make the encoder that a config is of, with initial weights."""
    return ENCODERS[name_of(config)].module_class()(config, rngs)


def name_of(config: Any) -> str:
    """The name of the encoder that a config is of."""
    found = [name for name, kind in ENCODERS.items() if type(config) is kind.config_class()]
    return found[0]


def is_joint(config: Any) -> bool:
    """Whether the encoder that a config is of reads a text and its pictures together."""
    return ENCODERS[name_of(config)].joint


def described(config: Any) -> dict[str, Any]:
    """A config as JSON can hold it; `from_description` makes it anew."""
    return {"kind": name_of(config), **dataclasses.asdict(config)}


def from_description(values: Mapping[str, Any], default: str) -> Any:
    """Make the config that was `described`; files of version 0.1 leave its kind to `default`."""
    # JSON has no tuples.
    sizes = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    sizes.pop("kind", None)
    return find(values.get("kind", default)).config_class()(**sizes)


_HEAD = ("norm", "pooling", "projection")
_STATISTICS = ("mean", "variance")


def trainable(path: tuple[Any, ...], mode: Training, depth: int) -> bool:
    """Whether the parameter at `path` inside an encoder of `depth` blocks trains.

    frozen: nothing; last: the last block and what follows it, as the paper's Module I does with the
    ViT; full: everything. The running statistics of a batch norm are never trained.

    Args:
        path: the keys of `nnx.to_flat_state` or of a pure dict, as ("blocks", 3, "up", "bias").
        mode: how much of the encoder trains.
        depth: number of blocks of the encoder.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in get_args(Training):
        raise InputError(
            f"encoder training is {mode!r}; want one of {', '.join(get_args(Training))}"
        )
    if path[-1] in _STATISTICS:
        return False
    if mode == "last":
        return path[0] in _HEAD or path[:2] == ("blocks", depth - 1)
    return mode == "full"


def how_computed(config: Any) -> dict[str, Any]:
    """The fields of an encoder's config that no checkpoint decides: they leave weights alone."""
    return {name: getattr(config, name) for name in ("dtype", "layers", "remat")}


def check_transformer(config: Any) -> None:
    """Refuse what no transformer can have; the fields are those that all of them share."""
    kind = type(config).__name__
    for name in ("width", "depth", "heads", "mlp"):
        check_size(config, name)
    if config.width % config.heads:
        raise InputError(f"{kind}: width={config.width} isn't a multiple of heads={config.heads}")
    if not config.layer_norm_eps > 0:
        raise InputError(f"{kind}: layer_norm_eps={config.layer_norm_eps}; want above 0")
    if config.init_std is not None and not config.init_std > 0:
        raise InputError(f"{kind}: init_std={config.init_std}; want above 0, or None")
    check_computed(config)


def check_computed(config: Any) -> None:
    """Refuse ways to compute that there are not."""
    kind = type(config).__name__
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"{kind}: dtype={config.dtype!r}; want auto, float32 or bfloat16")
    if config.layers not in ("unrolled", "scan"):
        raise InputError(f"{kind}: layers={config.layers!r}; want unrolled or scan")


def check_size(config: Any, name: str, most: int = 2**24) -> None:
    """Refuse a size, or sizes, that aren't whole numbers, or that no array can have."""
    sizes = getattr(config, name)
    for size in sizes if isinstance(sizes, tuple) else [sizes]:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
            given = repr(size)[:40]
            raise InputError(
                f"{type(config).__name__}: {name}={given}; want at least 1, at most {most:,}"
            )


def refuse_unless(config: Mapping[str, Any], **wanted: Any) -> None:
    """Refuse a Hugging Face config whose values, where given, aren't the wanted ones."""
    for name, want in wanted.items():
        if config.get(name, want) != want:
            raise InputError(f"{name} is {repr(config[name])[:200]}; want {want!r}")
