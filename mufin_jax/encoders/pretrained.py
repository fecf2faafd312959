"""Loads Hugging Face checkpoints into our encoders; config.json names a checkpoint's architecture.

A checkpoint is a local folder, or a name on the hub, with config.json and safetensors (one file, or
shards with an index), and preprocessor_config.json for images. Nothing is unpickled. Only functions
that return a module import JAX: preparation reads a checkpoint's preprocessing without it.
"""

import dataclasses
import itertools
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.registry import EncoderKind, Modality, of_checkpoint
from mufin_jax.runtime.errors import InputError, reason
from mufin_jax.runtime.storage.files import damaged

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mufin_jax.encoders.interface import EncoderConfig, ImageEncoder, TextEncoder


def resolve(checkpoint: str | Path) -> Path:
    """Find a checkpoint's folder: a local one, or one of the hub, downloaded or cached.

    Raises:
        InputError: No such folder exists, and the hub doesn't know it or can't be reached.
    """
    folder, name = Path(checkpoint).expanduser(), str(checkpoint)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise InputError(f"no folder {name}; give a checkpoint's folder or its name on the hub")
    import huggingface_hub

    try:
        wanted = ["*.safetensors", "*.json", "vocab.txt"]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of a dozen unrelated types, which all mean the same here
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"no folder {name}, and the hub doesn't give it ({reason}); give a "
            f"local folder, or run `hf download {name}` where there is a network"
        ) from error


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
    encoder = _load(checkpoint, "image", how)
    if image_size is not None:
        encoder.resize(image_size)
    return encoder


def load_text_encoder(checkpoint: str | Path, **how: Any) -> "TextEncoder":
    """Load a text encoder with the weights of a checkpoint; see `load_image_encoder`."""
    return _load(checkpoint, "text", how)


def load_config(checkpoint: str | Path, modality: Modality, **how: Any) -> "EncoderConfig":
    """Read the sizes of a checkpoint's encoder, without its weights; raises as loading does."""
    return _config(resolve(checkpoint), modality, how)[1]


def image_processing(checkpoint: str | Path) -> ImageProcessing:
    """Read the preprocessing that an image checkpoint was trained with.

    Raises:
        InputError: preprocessor_config.json is missing or unreadable, or requires another step.
    """
    return _parsed(resolve(checkpoint) / "preprocessor_config.json", ImageProcessing.from_hf)


def _config(
    folder: Path, modality: Modality, how: Mapping[str, Any]
) -> tuple[EncoderKind, "EncoderConfig"]:
    def parse(values: Mapping[str, Any]) -> tuple[EncoderKind, Any]:
        kind = of_checkpoint(modality, values.get("model_type"))
        return kind, dataclasses.replace(kind.config_class().from_hf(values), **how)

    return _parsed(folder / "config.json", parse)


def _load(checkpoint: str | Path, modality: Modality, how: Mapping[str, Any]) -> Any:
    """Make a module by a checkpoint's config and fill it, one tensor at a time."""
    import jax.numpy as jnp
    from flax import nnx

    from mufin_jax.encoders.abstract import abstract_module

    folder = resolve(checkpoint)
    kind, config = _config(folder, modality, how)
    module_class = kind.module_class()
    naming = module_class.naming
    files = {naming.modern(name): (file, name) for file, name in _tensors(folder)}
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
            values = convert(file.get_tensor(name))
        if values.shape != parameter.shape:
            shapes = f"{values.shape} for {ours}, but config.json implies {parameter.shape}"
            raise InputError(
                f"{folder}: {_listed([name])} gives {shapes}; the files aren't of one model"
            )
        parameter.set_value(jnp.asarray(values, jnp.float32))
    if naming.new and naming.new.keys() <= empty.keys():
        log.warning("%s has no weights for %s: they are new", folder, _listed(naming.new.keys()))
        for name, make in naming.new.items():
            # A copy: a training step cannot donate an array that is another weight's, too.
            empty.pop(name).set_value(jnp.array(make(module)))
    left = files.keys() - used
    unused = [name for name in left if not any(fnmatch(name, i) for i in naming.ignored)]
    if unused or empty:
        names = f"not used: {_listed(unused)}; not filled: {_listed(empty)}"
        raise InputError(f"{folder}: the weights don't fit config.json's network; {names}")
    return module


def _tensors(folder: Path) -> Iterable[tuple[Any, str]]:
    """Yield (open file, name) for every tensor; only the headers are read."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        paths = [single]
    elif index.exists():
        # Only the last part of a path: an index must not lead outside of its folder.
        shards = _parsed(index, lambda d: {Path(shard).name for shard in d["weight_map"].values()})
        paths = [folder / shard for shard in shards]
    else:
        raise InputError(
            f"no model.safetensors in {folder}; if it holds a pytorch_model.bin, convert it where "
            f"torch is installed: transformers.AutoModel.from_pretrained(X).save_pretrained(X)"
        )
    for path in paths:
        try:
            file = safe_open(path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} can't be read ({reason(error)}); download it again"
            ) from error
        yield from ((file, name) for name in file.keys())


def _parsed(path: Path, parse: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return what `parse` makes of a JSON file; its errors begin with the file's name."""
    try:
        if isinstance(values := json.loads(path.read_text(encoding="utf-8")), dict):
            return parse(values)
        raise InputError("expected a JSON object")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give a complete Hugging Face checkpoint") from None
    except Exception as error:  # a wrong value raises many types
        raise InputError(f"{path}: {reason(error)}") from error


def _listed(names: Collection[str]) -> str:
    first = (" ".join(name.split())[:100] for name in sorted(names)[:8])
    shown = [*first, *([f"and {len(names) - 8} more"] if len(names) > 8 else [])]
    return ", ".join(shown) or "nothing"
