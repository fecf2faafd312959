"""Batches with a catalogue's statistics, drawn from a seed: the input of both sides.

MM-AmazonTitles-300K has 4.9 images an item, at most 15, and a title of up to 32 tokens each (paper,
section 4). Here the number of images is 1 + a negative binomial, and the length of a title a gamma,
both cut at their bounds. Token ids are as uneven as words. Pictures are coarse coloured squares.
Related items share a palette, which gives the model something to learn. Some items share their
first picture with a neighbour, and some datapoints are the same product as a label of the batch.
Each distinct text and image of a batch is held, and is to be encoded, once.

Everything is numpy. `for_ours` makes the input of our steps, `torch_twin/tensors.py` that of the
twin's.
"""

import dataclasses
from typing import Any

import numpy as np

from mufin_jax.runtime.distributed.padding import divide_up

SHARED = 0.1
"""Share of datapoints that are a label of the batch, and of items with a neighbour's picture."""
POSITIVES, NEGATIVES = 2, 12
"""Of Module IV; Module I draws POSITIVES points a label, too."""
CELLS = 8
"""Squares along the side of a picture."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What descriptors look like; the defaults are the paper's."""

    pixels: int = 224
    vocab: int = 30522
    most_images: int = 15
    mean_images: float = 4.9
    most_tokens: int = 32
    mean_tokens: float = 18


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A batch of either module. Descriptors are numbered texts first, then images.

    Attributes:
        tokens: int32 (t, s), zeros after a text's end.
        lengths: int32 (t,).
        images: uint8 (i, h, w, 3).
        labels: descriptor numbers (c, n) of the bags of the labels, and which are real (bool).
        points: the same of the datapoints (b, n).
        positives: Module I: bool (c, b). Module IV: bool (b, k), of the labels `chosen`.
        negatives: the same.
        ids: Module IV: int32 (c,), rows of the label table, ascending.
        chosen: Module IV: int32 (b, k), which of the c labels were drawn for each datapoint.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    images: np.ndarray
    labels: tuple[np.ndarray, np.ndarray]
    points: tuple[np.ndarray, np.ndarray]
    positives: np.ndarray
    negatives: np.ndarray
    ids: np.ndarray | None = None
    chosen: np.ndarray | None = None

    def facts(self) -> dict[str, Any]:
        """Return the facts of a batch that belong to a result."""
        return {
            "labels": len(self.labels[0]),
            "points": len(self.points[0]),
            "images": len(self.images),
            "texts": len(self.tokens),
            "tokens": int(self.lengths.sum()),
        }


def module_1(seed: int, labels: int, look: Look = Look()) -> Drawn:
    """Draw a batch of Module I: labels, and two datapoints of each, which are neighbours."""
    rng = np.random.default_rng([1, seed])
    own = np.arange(labels)
    points = np.arange(labels, 3 * labels)
    themes = np.concatenate([own, np.repeat(own, POSITIVES)])
    # The same product as the label that comes next.
    twice = rng.random(len(points)) < SHARED
    points = np.where(twice, (np.repeat(own, POSITIVES) + 1) % labels, points)
    descriptors, (label_bags, point_bags) = _describe(rng, [own, points], themes, look)
    drawn_for = np.repeat(own, POSITIVES)[None] == own[:, None]
    first = np.zeros(len(points), bool)
    first[np.unique(points, return_index=True)[1]] = True  # one candidate, not two
    return Drawn(*descriptors, label_bags, point_bags, drawn_for, ~drawn_for & first)


def module_4(
    seed: int,
    points: int,
    num_labels: int,
    look: Look = Look(),
    negatives: int = NEGATIVES,
) -> Drawn:
    """Draw a batch of Module IV: datapoints, and 2 positives and 12 negatives for each of them.

    Args:
        seed: of the draw.
        points: datapoints.
        num_labels: L; the labels drawn are any of them.
        look: of the descriptors.
        negatives: labels drawn for each datapoint from its shortlist.
    """
    rng = np.random.default_rng([4, seed])
    each = POSITIVES + negatives
    # Datapoints meet in popular labels: a tenth fewer are distinct than are drawn.
    known = rng.choice(num_labels, min(num_labels, 5 * points * each), replace=False)
    drawn = np.stack([rng.choice(known, each, replace=False) for _ in range(points)])
    ids, chosen = np.unique(drawn, return_inverse=True)
    chosen = chosen.reshape(drawn.shape)
    items = len(ids) + np.arange(points)
    themes = np.concatenate([np.arange(len(ids)), chosen[:, 0]])
    twice = rng.random(points) < SHARED
    items = np.where(twice, chosen[:, -1], items)
    groups = [np.arange(len(ids)), items]
    descriptors, (label_bags, point_bags) = _describe(rng, groups, themes, look)
    first = np.broadcast_to(np.arange(each) < POSITIVES, drawn.shape)
    return Drawn(
        *descriptors, label_bags, point_bags, first.copy(), ~first,
        ids.astype(np.int32), chosen.astype(np.int32),
    )  # fmt: skip


