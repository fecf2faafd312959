"""Compare ViT-B/32, ViT-B/16 and DistilBERT-base with Hugging Face's at full size, in float32.

The networks are random (biases and LayerNorms too), so nothing is downloaded. Needs torch and
transformers 5 beside this package; run by hand from the project's root:
    PYTHONPATH=. python tests/golden/check_full_size.py
Prints one JSON line with the largest absolute difference of each; exits 1 if one is above 1e-5.
"""

import json
import sys
import tempfile

import jax
import numpy as np
import torch
from transformers import DistilBertConfig, DistilBertModel, ViTConfig, ViTModel

from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder

TOLERANCE = 1e-5


def perturb(model: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter, so that no bias is zero and no scale is one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def vit_difference(patch: int) -> float:
    """Largest absolute difference of the CLS vectors of three random images."""
    model = perturb(ViTModel(ViTConfig(patch_size=patch)))
    images = np.random.default_rng(0).uniform(-1, 1, (3, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images.transpose(0, 3, 1, 2))).last_hidden_state[:, 0]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours = jax.jit(load_image_encoder(folder))(images)
    return float(np.abs(np.asarray(ours) - theirs.numpy()).max())


def distilbert_differences() -> tuple[float, float]:
    """The same of the last hidden states at real tokens, and of their means, for ragged texts."""
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


if __name__ == "__main__":
    torch.manual_seed(0)
    jax.config.update("jax_default_matmul_precision", "highest")
    hidden, mean = distilbert_differences()
    differences = {
        "vit_b_32": vit_difference(32),
        "vit_b_16": vit_difference(16),
        "distilbert_base_hidden": hidden,
        "distilbert_base_mean": mean,
    }
    print(json.dumps({"device": jax.devices()[0].device_kind, **differences}))
    sys.exit(max(differences.values()) > TOLERANCE)
