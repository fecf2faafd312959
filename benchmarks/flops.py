"""Floating-point operations that an encoder and a training step need, and what devices can do.

A product of (m, k) and (k, n) counts 2mkn. Only matrix products count. *Needed* means: distinct
descriptors, real tokens, the last block of the ViT for its CLS token alone, no padding, and nothing
twice. A side that computes more than is needed gets no credit for it.
"""

import dataclasses
from typing import Any

from batches import Drawn

PEAK_TFLOPS = {  # dense bfloat16, as published
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5p": 459,
    "TPU v5": 459,
    "TPU v6": 918,
}
"""By a part of the device's name; the first that fits."""


@dataclasses.dataclass(frozen=True)
class Product:
    """`count` products of (m, k) and (k, n)."""

    m: int
    k: int
    n: int
    count: int = 1

    @property
    def flops(self) -> int:
        """Return the operations of all products."""
        return 2 * self.m * self.k * self.n * self.count


def peak_tflops(kind: str) -> float | None:
    """Return the peak of a device by its name, None if unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in kind), None)


def flops(products: list[Product]) -> int:
    """Return the operations of all products."""
    return sum(product.flops for product in products)


def block(config: Any, items: int, rows: int, keys: int) -> list[Product]:
    """Return the products of a transformer block for `rows` tokens an item, which see `keys`.

    Args:
        config: ours, of either encoder.
        items: images or texts.
        rows: tokens of an item that the block is computed for.
        keys: tokens of an item.
    """
    width, head = config.width, config.width // config.heads
    heads = items * config.heads
    return [
        Product(items * keys, width, width, 2),
        Product(items * rows, width, width, 2),
        Product(rows, head, keys, heads),
        Product(rows, keys, head, heads),
        Product(items * rows, width, config.mlp),
        Product(items * rows, config.mlp, width),
    ]


def vit_trunk(config: Any, images: int) -> list[Product]:
    """Return the products of a ViT below its last block."""
    patches = (config.image_size // config.patch) ** 2
    tokens = patches + 1
    below = block(config, images, tokens, tokens) * (config.depth - 1)
    return [Product(images * patches, 3 * config.patch**2, config.width), *below]


def vit_head(config: Any, images: int, whole: bool = False) -> list[Product]:
    """Return the products of the last block of a ViT, for the CLS token or the whole image."""
    tokens = (config.image_size // config.patch) ** 2 + 1
    return block(config, images, tokens if whole else 1, tokens)


def distilbert(config: Any, lengths: list[int]) -> list[Product]:
    """Return the products of a DistilBERT for texts of these lengths."""
    return [p for n in lengths for p in block(config, 1, n, n)] * config.depth


def step(model: Any, drawn: Drawn, cached: bool = False) -> int:
    """Return the operations that a training step needs.

    The trunk of the ViT goes forward once, or not at all where its tokens are `cached`; all else
    goes forward and, at twice the cost, backward, except Q, K and V of the last block of the ViT:
    their inputs need no gradient.
    """
    images, lengths = len(drawn.images), drawn.lengths.tolist()
    vit, text = model.image_encoder.config, model.text_encoder.config
    trunk = 0 if cached else flops(vit_trunk(vit, images))
    trained = flops(vit_head(vit, images)) + flops(distilbert(text, lengths))
    tokens = (vit.image_size // vit.patch) ** 2 + 1
    spared = flops([Product(images * n, vit.width, vit.width) for n in (1, tokens, tokens)])
    return trunk + 3 * (trained + _bags(model.dim, drawn)) - spared


def _bags(dim: int, drawn: Drawn) -> int:
    """Return the products of both attention blocks, factored, and of the similarities."""
    points, labels = drawn.points[1], drawn.labels[1]
    descriptors = int(points.sum() + labels.sum())
    self_attention = 2 * 4 * descriptors * dim**2
    self_attention += 2 * 2 * dim * int((points.sum(1) ** 2).sum() + (labels.sum(1) ** 2).sum())
    if drawn.chosen is None:
        return self_attention + 2 * len(points) * len(labels) * dim
    meetings = int((points.sum(1)[:, None] * labels.sum(1)[drawn.chosen]).sum())
    maps = int(points.sum() + 3 * labels.sum())  # q of datapoints; k, v and O of labels
    return self_attention + 2 * maps * dim**2 + 2 * 2 * dim * meetings
