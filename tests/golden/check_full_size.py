"""Compare the encoders with Hugging Face's at full size, in float32.

The networks are random (including biases and LayerNorms), so nothing is downloaded. The script
needs torch and transformers 5 in addition to this package. Run it from the root of the repository:
    PYTHONPATH=. python tests/golden/check_full_size.py
Arguments, if any, name the encoders to compare. The script prints one JSON line with the largest
absolute difference of each, relative to the largest value if that is above 1. It exits with 1 if
a difference is above 1e-5.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    VisualBertConfig,
    VisualBertModel,
    ViTConfig,
    ViTModel,
)

from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder

TOLERANCE = 1e-5


def perturb(model: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter: no bias is then zero, and no scale is one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def image_difference(model: torch.nn.Module, vectors: Callable) -> float:
    """Return the largest difference of the vectors of three random images, by a perturbed model."""
    perturb(model)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = vectors(model, torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours = np.asarray(jax.jit(load_image_encoder(folder))(images))
    return difference(ours, theirs)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest absolute difference, relative to the largest value if that is above 1."""
    return float(np.abs(ours - theirs).max() / max(1, np.abs(theirs).max()))


def vit(patch: int) -> float:
    """Return the difference of the CLS vectors of a ViT."""
    model = ViTModel(ViTConfig(patch_size=patch))
    return image_difference(model, lambda model, x: model(x).last_hidden_state[:, 0])


def resnet(**config: Any) -> float:
    """Return the difference of the pooled vectors of a ResNet with random running statistics."""
    model = ResNetModel(ResNetConfig(**config))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(torch.rand_like(buffer) + 0.5)
        elif name.endswith("running_mean"):
            buffer.add_(torch.randn_like(buffer) * 0.1)
    for name, parameter in model.named_parameters():
        if name.endswith("normalization.weight"):  # or sums of many units would grow
            parameter.data.mul_(0.3)
    return image_difference(model, lambda model, x: model(x).pooler_output[:, :, 0, 0])


def clip_image() -> float:
    """Return the difference of CLIP's projected image vectors."""
    model = CLIPModel(CLIPConfig())
    return image_difference(model, lambda model, x: model.get_image_features(x).pooler_output)


def siglip() -> float:
    """Return the difference of SigLIP's pooled vectors."""
    config = SiglipConfig(text_config={"num_hidden_layers": 1, "vocab_size": 9})
    model = SiglipModel(config)
    return image_difference(model, lambda model, x: model.vision_model(x).pooler_output)


def clip_text() -> float:
    """Return the difference of CLIP's text vectors, for ragged texts with its tokenizer's end."""
    config = CLIPConfig(vision_config={"num_hidden_layers": 1})
    model, lengths = perturb(CLIPModel(config)), np.array([32, 3, 17, 2], np.int32)
    tokens = np.random.default_rng(0).integers(1, 49406, (4, 32)).astype(np.int32)
    tokens[np.arange(32) >= lengths[:, None] - 1] = 49407
    with torch.no_grad():
        theirs = model.get_text_features(torch.tensor(tokens).long()).pooler_output.numpy()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        encoder = load_text_encoder(folder)
    return difference(np.asarray(jax.jit(encoder)(tokens, lengths)), theirs)


def distilbert_differences() -> tuple[float, float]:
    """Return the differences of last hidden states and of their means, for ragged texts."""
    model = perturb(DistilBertModel(DistilBertConfig()))
    lengths = np.array([32, 3, 17, 1], np.int32)
    tokens = np.random.default_rng(0).integers(1, 30522, (4, 32)).astype(np.int32)
    real = np.arange(32) < lengths[:, None]
    with torch.no_grad():
        theirs = model(
            torch.tensor(tokens).long(), attention_mask=torch.tensor(real).long()
        ).last_hidden_state.numpy()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        encoder = load_text_encoder(folder)
    hidden = np.asarray(jax.jit(type(encoder).hidden)(encoder, tokens, lengths))
    means = np.asarray(jax.jit(encoder)(tokens, lengths))
    expected = np.stack([t[:n].mean(0) for t, n in zip(theirs, lengths, strict=True)])
    return float(np.abs(hidden - theirs)[real].max()), float(np.abs(means - expected).max())


def visual_bert() -> float:
    """Return the difference of vectors of ragged texts and pictures, at BERT-base's size."""
    model = perturb(VisualBertModel(VisualBertConfig(visual_embedding_dim=2048)))
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30522, (4, 32)).astype(np.int32)
    vectors = rng.uniform(0, 2, (4, 15, 2048)).astype(np.float32)
    real, shown = (
        np.arange(most) < np.array(counts)[:, None]
        for most, counts in ((32, [32, 3, 17, 2]), (15, [15, 4, 0, 1]))
    )
    with torch.no_grad():
        theirs = model(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(real).long(),
            visual_embeds=torch.tensor(vectors),
            visual_attention_mask=torch.tensor(shown).long(),
        ).pooler_output.numpy()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        encoder = load_text_encoder(folder)
    return difference(np.asarray(jax.jit(encoder)(tokens, real, vectors, shown)), theirs)


RESNET_18 = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
CHECKS: dict[str, Callable[[], Any]] = {
    "vit_b_32": lambda: vit(32),
    "vit_b_16": lambda: vit(16),
    "resnet_18": lambda: resnet(**RESNET_18),
    "resnet_101": lambda: resnet(depths=[3, 4, 23, 3]),
    "clip_image": clip_image,
    "siglip": siglip,
    "clip_text": clip_text,
    "distilbert_base": distilbert_differences,  # of the hidden states, and of their means
    "visual_bert_base": visual_bert,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    jax.config.update("jax_default_matmul_precision", "highest")
    chosen = sys.argv[1:] or CHECKS
    found = {name: CHECKS[name]() for name in chosen}
    print(json.dumps({"device": jax.devices()[0].device_kind, **found}))
    sys.exit(bool(np.max([np.max(value) for value in found.values()]) > TOLERANCE))
