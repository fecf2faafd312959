"""Loads Hugging Face checkpoints into our encoders; config.json names a checkpoint's architecture.

A checkpoint is a local folder, or a name on the hub, with config.json and safetensors (one file, or
shards with an index), and preprocessor_config.json for images. A sentence encoder's own files name
its pooling (sentence_files.py). Nothing is unpickled. Only functions that make a module import JAX:
preparation reads a checkpoint's preprocessing without it.
"""

import dataclasses
import itertools
import logging
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mufin_jax.encoders.checkpoint_files import parsed, resolve, tensors
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.registry import EncoderKind, Modality, of_checkpoint
from mufin_jax.encoders.sentence_files import pooling_of
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mufin_jax.encoders.interface import (
        EncoderConfig,
        ImageEncoder,
        JointEncoder,
        TextEncoder,
    )


def load_image_encoder(
    checkpoint: str | Path, image_size: int | None = None, **how: Any
) -> "ImageEncoder":
    """Load an image encoder with the weights of a checkpoint, or of a part of it.

    Args:
        checkpoint: See `resolve`.
        image_size: Side of the images to encode, if not the checkpoint's.
        how: Fields of the config that no checkpoint fixes: dtype, layers, remat. Weights are
            float32, whatever the file holds.

    Raises:
        InputError: The checkpoint is missing, unreadable or of another architecture; or a weight
            is missing, left over, or of a shape that config.json doesn't imply.
    """
    encoder = _load(checkpoint, _Use("image"), how)
    if image_size is not None:
        encoder.resize(image_size)
    return encoder


def load_text_encoder(
    checkpoint: str | Path, joint: bool = False, **how: Any
) -> "TextEncoder | JointEncoder":
    """Load a text encoder with the weights of a checkpoint; see `load_image_encoder`.

    Args:
        checkpoint: See `resolve`.
        joint: Whether it is to read a text and its pictures together, where the checkpoint's
            `model_type` leaves the choice: a BERT does.
        how: As for images.
    """
    return _load(checkpoint, _Use("text", joint), how)


def load_config(
    checkpoint: str | Path, modality: Modality, joint: bool = False, **how: Any
) -> "EncoderConfig":
    """Read the sizes of a checkpoint's encoder, without its weights; raises as loading does."""
    return _config(resolve(checkpoint), _Use(modality, joint), how)[1]


def check_checkpoint(
    checkpoint: str | Path, modality: Modality, joint: bool = False
) -> "EncoderConfig":
    """Check all that loading an encoder checks, without reading a weight; raises as loading does.

    Returns:
        The sizes of the encoder.
    """
    return _load(checkpoint, _Use(modality, joint), {}, dry=True).config


def image_processing(checkpoint: str | Path) -> ImageProcessing:
    """Read the preprocessing that an image checkpoint was trained with.

    Raises:
        InputError: preprocessor_config.json is missing or unreadable, or requires another step.
    """
    return parsed(resolve(checkpoint) / "preprocessor_config.json", ImageProcessing.from_hf)


@dataclasses.dataclass(frozen=True)
class _Use:
    """What a checkpoint's encoder is to encode; see `load_text_encoder`."""

    modality: Modality
    joint: bool = False


def _config(folder: Path, use: _Use, how: Mapping[str, Any]) -> tuple[EncoderKind, "EncoderConfig"]:
    def parse(values: Mapping[str, Any]) -> tuple[EncoderKind, Any]:
        kind = of_checkpoint(use.modality, values.get("model_type"), use.joint)
        return kind, dataclasses.replace(kind.config_class().from_hf(values), **how)

    kind, config = parsed(folder / "config.json", parse)
    if "pooling" in config.__dataclass_fields__:
        config = dataclasses.replace(config, **pooling_of(folder))
    return kind, config


def _load(checkpoint: str | Path, use: _Use, how: Mapping[str, Any], dry: bool = False) -> Any:
    """Make a module by a checkpoint's config and fill it, one tensor at a time.

    Args:
        checkpoint: See `resolve`.
        use: What it is to encode.
        how: Fields of the config that no checkpoint fixes.
        dry: Whether only names and shapes are compared, and the module stays empty.
    """
    import jax.numpy as jnp
    from flax import nnx

    from mufin_jax.encoders.abstract import abstract_module

    folder = resolve(checkpoint)
    kind, config = _config(folder, use, how)
    module_class = kind.module_class()
    naming = module_class.naming
    files = {naming.modern(name): (file, name) for file, name in tensors(folder)}
    blocks = sum(1 for _ in itertools.islice(naming.blocks(config), len(files) + 1))
    if blocks > len(files):  # making a module takes time for each block
        found = f"config.json has more blocks than the {len(files)} tensors of the checkpoint"
        raise InputError(f"{folder}: {found}; the files aren't of one model")
    module = abstract_module(lambda rngs: module_class(config, rngs))
    empty = {".".join(map(str, path)): p for path, p in nnx.to_flat_state(nnx.state(module))}
    used = set()
    for theirs, ours, convert in naming.parameters(config):
        if theirs not in files or ours not in empty:
            continue
        (file, name), parameter = files[theirs], empty.pop(ours)
        used.add(theirs)
        # It may have more axes than a layer, or a dtype that no array has.
        with damaged(f"{folder}: {_listed([name])} can't be used ({{reason}}); download it again"):
            values = convert(_shape_of(file, name) if dry else file.get_tensor(name))
        if values.shape != parameter.shape:
            shapes = f"{values.shape} for {ours}, but config.json implies {parameter.shape}"
            raise InputError(
                f"{folder}: {_listed([name])} gives {shapes}; the files aren't of one model"
            )
        if not dry:
            parameter.set_value(jnp.asarray(values, jnp.float32))
    if naming.new and naming.new.keys() <= empty.keys():
        new = {name: empty.pop(name) for name in naming.new}
        if not dry:
            log.warning("%s has no weights for %s: they are new", folder, _listed(naming.new))
            for name, make in naming.new.items():
                # A copy: a training step cannot donate an array that is another weight's, too.
                new[name].set_value(jnp.array(make(module)))
    left = files.keys() - used
    unused = [name for name in left if not any(fnmatch(name, i) for i in naming.ignored)]
    if unused or empty:
        names = f"not used: {_listed(unused)}; not filled: {_listed(empty)}"
        raise InputError(f"{folder}: the weights don't fit config.json's network; {names}")
    return module


def _shape_of(file: Any, name: str) -> np.ndarray:
    """Return an array of a tensor's shape; nothing of the tensor is read."""
    return np.broadcast_to(np.float32(0), file.get_slice(name).get_shape())


def _listed(names: Collection[str]) -> str:
    first = (" ".join(name.split())[:100] for name in sorted(names)[:8])
    shown = [*first, *([f"and {len(names) - 8} more"] if len(names) > 8 else [])]
    return ", ".join(shown) or "nothing"
