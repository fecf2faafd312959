"""A checkpoint's folder and its files: found, and read without running anything in them."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mufin_jax.runtime.errors import InputError, reason
from mufin_jax.runtime.storage.paths import user_path
from mufin_jax.runtime.storage.text import load_text


def resolve(checkpoint: str | Path) -> Path:
    """Find a checkpoint's folder: a local one, or one of the hub, downloaded or cached.

    Raises:
        InputError: No such folder exists, and the hub doesn't know it or can't be reached.
    """
    folder, name = user_path(checkpoint, "checkpoint"), str(checkpoint)
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


def tensors(folder: Path) -> Iterable[tuple[Any, str]]:
    """Yield (open file, name) for every tensor; only the headers are read."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        paths = [single]
    elif index.exists():
        # Only the last part of a path: an index must not lead outside of its folder.
        shards = parsed(index, lambda d: {Path(shard).name for shard in d["weight_map"].values()})
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


def parsed(path: Path, parse: Callable[[Any], Any], form: type = dict) -> Any:
    """Return what `parse` makes of a JSON file; its errors begin with the file's name.

    Args:
        path: The file.
        parse: Reads its content.
        form: The type of the content.

    Raises:
        InputError: The file is missing, isn't JSON or has another form, or `parse` rejects it.
    """
    try:
        if isinstance(values := json.loads(load_text(path)), form):
            return parse(values)
        raise InputError(f"expected a JSON {'object' if form is dict else 'list'}")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give a complete Hugging Face checkpoint") from None
    except Exception as error:  # a wrong value raises many types
        raise InputError(f"{path}: {reason(error)}") from error
