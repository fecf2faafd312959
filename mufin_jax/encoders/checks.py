"""Checks of encoder configs: those that a user sets, and those of Hugging Face checkpoints."""

from collections.abc import Mapping
from typing import Any

from mufin_jax.runtime.errors import InputError

_LEAST = 1e-30  # smaller numbers are 0 in float32


def how_computed(config: Any) -> dict[str, Any]:
    """Return the fields of an encoder's config that no checkpoint fixes: they change no weight."""
    return {name: getattr(config, name) for name in ("dtype", "layers", "remat")}


def check_transformer(config: Any) -> None:
    """Reject sizes that no transformer can have, among the fields that all of them share."""
    kind = type(config).__name__
    for name in ("width", "depth", "heads", "mlp"):
        check_size(config, name)
    if config.width % config.heads:
        raise InputError(f"{kind}: width={config.width} isn't a multiple of heads={config.heads}")
    check_epsilon(config, "layer_norm_eps")
    if config.init_std is not None and not 0 < config.init_std <= 1000:
        raise InputError(f"{kind}: init_std={config.init_std}; expected above 0, or None")
    check_computed(config)


def check_epsilon(config: Any, name: str) -> None:
    """Reject what a normalisation adds to a variance, unless it is above 0 and small."""
    if not _LEAST <= (value := getattr(config, name)) < 1:
        raise InputError(
            f"{type(config).__name__}: {name}={value}; expected above 0, from {_LEAST} to 1"
        )


def check_computed(config: Any) -> None:
    """Reject an unknown dtype, or an unknown way to compile blocks."""
    kind = type(config).__name__
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"{kind}: dtype={config.dtype!r}; expected auto, float32 or bfloat16")
    if config.layers not in ("unrolled", "scan"):
        raise InputError(f"{kind}: layers={config.layers!r}; expected unrolled or scan")


def check_size(config: Any, name: str, most: int = 2**24) -> None:
    """Reject a size, or sizes, that aren't whole numbers or that no array can have."""
    sizes = getattr(config, name)
    for size in sizes if isinstance(sizes, tuple) else [sizes]:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
            given = repr(size)[:40]
            raise InputError(
                f"{type(config).__name__}: {name}={given}; expected at least 1, at most {most:,}"
            )


def reject_unless(config: Mapping[str, Any], **wanted: Any) -> None:
    """Reject a Hugging Face config whose values, where present, differ from the expected ones."""
    for name, want in wanted.items():
        if config.get(name, want) != want:
            raise InputError(f"{name} is {repr(config[name])[:200]}; expected {want!r}")