def _describe(
    rng: np.random.Generator, groups: list[np.ndarray], themes: np.ndarray, look: Look
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """Give products their titles and pictures; return the distinct ones, and the groups' bags."""
    products, place = np.unique(np.concatenate(groups), return_inverse=True)
    count = len(products)
    lengths = rng.gamma(7, look.mean_tokens / 7, count).round()
    lengths = lengths.clip(min(4, look.most_tokens), look.most_tokens).astype(np.int32)
    # The n-th commonest word about 1/n as common as the first.
    tokens = np.exp(rng.random((count, look.most_tokens)) * np.log(look.vocab)).astype(np.int32)
    tokens = np.where(np.arange(look.most_tokens) < lengths[:, None], tokens, 0)
    more = look.mean_images - 1
    images = 1 + rng.negative_binomial(3, 3 / (3 + more), count).clip(0, look.most_images - 1)
    starts = np.cumsum(images) - images
    shares = (rng.random(count) < SHARED) & (np.arange(count) > 0)
    slots = np.zeros((count, 1 + look.most_images), np.int32)
    mask = np.arange(1 + look.most_images) < 1 + images[:, None]
    slots[:, 0] = np.arange(count)
    slots[:, 1:] = count + starts[:, None] + np.arange(look.most_images)
    slots[shares, 1] = slots[np.flatnonzero(shares) - 1, 1]
    # A picture that only stood for itself is nobody's any more.
    used, renumbered = np.unique(slots[mask], return_inverse=True)
    slots = np.zeros_like(slots)
    slots[mask] = renumbered
    pictures = _pictures(rng, np.repeat(themes[products], images)[used[count:] - count], look)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    bags = [(slots[rows], mask[rows]) for rows in np.split(place.reshape(-1), ends)]
    return (tokens.astype(np.int32), lengths, pictures), bags


def _pictures(rng: np.random.Generator, themes: np.ndarray, look: Look) -> np.ndarray:
    """Return one picture for each theme: half of it is the theme's, half its own."""
    palette = rng.random((themes.max() + 1, CELLS, CELLS, 3), np.float32)
    grid = 0.5 * palette[themes] + 0.5 * rng.random((len(themes), CELLS, CELLS, 3), np.float32)
    side = divide_up(look.pixels, CELLS)
    cells = (255 * grid).astype(np.uint8)
    large = np.repeat(np.repeat(cells, side, 1), side, 2)
    return np.ascontiguousarray(large[:, : look.pixels, : look.pixels])


def for_ours(drawn: Drawn, num_labels: int = 0, trunk: Any = None) -> Any:
    """Return the batch as our loader would: padded to buckets, in numpy.

    Args:
        drawn: of either module.
        num_labels: L, for Module IV.
        trunk: a function from padded images to the tokens of the image encoder's trunk, to take
            their place; None: the images themselves.
    """
    from mufin_jax.data.bags import TEXTS_A_ROW, Bags, PackedTexts, Pool
    from mufin_jax.data.packing import pack_texts
    from mufin_jax.data.sources import Pixels, TrunkStates
    from mufin_jax.model.label_table import padded_rows
    from mufin_jax.runtime.distributed.padding import pad_rows
    from mufin_jax.training import finetune_batches, pretrain_batches

    tokens, places, homes = pack_texts(drawn.tokens, drawn.lengths)
    tokens, places = pad_rows(tokens), pad_rows(places, fill=-1)  # rows without a text
    images = pad_rows(drawn.images)
    seen = Pixels(images) if trunk is None else TrunkStates(trunk(images))
    pool = Pool(PackedTexts(tokens, places), seen)
    homes = np.append(homes, TEXTS_A_ROW * len(tokens) + np.arange(len(images)))

    def bags(slots: np.ndarray, mask: np.ndarray) -> Bags:
        return Bags(np.where(mask, homes[slots], 0).astype(np.int32), mask)

    labels, points = bags(*drawn.labels), bags(*drawn.points)
    if drawn.ids is None:
        return pretrain_batches.Batch(pool, labels, points, drawn.positives, drawn.negatives)
    ids, _ = finetune_batches.pad_labels(drawn.ids, padded_rows(num_labels))
    _, rows = finetune_batches.pad_labels(np.arange(len(drawn.ids)), 0)
    labels = Bags(labels.slots[rows], labels.mask[rows])
    return finetune_batches.Batch(
        pool, points, labels, ids, drawn.chosen, drawn.positives, drawn.negatives
    )  # fmt: skip
