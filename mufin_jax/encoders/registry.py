"""The encoders by name, and where to add one.

To add an encoder, write a new file with its config, its module and its renaming table, which follow
`interface.py` (vit.py is a short example), and add its line to `ENCODERS`. docs/encoders.md tells
more. Importing this file imports no JAX; an encoder's file is imported when it is used.
"""

import dataclasses
import functools
import importlib
import operator
from collections.abc import Mapping
from typing import Any, Literal

from mufin_jax.runtime.errors import InputError

Modality = Literal["image", "text"]


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """Where an architecture is implemented, and which checkpoints have it."""

    modality: Modality
    """What it encodes."""
    module: str
    """`file:class` of its module, in this folder."""
    model_types: tuple[str, ...]
    """The values of `model_type` in its checkpoints' config.json."""
    joint: bool = False
    """Whether it reads a text and vectors of its pictures together, an `interface.JointEncoder`."""

    def module_class(self) -> type[Any]:
        """Import the module's class, an `interface.Encoder`; call it with (config, rngs)."""
        file, name = self.module.split(":")
        return getattr(importlib.import_module(f"mufin_jax.encoders.{file}"), name)

    def config_class(self) -> type[Any]:
        """Import the config's dataclass, an `interface.EncoderConfig`."""
        return self.module_class().Config


ENCODERS = {
    "vit": EncoderKind("image", "vit:ViT", ("vit",)),
    "resnet": EncoderKind("image", "resnet:ResNet", ("resnet",)),
    "efficientnet_lite": EncoderKind(
        "image", "efficientnet_lite:EfficientNetLite", ("efficientnet_lite",)
    ),
    "dinov2": EncoderKind("image", "dinov2:Dinov2", ("dinov2",)),
    "clip_image": EncoderKind("image", "clip_image:ClipImage", ("clip", "clip_vision_model")),
    "siglip": EncoderKind("image", "siglip:Siglip", ("siglip", "siglip_vision_model")),
    "distilbert": EncoderKind("text", "distilbert:DistilBert", ("distilbert",)),
    "bert": EncoderKind("text", "bert:Bert", ("bert",)),
    "roberta": EncoderKind("text", "roberta:Roberta", ("roberta", "xlm-roberta")),
    "mpnet": EncoderKind("text", "mpnet:Mpnet", ("mpnet",)),
    "modernbert": EncoderKind("text", "modernbert:ModernBert", ("modernbert",)),
    "clip_text": EncoderKind("text", "clip_text:ClipText", ("clip", "clip_text_model")),
    "visual_bert": EncoderKind("text", "visual_bert:VisualBert", ("visual_bert", "bert"), True),
}
"""Keyed by the names in the files of saved models."""


def find(name: str) -> EncoderKind:
    """Look an encoder up.

    Raises:
        InputError: No encoder has this name.
    """
    if name not in ENCODERS:
        raise InputError(f"no encoder is called {name!r}; there are {', '.join(ENCODERS)}")
    return ENCODERS[name]


def of_modality(modality: Modality) -> dict[str, EncoderKind]:
    """Return the encoders of images, or those of texts."""
    return {name: kind for name, kind in ENCODERS.items() if kind.modality == modality}


def configs(modality: Modality) -> Any:
    """Return the type of a config of any of them: a union."""
    return functools.reduce(
        operator.or_, (kind.config_class() for kind in of_modality(modality).values())
    )


def of_checkpoint(modality: Modality, model_type: Any, joint: bool = False) -> EncoderKind:
    """Look up the encoder of images, or of texts, that a checkpoint's `model_type` names.

    Args:
        modality: What it is to encode.
        model_type: The value in config.json.
        joint: Whether the encoder is preferably one of a text with its pictures.

    Raises:
        InputError: No encoder of this modality has this `model_type`.
    """
    kinds = of_modality(modality).values()
    for kind in sorted(kinds, key=lambda kind: kind.joint != joint):
        if model_type in kind.model_types:
            return kind
    known = ", ".join(dict.fromkeys(name for kind in kinds for name in kind.model_types))
    given = repr(model_type)[:200]
    raise InputError(f"model_type is {given}; expected one that encodes {modality}s: {known}")


def new_encoder(config: Any, rngs: Any) -> Any:
    """Build the encoder of a config, with initial weights."""
    return ENCODERS[name_of(config)].module_class()(config, rngs)


def name_of(config: Any) -> str:
    """Return the name of the encoder of a config."""
    found = [name for name, kind in ENCODERS.items() if type(config) is kind.config_class()]
    return found[0]


def is_joint(config: Any) -> bool:
    """Return whether the encoder of a config reads a text and its pictures together."""
    return ENCODERS[name_of(config)].joint


def described(config: Any) -> dict[str, Any]:
    """Return a config as JSON can hold it; `from_description` builds it again."""
    return {"kind": name_of(config), **dataclasses.asdict(config)}


def from_description(values: Mapping[str, Any], default: str) -> Any:
    """Build the config that was `described`; `default` is its kind in files of version 0.1."""
    # JSON has no tuples.
    sizes = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    sizes.pop("kind", None)
    return find(values.get("kind", default)).config_class()(**sizes)
