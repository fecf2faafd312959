"""Trainings that both sides must end with the same result: a few items, whose loss falls.

Two batches alternate for 20 steps, after a warm-up of 4. This is enough for a loss to fall at a
high rate, and for Adam's moments to matter. Bags are smaller than a catalogue's, to save time. With
these seeds both batches fall into the same buckets: one program serves both.
"""

import dataclasses
from pathlib import Path

import numpy as np
from batches import Drawn, Look, module_1, module_4

STEPS, WARM_UP, DIFFERENT = 20, 4, 2


@dataclasses.dataclass(frozen=True)
class Task:
    """One training: its data and its rate.

    Attributes:
        look: of the descriptors.
        rate: peak learning rate of everything.
        labels: of a batch of Module I.
        points: of a batch of Module IV.
        negatives: of each of them.
        num_labels: L.
        seeds: of the two batches of Module I, and of those of Module IV.
    """

    look: Look
    rate: float
    labels: int
    points: int
    negatives: int
    num_labels: int
    seeds: dict[int, tuple[int, int]]

    def draw(self, module: int) -> list[Drawn]:
        """Return the alternating batches of a module."""
        if module == 1:
            return [module_1(seed, self.labels, self.look) for seed in self.seeds[1]]
        return [
            module_4(seed, self.points, self.num_labels, self.look, self.negatives)
            for seed in self.seeds[4]
        ]


FULL = Task(Look(most_images=2, mean_images=1.5), 5e-6, 3, 2, 2, 2000, seeds={1: (0, 4), 4: (0, 1)})
SMALL = Task(
    Look(16, 31, most_images=3, mean_images=2, most_tokens=12, mean_tokens=7),
    5e-3, 5, 3, 4, 40, seeds={1: (1, 3), 4: (0, 5)},
)  # fmt: skip


def save_batch(batch: Drawn, path: Path) -> None:
    """Write a batch as npz."""
    arrays = {}
    for name, value in vars(batch).items():
        if isinstance(value, tuple):
            arrays[f"{name}.slots"], arrays[f"{name}.mask"] = value
        elif value is not None:
            arrays[name] = value
    np.savez_compressed(path, **arrays)


def load_batch(path: Path) -> Drawn:
    """Read what `save_batch` wrote."""
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    for side in ("labels", "points"):
        found[side] = found.pop(f"{side}.slots"), found.pop(f"{side}.mask")
    return Drawn(**found)
