"""The encoders by name, what the rest of the package asks of them, and which of their parts train.

To add one: write its config and module in a file of its own, its loader in pretrained.py, and its
line in `ENCODERS`. Importing this package imports no JAX; an encoder's file is imported when used.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from mufin_jax.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Training = Literal["frozen", "last", "full"]


@runtime_checkable
class Encoder(Protocol):
    """What an encoder is: descriptors in, one float32 vector each out.

    An image encoder takes normalised images (i, h, w, 3); a text encoder takes tokens (t, s) and
    lengths (t,), and, by `packed`, several texts a row. It is a plain NNX module that holds weights
    and its config, no random state. `trunk` is all that comes before the last block, `head` the
    rest: `encoder(images)` is `encoder.head(encoder.trunk(images))`.

    Its blocks are in a list `blocks`, its final LayerNorm (where there is one outside the blocks)
    is `norm`, and the config has `width`, `depth`, `dtype`, `layers` and `remat`: `trainable` and
    `layers.run_blocks` rely on these names.
    """

    config: Any

    def __call__(self, *inputs: "Array") -> "Float[Array, 'r width']":
        """One vector a descriptor."""
        ...

    def trunk(self, *inputs: "Array") -> "Float[Array, 'r p width']":
        """All that comes before the last block: constant, so cacheable, where `last` trains."""
        ...

    def head(self, tokens: "Array", *rest: "Array") -> "Float[Array, 'r width']":
        """The last block, the final LayerNorm and the pooling."""
        ...


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """Where an architecture lives; each field but the first is `module:name`."""

    modality: Literal["image", "text"]
    config: str
    module: str
    loader: str

    def config_class(self) -> type[Any]:
        """Import the config's dataclass."""
        return _imported(self.config)

    def module_class(self) -> type[Any]:
        """Import the module's class; call it with (config, rngs)."""
        return _imported(self.module)

    def load(self, checkpoint: str, **options: Any) -> Encoder:
        """Load a Hugging Face checkpoint; see pretrained.py for the options and errors."""
        return _imported(self.loader)(checkpoint, **options)


ENCODERS = {
    "vit": EncoderKind(
        modality="image",
        config="mufin_jax.encoders.vit:ViTConfig",
        module="mufin_jax.encoders.vit:ViT",
        loader="mufin_jax.encoders.pretrained:load_vit",
    ),
    "distilbert": EncoderKind(
        modality="text",
        config="mufin_jax.encoders.distilbert:DistilBertConfig",
        module="mufin_jax.encoders.distilbert:DistilBert",
        loader="mufin_jax.encoders.pretrained:load_distilbert",
    ),
}
"""Keyed by the `model_type` of a Hugging Face config.json."""


def find(name: str) -> EncoderKind:
    """Look an encoder up.

    Raises:
        InputError: no encoder has this name.
    """
    if name not in ENCODERS:
        raise InputError(f"no encoder is called {name!r}; there are {', '.join(ENCODERS)}")
    return ENCODERS[name]


def trainable(path: tuple[Any, ...], mode: Training, depth: int) -> bool:
    """Whether the parameter at `path` inside an encoder of `depth` blocks trains.

    frozen: nothing; last: the last block and the final LayerNorm, as the paper's Module I does
    with the ViT; full: everything.

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
    if mode == "last":
        return path[0] == "norm" or path[:2] == ("blocks", depth - 1)
    return mode == "full"


def how_computed(config: Any) -> dict[str, Any]:
    """The fields of an encoder's config that no checkpoint decides: they leave weights alone."""
    return {name: getattr(config, name) for name in ("dtype", "layers", "remat")}


def check_transformer(config: Any) -> None:
    """Refuse what no transformer can have; the fields are those that all encoders share."""
    kind = type(config).__name__
    for name in ("width", "depth", "heads", "mlp"):
        check_size(config, name)
    if config.width % config.heads:
        raise InputError(f"{kind}: width={config.width} isn't a multiple of heads={config.heads}")
    if not config.layer_norm_eps > 0:
        raise InputError(f"{kind}: layer_norm_eps={config.layer_norm_eps}; want above 0")
    if config.init_std is not None and not config.init_std > 0:
        raise InputError(f"{kind}: init_std={config.init_std}; want above 0, or None")
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"{kind}: dtype={config.dtype!r}; want auto, float32 or bfloat16")
    if config.layers not in ("unrolled", "scan"):
        raise InputError(f"{kind}: layers={config.layers!r}; want unrolled or scan")


def check_size(config: Any, name: str, most: int = 2**24) -> None:
    """Refuse a size that isn't a whole number, or that no array can have."""
    size = getattr(config, name)
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


def _imported(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)
