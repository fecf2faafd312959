"""Drawn batches as torch tensors."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from batches import Drawn
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Tensors:
    """A batch of either module, as `batches.Drawn`.

    Attributes:
        tokens: int64 (t, s), cut at the longest text.
        real: bool (t, s), True at real tokens.
        images: uint8 (i, h, w, 3).
        labels: descriptor numbers (c, n) of the labels' bags, int64, and which are real.
        points: the same of the datapoints.
        positives: bool; Module I (c, b), Module IV (b, k).
        negatives: the same.
        ids: Module IV: rows of the label table (c,), int64.
        chosen: Module IV: which of the labels were drawn for each datapoint (b, k), int64.
    """

    tokens: Tensor
    real: Tensor
    images: Tensor
    labels: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    positives: Tensor
    negatives: Tensor
    ids: Tensor | None
    chosen: Tensor | None

    def to(self, device: str) -> "Tensors":
        """Copy everything to a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Tensors":
        """Copy everything to page-locked memory, from which a GPU can copy by itself.

        A `DataLoader` with pin_memory does this ahead of time.
        """
        return self._each(lambda tensor: tensor.pin_memory())

    def used_on(self, stream: torch.cuda.Stream) -> "Tensors":
        """Record that a stream other than the one that made the tensors uses their memory."""

        def mark(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        return self._each(mark)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Tensors":
        def one(value: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
            if isinstance(value, tuple):
                return tuple(map(change, value))
            return None if value is None else change(value)

        fields = dataclasses.fields(self)
        return Tensors(**{field.name: one(getattr(self, field.name)) for field in fields})


def tensors(drawn: Drawn, num_labels: int = 0, fixed: bool = False) -> Tensors:
    """Return a batch as tensors on the host.

    Args:
        drawn: of either module.
        num_labels: L, for Module IV.
        fixed: pad texts, images and labels to our loader's buckets, because torch.compile would
            otherwise compile again for every size. Padding labels are real ones that no
            datapoint uses.
    """
    tokens, lengths, images = drawn.tokens, drawn.lengths, drawn.images
    labels, points, ids = drawn.labels, drawn.points, drawn.ids
    if fixed:
        from mufin_jax.runtime.distributed.padding import pad_rows, round_up

        moved = round_up(len(tokens)) - len(tokens)
        labels, points = (
            (np.where(slots < len(tokens), slots, slots + moved), mask)
            for slots, mask in (labels, points)
        )
        tokens, lengths = pad_rows(tokens), pad_rows(lengths)
        lengths = lengths.clip(1)  # attention over nothing is NaN
        images = pad_rows(images)
        if ids is not None:
            missing = round_up(len(ids)) - len(ids)
            others = np.setdiff1d(np.arange(min(num_labels, 2 * len(ids) + missing)), ids)
            ids = np.concatenate([ids, others[:missing]])
            labels = tuple(np.concatenate([part, part[:1].repeat(missing, 0)]) for part in labels)
    longest = tokens.shape[1] if fixed else int(lengths.max())
    put = torch.from_numpy
    return Tensors(
        put(tokens[:, :longest]).long(),
        put(np.arange(longest) < lengths[:, None]),
        put(images),
        (put(labels[0]).long(), put(labels[1])),
        (put(points[0]).long(), put(points[1])),
        put(drawn.positives),
        put(drawn.negatives),
        None if ids is None else put(ids).long(),
        None if drawn.chosen is None else put(drawn.chosen).long(),
    )
