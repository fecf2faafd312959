"""Hugging Face checkpoints into our encoders: a renaming table, complete both ways.

A checkpoint is a local folder, or a name on the hub, with config.json and safetensors (one file, or
shards with an index), and preprocessor_config.json for images. Nothing is unpickled. JAX is
imported only by what returns a module: preparation reads a checkpoint's preprocessing without it.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.errors import InputError, reason
from mufin_jax.files import damaged

if TYPE_CHECKING:
    from mufin_jax.encoders.distilbert import DistilBert
    from mufin_jax.encoders.vit import ViT, ViTConfig

Convert = Callable[[np.ndarray], np.ndarray]
# A kind of layer: (suffix in torch, suffix here, how the values change) for each parameter.
Layer = Sequence[tuple[str, str, Convert]]

_LINEAR: Layer = ((".weight", ".kernel", np.transpose), (".bias", ".bias", np.asarray))
_NORM: Layer = ((".weight", ".scale", np.asarray), (".bias", ".bias", np.asarray))
_WORDS: Layer = ((".weight", ".embedding", np.asarray),)
_POSITIONS: Layer = ((".weight", "", np.asarray),)
_CLS_AND_GRID: Layer = (("", "", np.squeeze),)
# A convolution's (width, channel, row, column) is here a matrix from (row, column, channel).
_PATCHES: Layer = (
    (".weight", ".kernel", lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])),
    (".bias", ".bias", np.asarray),
)


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a checkpoint's names become ours; {} stands for a block's number."""

    model_type: str
    table: Sequence[tuple[str, str, Layer]]
    """(name in the checkpoint, name here, kind of layer)."""
    older: Sequence[tuple[str, str]] = ()
    """(part of a name in older checkpoints, what it became), applied in this order."""
    ignored: Sequence[str] = ()
    """Patterns of names that may be in a checkpoint and that our encoder has no use for."""

    def modern(self, name: str) -> str:
        """A checkpoint's name without the model's prefix and in today's spelling."""
        name = name.removeprefix(f"{self.model_type}.")
        for old, new in self.older:
            name = name.replace(old, new)
        return name

    def parameters(self, depth: int) -> Iterable[tuple[str, str, Convert]]:
        """(modern name, name here, how the values change) of every parameter."""
        for theirs, ours, layer in self.table:
            for n in range(depth if "{}" in ours else 1):
                for their_end, our_end, convert in layer:
                    yield theirs.format(n) + their_end, ours.format(n) + our_end, convert


