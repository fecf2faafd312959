"""What a sentence encoder's own files tell: how its tokens are pooled, and its prompts.

sentence-transformers writes them next to config.json: `modules.json` lists the steps from a text to
its vector, `1_Pooling/config.json` holds the pooling, and `config_sentence_transformers.json` the
prompts, which stand in front of each text ("query: "). This file needs no JAX: preparation reads
prompts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mufin_jax.encoders.checkpoint_files import parsed
from mufin_jax.runtime.errors import InputError

_PROMPTS = "config_sentence_transformers.json"
# The names in 1_Pooling/config.json, without `pooling_mode_`; ours.
_POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
_OTHERS = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")


def pooling_of(folder: Path) -> dict[str, Any]:
    """Return the fields `pooling` and `normalise` of a text encoder's config.

    Args:
        folder: Of the checkpoint.

    Returns:
        Both fields; nothing where the checkpoint has no modules.json.

    Raises:
        InputError: A file is unreadable, or lists a step or a pooling that isn't implemented.
    """
    if not (folder / "modules.json").exists():
        return {}
    steps = parsed(folder / "modules.json", _steps, list)
    found: dict[str, Any] = {"normalise": "Normalize" in steps}
    if "Pooling" in steps:
        found["pooling"] = parsed(folder / steps["Pooling"] / "config.json", _pooling)
    return found


def prompt_of(folder: Path, wanted: str | None = None) -> str:
    """Return what stands in front of each text.

    Args:
        folder: Of the checkpoint.
        wanted: The prompt, or the name of one of the checkpoint's own; None for its default one.

    Raises:
        InputError: The checkpoint's file of prompts is unreadable.
    """
    path = folder / _PROMPTS
    prompts, default = parsed(path, _prompts) if path.exists() else ({}, None)
    if wanted is None:
        return prompts.get(default, "")
    return prompts.get(wanted, wanted)


def _steps(modules: list[Any]) -> dict[str, str]:
    """Return the kinds of the steps, each with its folder."""
    steps = {module["type"].rpartition(".")[2]: module.get("path", "") for module in modules}
    if unknown := [name for name in steps if name not in ("Transformer", "Pooling", "Normalize")]:
        raise InputError(
            f"step {unknown[0]!r:.80} isn't implemented; expected Transformer, Pooling, Normalize"
        )
    if steps.get("Transformer"):
        raise InputError(
            f"the weights are in the folder {steps['Transformer']!r:.80}; expected them next to "
            "modules.json; load the model in sentence-transformers and save it again"
        )
    if ".." in Path(steps.get("Pooling", "")).parts or Path(steps.get("Pooling", "")).is_absolute():
        raise InputError(f"path {steps['Pooling']!r:.80} leads outside of the checkpoint's folder")
    return steps


def _pooling(config: Mapping[str, Any]) -> str:
    """Return our name of the pooling in a file of today, or of older versions."""
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [name for name in (*_POOLINGS, *_OTHERS) if config.get(f"pooling_mode_{name}")]
    names = [_today(mode) for mode in ([modes] if isinstance(modes, str) else modes or ["mean"])]
    if len(names) != 1 or names[0] not in _POOLINGS.values():
        expected = ", ".join(_POOLINGS.values())
        raise InputError(
            f"the pooling is {' and '.join(names)[:200]!r}; expected one of {expected}"
        )
    if not config.get("include_prompt", True):
        raise InputError("include_prompt is False; expected True: prompts are pooled with the text")
    return names[0]


def _today(mode: str) -> str:
    """Return our name of a pooling; other ones unchanged."""
    return _POOLINGS.get(mode, "last" if mode == "lasttoken" else mode)


def _prompts(config: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """Return the prompts by name, and the default one's name."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, Mapping) or not all(isinstance(p, str) for p in prompts.values()):
        raise InputError(f"prompts is {prompts!r:.200}; expected texts by name")
    if default is not None and default not in prompts:
        raise InputError(f"default_prompt_name is {default!r:.80}; expected one of {[*prompts]}")
    return dict(prompts), default
