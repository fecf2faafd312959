"""The two sizes of the twin's encoders, and checkpoints of them that both sides start from.

Weights are random, so nothing is downloaded. The files are those of the hub: config.json and
model.safetensors, written by `save_pretrained`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import DistilBertConfig, DistilBertModel, ViTConfig, ViTModel


@dataclasses.dataclass(frozen=True)
class Size:
    """Encoders by their `transformers` configs.

    Attributes:
        vit: of the image encoder.
        distilbert: of the text encoder.
        dim: D.
        noise: standard deviation of the noise on every initial weight; no bias is then zero, and
            no scale is one.
    """

    vit: dict[str, Any]
    distilbert: dict[str, Any]
    dim: int
    noise: float

    def vit_config(self) -> ViTConfig:
        """Return the image encoder's config."""
        return ViTConfig(**self.vit)

    def distilbert_config(self) -> DistilBertConfig:
        """Return the text encoder's config."""
        return DistilBertConfig(**self.distilbert)


FULL = Size({"patch_size": 32}, {}, dim=192, noise=0.02)
"""The paper's: ViT-B/32 at 224 pixels, DistilBERT-base, D = 192."""
SMALL = Size(
    {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "patch_size": 8,
        "image_size": 16,
    },
    {
        "vocab_size": 31,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 20,
        "max_position_embeddings": 12,
    },
    dim=6,
    noise=0.2,
)
"""Runs in seconds; D does not divide the width, so that runs of the max-pooling overlap."""


def write_checkpoints(folder: Path, size: Size, seed: int = 0) -> None:
    """Write random encoders to `folder`: vit/ and distilbert/, as `save_pretrained` does."""
    torch.manual_seed(seed)
    vit = ViTModel(size.vit_config(), add_pooling_layer=False)
    for name, model in (("vit", vit), ("distilbert", DistilBertModel(size.distilbert_config()))):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * size.noise)
        model.save_pretrained(folder / name)