VIT = Naming(
    "vit",
    table=(
        ("embeddings.cls_token", "cls", _CLS_AND_GRID),
        ("embeddings.position_embeddings", "positions", _CLS_AND_GRID),
        ("embeddings.patch_embeddings.projection", "patches", _PATCHES),
        ("layers.{}.layernorm_before", "blocks.{}.norm_attention", _NORM),
        ("layers.{}.attention.q_proj", "blocks.{}.query", _LINEAR),
        ("layers.{}.attention.k_proj", "blocks.{}.key", _LINEAR),
        ("layers.{}.attention.v_proj", "blocks.{}.value", _LINEAR),
        ("layers.{}.attention.o_proj", "blocks.{}.out", _LINEAR),
        ("layers.{}.layernorm_after", "blocks.{}.norm_mlp", _NORM),
        ("layers.{}.mlp.fc1", "blocks.{}.up", _LINEAR),
        ("layers.{}.mlp.fc2", "blocks.{}.down", _LINEAR),
        ("layernorm", "norm", _NORM),
    ),
    # transformers 5 renamed the blocks in memory; its files, and the hub's, keep the old names.
    older=(
        ("encoder.layer.", "layers."),
        (".attention.attention.query.", ".attention.q_proj."),
        (".attention.attention.key.", ".attention.k_proj."),
        (".attention.attention.value.", ".attention.v_proj."),
        (".attention.output.dense.", ".attention.o_proj."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
    ),
    ignored=("pooler.*", "classifier.*", "decoder.*", "embeddings.mask_token"),
)

DISTILBERT = Naming(
    "distilbert",
    table=(
        ("embeddings.word_embeddings", "words", _WORDS),
        ("embeddings.position_embeddings", "positions", _POSITIONS),
        ("embeddings.LayerNorm", "norm_embeddings", _NORM),
        ("transformer.layer.{}.attention.q_lin", "blocks.{}.query", _LINEAR),
        ("transformer.layer.{}.attention.k_lin", "blocks.{}.key", _LINEAR),
        ("transformer.layer.{}.attention.v_lin", "blocks.{}.value", _LINEAR),
        ("transformer.layer.{}.attention.out_lin", "blocks.{}.out", _LINEAR),
        ("transformer.layer.{}.sa_layer_norm", "blocks.{}.norm_attention", _NORM),
        ("transformer.layer.{}.ffn.lin1", "blocks.{}.up", _LINEAR),
        ("transformer.layer.{}.ffn.lin2", "blocks.{}.down", _LINEAR),
        ("transformer.layer.{}.output_layer_norm", "blocks.{}.norm_mlp", _NORM),
    ),
    ignored=("vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*", "*.position_ids"),
)


def resolve(checkpoint: str | Path) -> Path:
    """Find a checkpoint's folder: a local one, or one of the hub, downloaded or cached.

    Raises:
        InputError: there is no such folder, and the hub doesn't know it or can't be reached.
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
    except Exception as error:  # of a dozen unrelated types, all of which mean the same here
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"no folder {name}, and the hub doesn't give it ({reason}); give a "
            f"local folder, or run `hf download {name}` where there is a network"
        ) from error


def load_vit(checkpoint: str | Path, image_size: int | None = None, **how: Any) -> "ViT":
    """Load a `ViTModel` checkpoint, or the encoder inside a larger one.

    Args:
        checkpoint: see `resolve`.
        image_size: side of the images to come, if not the checkpoint's; the position embeddings
            are resampled for it, once.
        how: fields of the config that no checkpoint decides: dtype, layers, remat. Weights are
            float32, whatever the file holds.

    Raises:
        InputError: the checkpoint is missing, unreadable or of another architecture; or a weight
            is missing, left over, or of a shape that config.json doesn't imply.
    """
    from flax import nnx

    from mufin_jax.encoders.vit import ViT, ViTConfig, resample_positions

    vit = load(checkpoint, VIT, ViTConfig, ViT, how)
    if image_size is not None:
        vit.config = dataclasses.replace(vit.config, image_size=image_size)
        side = image_size // vit.config.patch
        vit.positions = nnx.Param(resample_positions(vit.positions[...], side, side))
    return vit


def load_distilbert(checkpoint: str | Path, **how: Any) -> "DistilBert":
    """Load a `DistilBertModel` checkpoint; as `load_vit` in all else."""
    from mufin_jax.encoders.distilbert import DistilBert, DistilBertConfig

    return load(checkpoint, DISTILBERT, DistilBertConfig, DistilBert, how)


def vit_config(checkpoint: str | Path) -> "ViTConfig":
    """Read the sizes of a `ViTModel` checkpoint, without its weights; raises as `load_vit`."""
    from mufin_jax.encoders.vit import ViTConfig

    return _parsed(resolve(checkpoint) / "config.json", ViTConfig.from_hf)


def image_processing(checkpoint: str | Path) -> ImageProcessing:
    """Read the preprocessing that an image checkpoint was trained with.

    Raises:
        InputError: preprocessor_config.json is missing, unreadable, or asks for another step.
    """
    return _parsed(resolve(checkpoint) / "preprocessor_config.json", ImageProcessing.from_hf)


def load(
    checkpoint: str | Path,
    naming: Naming,
    config_class: Any,
    module_class: Any,
    how: Mapping[str, Any],
) -> Any:
    """Make a module by a checkpoint's config and fill it, one tensor at a time; see `load_vit`."""
    import jax.numpy as jnp
    from flax import nnx

    from mufin_jax.abstract import abstract_module

    folder = resolve(checkpoint)
    config = dataclasses.replace(_parsed(folder / "config.json", config_class.from_hf), **how)
    files = {naming.modern(name): (file, name) for file, name in _tensors(folder)}
    if config.depth > len(files):  # making a module takes time for each block
        there = f"config.json has {config.depth} blocks, but there are {len(files)} tensors"
        raise InputError(f"{folder}: {there}; the files aren't of one model")
    module = abstract_module(lambda rngs: module_class(config, rngs))
    empty = {".".join(map(str, path)): p for path, p in nnx.to_flat_state(nnx.state(module))}
    for theirs, ours, convert in naming.parameters(config.depth):
        if theirs not in files or ours not in empty:
            continue
        (file, name), parameter = files.pop(theirs), empty.pop(ours)
        # Its axes may be more than a layer has, or its dtype that of no array.
        with damaged(f"{folder}: {_listed([name])} can't be used ({{reason}}); download it again"):
            values = convert(file.get_tensor(name))
        if values.shape != parameter.shape:
            shapes = f"{values.shape} for {ours}, but config.json implies {parameter.shape}"
            raise InputError(
                f"{folder}: {_listed([name])} gives {shapes}; the files aren't of one model"
            )
        parameter.set_value(jnp.asarray(values, jnp.float32))
    unused = [name for name in files if not any(fnmatch(name, i) for i in naming.ignored)]
    if unused or empty:
        names = f"not used: {_listed(unused)}; not filled: {_listed(empty)}"
        raise InputError(f"{folder}: the weights don't fit config.json's network; {names}")
    return module


def _tensors(folder: Path) -> Iterable[tuple[Any, str]]:
    """(open file, name) of every tensor; nothing is read but the headers."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        paths = [single]
    elif index.exists():
        # Only the last part of a path: an index mustn't point outside of its folder.
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
    """What `parse` makes of a JSON file, with the file's name in front of any complaint."""
    try:
        if isinstance(values := json.loads(path.read_text(encoding="utf-8")), dict):
            return parse(values)
        raise InputError("want a JSON object")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give a complete Hugging Face checkpoint") from None
    except Exception as error:  # what a wrong value meets is of many types
        raise InputError(f"{path}: {reason(error)}") from error


def _listed(names: Collection[str]) -> str:
    first = (" ".join(name.split())[:100] for name in sorted(names)[:8])
    shown = [*first, *([f"and {len(names) - 8} more"] if len(names) > 8 else [])]
    return ", ".join(shown) or "nothing"
