"""Compare two trainings from the same weights on the same batches.

Weights are compared by how they *moved*: for each array, |ours - theirs| / |theirs - start|, norms
over the array. Adam divides a gradient by its own size. An entry whose gradient is nearly zero
therefore moves as far as any other, in a direction that rounding decides. A bound on single entries
would have to be as large as the largest possible movement, `far`: the sum of the learning rates.

Biases of keys have no gradient at all in exact arithmetic, because they add the same to all logits
of a softmax. There each side follows its own rounding errors, without an effect on any output. They
are left out of the comparison. They may only not have moved further than `far`, within the rounding
of as many additions.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder

Weights = dict[str, np.ndarray]


def weights(module: nnx.Module, prefix: str = "") -> Weights:
    """Return copies of the weights of a module by path, as self_attention.query.kernel."""
    flat = nnx.to_flat_state(nnx.state(module))
    return {prefix + ".".join(map(str, path)): np.array(leaf[...]) for path, leaf in flat}


def twin_weights(folder: Path) -> Weights:
    """Return what `torch_twin.training.save` wrote, by our names and in our shapes."""
    found = weights(load_image_encoder(folder / "vit"), "image_encoder.")
    found |= weights(load_text_encoder(folder / "distilbert"), "text_encoder.")
    with np.load(folder / "rest.npz") as rest:
        for name, value in rest.items():
            part, _, leaf = name.rpartition(".")
            if leaf == "weight":
                leaf = "scale" if part.endswith("norm") else "kernel"
                value = value.T
            found[f"{part}.{leaf}" if part else leaf] = value
    return found


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How near two trainings are.

    Attributes:
        loss: largest |ours - theirs| / theirs of the losses of all steps, none of which is 0.
        moved: largest |ours - theirs| / |theirs - start| of an array, norms over the array.
        worst: the array with this value.
        entry: largest difference of a single entry, over `far`.
        key_biases: furthest that an entry of a key's bias went on either side, over `far`.
    """

    loss: float
    moved: float
    worst: str
    entry: float
    key_biases: float

    def within(self, loss: float, moved: float) -> bool:
        """Return whether losses and movements agree within these bounds."""
        return self.loss <= loss and self.moved <= moved and self.key_biases <= 1 + 1e-3


def agreement(
    losses: tuple[Any, Any], ours: Weights, theirs: Weights, start: Weights, far: float
) -> Agreement:
    """Compare two trainings.

    Args:
        losses: of ours and of theirs, a step each.
        ours: weights at the end.
        theirs: the same of theirs, by the same names.
        start: the weights that both began with.
        far: sum of the learning rates.

    Raises:
        ValueError: if the names differ, or if an array that did not move on one side moved on the
            other.
    """
    if not ours.keys() == theirs.keys() == start.keys():
        raise ValueError(f"names differ: {sorted(ours.keys() ^ theirs.keys())}")
    our_losses, their_losses = (np.array(side, np.float64) for side in losses)
    moved, entry, key_biases = {}, 0.0, 0.0
    for name, begun in start.items():
        mine, other = ours[name], theirs[name]
        if name.endswith("key.bias"):
            ways = (np.abs(side - begun).max() / far for side in (mine, other))
            key_biases = max(key_biases, *map(float, ways))
        elif np.array_equal(other, begun):
            if not np.array_equal(mine, begun):
                raise ValueError(f"{name} moved here, and not there")
        else:
            gap = np.abs(mine - other)
            moved[name] = float(np.linalg.norm(gap) / np.linalg.norm(other - begun))
            entry = max(entry, float(gap.max() / far))
    worst = max(moved, key=moved.__getitem__)
    relative = np.abs(our_losses - their_losses) / np.abs(their_losses)
    return Agreement(float(relative.max()), moved[worst], worst, entry, key_biases)
