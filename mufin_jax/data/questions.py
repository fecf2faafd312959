"""What test points of outfits ask: which item completes an outfit, and do its items suit.

A fill-in-the-blank question is a test point with given answers: labels, one of them right. An
outfit to be judged is a set of labels. Both come with the data (Polyvore's official files).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64

from mufin_jax.data.strings import check_offsets
from mufin_jax.runtime.storage.npy import load_arrays

_DTYPES = {
    **dict.fromkeys(("answers", "right", "items"), np.int32),
    **dict.fromkeys(("unseen", "compatible"), np.bool_),
    "offsets": np.int64,
}


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions, row for row those of the test points, and outfits to be judged.

    Attributes:
      answers: the labels to choose from; -1 in free places, and for answers without descriptors.
      right: the place of the right one.
      unseen: whether no item of a question, its answers included, occurs in a training outfit.
      offsets, items: outfit i is made of the labels `items[offsets[i]:offsets[i + 1]]`.
      compatible: whether somebody put outfit i together; else it was thrown together.
    """

    answers: Int32[np.ndarray, "q c"]
    right: Int32[np.ndarray, " q"]
    unseen: Bool[np.ndarray, " q"]
    offsets: Int64[np.ndarray, " outfits_plus_1"]
    items: Int32[np.ndarray, " i"]
    compatible: Bool[np.ndarray, " outfits"]

    def __repr__(self) -> str:
        return f"Questions({len(self.right):,} questions, {len(self.compatible):,} outfits)"

    def outfits(self) -> list[np.ndarray]:
        """Return the labels of each outfit."""
        return np.split(self.items, self.offsets[1:-1]) if len(self.compatible) else []

    def compact(
        self, test: Bool[np.ndarray, " q"], label: Bool[np.ndarray, " labels"]
    ) -> "Questions":
        """Return the questions of the test points that are kept, by the new numbers of kept labels.

        An outfit of which fewer than two items are kept is left out.
        """
        number = np.append(np.where(label, np.cumsum(label) - 1, -1), -1).astype(np.int32)
        whole = zip(self.outfits(), self.compatible.tolist(), strict=True)
        left = [(number[labels], suits) for labels, suits in whole]
        left = [(labels[labels >= 0], suits) for labels, suits in left]
        left = [(labels, suits) for labels, suits in left if len(labels) > 1]
        return dataclasses.replace(
            self,
            answers=number[self.answers[test]],
            right=self.right[test],
            unseen=self.unseen[test],
            **pack([labels for labels, _ in left]),
            compatible=np.array([suits for _, suits in left], bool),
        )

    def save(self, path: Path) -> None:
        """Write an npz file without objects."""
        np.savez(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Questions":
        """Return what `save` wrote; raise ValueError if it cannot be read."""
        arrays = load_arrays(path)
        for name, dtype in _DTYPES.items():
            array, axes = arrays[name], 2 if name == "answers" else 1
            if array.dtype != dtype or array.ndim != axes:
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
        return cls(**{name: arrays[name] for name in _DTYPES})

    def check(self, num_questions: int, num_labels: int) -> None:
        """Raise ValueError where one array points beyond the end of another."""
        count, places = self.answers.shape
        if not count == len(self.right) == len(self.unseen) == num_questions:
            raise ValueError(f"{count:,} questions for {num_questions:,} test points")
        check_offsets(self.offsets, len(self.items))
        if len(self.offsets) != len(self.compatible) + 1:
            raise ValueError(f"{len(self.offsets) - 1:,} outfits, {len(self.compatible):,} judged")
        for numbers, low, high in (
            *((self.answers, -1, num_labels), (self.items, 0, num_labels)),
            (self.right, 0, places),
        ):
            if numbers.size and not low <= numbers.min() <= numbers.max() < high:
                raise ValueError(f"numbers go from {numbers.min()} to {numbers.max()}, of {high:,}")


def pack(outfits: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return outfits as `offsets` and `items`."""
    offsets = np.zeros(len(outfits) + 1, np.int64)
    np.cumsum([len(labels) for labels in outfits], out=offsets[1:])
    items = np.concatenate([*outfits, np.zeros(0, np.int64)]).astype(np.int32)
    return {"offsets": offsets, "items": items}
