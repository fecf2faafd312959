"""Encoders as checkpoints of Hugging Face: the names and axes of naming.py, the other way round."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save

from mufin_jax.encoders.naming import INVERSES
from mufin_jax.encoders.registry import ENCODERS, name_of
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.runtime.storage.files import replacing, save_json

_OURS = ("dtype", "layers", "remat", "init_std", "pooling", "normalise")
"""Fields of configs that no config.json has."""


def can_save(encoder: Any) -> bool:
    """Return whether `save_checkpoint` knows an encoder's kind, and its config.json all sizes."""
    config = getattr(encoder, "config", None)
    if isinstance(encoder, ReadyVectors) or config is None or not _speaks(type(config)):
        return False
    ours = {name: getattr(config, name) for name in _OURS if hasattr(config, name)}
    return dataclasses.replace(type(config).from_hf(config.to_hf()), **ours) == config


def savable() -> list[str]:
    """Return the kinds that `save_checkpoint` knows."""
    return [name for name, kind in ENCODERS.items() if _speaks(kind.config_class())]


def _speaks(config: type[Any]) -> bool:
    return "to_hf" in vars(config)  # not one that it inherits


def save_checkpoint(encoder: Any, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`, which `transformers.AutoModel` loads.

    Args:
        encoder: of a kind that `can_save` accepts.
        folder: is made.

    Raises:
        ValueError: for an encoder of another kind, or a weight that the table lacks.
    """
    if not can_save(encoder):
        raise ValueError(f"{name_of(encoder.config)}; expected one of {', '.join(savable())}")
    tensors = tensors_of(encoder)
    folder.mkdir(parents=True)
    save_json(folder / "config.json", encoder.config.to_hf())
    content = save(tensors, {"format": "pt"})
    with replacing(folder / "model.safetensors", len(content)) as file:
        file.write(content)


def tensors_of(encoder: Any) -> dict[str, np.ndarray]:
    """Return all weights of an encoder under the names of files, with the axes of torch.

    Raises:
        ValueError: if the encoder has a weight that the table lacks.
    """
    naming, left = type(encoder).naming, {
        ".".join(map(str, path)): np.asarray(value[...], np.float32)
        for path, value in nnx.to_flat_state(nnx.state(encoder, nnx.Param))
    }  # fmt: skip
    tensors = {}
    for theirs, ours, convert in naming.parameters(encoder.config):
        if ours in left:
            values = INVERSES[convert](left.pop(ours))
            tensors[naming.stored(theirs)] = np.ascontiguousarray(values)
    if left:
        raise ValueError(f"{name_of(encoder.config)} has {sorted(left)}, which no name is for")
    return tensors
