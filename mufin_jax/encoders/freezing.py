"""Which parameters of an encoder train: none, those of the last block, or all."""

from typing import Any, Literal, get_args

from mufin_jax.runtime.errors import InputError

Training = Literal["frozen", "last", "full"]


_HEAD = ("norm", "pooling", "projection")


_STATISTICS = ("mean", "variance")


def trainable(path: tuple[Any, ...], mode: Training, depth: int) -> bool:
    """Return whether the parameter at `path` inside an encoder of `depth` blocks trains.

    In mode "frozen" nothing trains; in "last", the last block and what follows it, as the paper's
    Module I does with the ViT; in "full", everything. The running statistics of a batch norm never
    train.

    Args:
        path: The keys of `nnx.to_flat_state` or of a pure dict, as ("blocks", 3, "up", "bias").
        mode: How much of the encoder trains.
        depth: Number of blocks of the encoder.

    Raises:
        InputError: An unknown mode.
    """
    if mode not in get_args(Training):
        raise InputError(
            f"encoder training is {mode!r}; expected one of {', '.join(get_args(Training))}"
        )
    if path[-1] in _STATISTICS:
        return False
    if mode == "last":
        return path[0] in _HEAD or path[:2] == ("blocks", depth - 1)
    return mode == "full"
