"""Make the golden checkpoints of the encoder tests: tiny, random, by Hugging Face's own code.

Needs torch and transformers 5, which the project itself doesn't. Run it from the root of the
repository:
    python tests/golden/make_encoders.py
Each folder is a checkpoint as `save_pretrained` writes it, and `expected.npz`: inputs and the
outputs of torch.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

HERE = Path(__file__).parent
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.6, 0.7],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": 24, "width": 24},
}


def perturb(model: torch.nn.Module) -> None:
    """Move every parameter: no bias is then zero, and no scale is one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """Rescale and normalise like Hugging Face's processor, channels first."""
    mean, std = np.array(PREPROCESSOR["image_mean"]), np.array(PREPROCESSOR["image_std"])
    values = (pixels / 255 - mean) / std
    return torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32)


def make_vits(rng: np.random.Generator) -> None:
    """Write one network to two folders: the old names as saved, the new ones as in memory."""
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        patch_size=8,
        image_size=24,
        layer_norm_eps=1e-6,
    )
    classifier = ViTForImageClassification(config).eval()
    vit = ViTModel(config).eval()
    perturb(vit)
    classifier.vit.load_state_dict({k: v for k, v in vit.state_dict().items() if "pooler" not in k})

    native = rng.integers(0, 256, (3, 24, 24, 3), np.uint8)
    other = rng.integers(0, 256, (2, 51, 32, 3), np.uint8)
    with torch.no_grad():
        native_cls = vit(normalised(native)).last_hidden_state[:, 0]
        other_cls = vit(normalised(other), interpolate_pos_encoding=True).last_hidden_state[:, 0]

    vit.save_pretrained(HERE / "vit")
    config.save_pretrained(HERE / "vit_new_names")
    # save_pretrained uses the names of transformers 4; in memory they are new.
    save_file(classifier.state_dict(), HERE / "vit_new_names" / "model.safetensors")
    for name in ("vit", "vit_new_names"):
        (HERE / name / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
        np.savez_compressed(
            HERE / name / "expected.npz",
            native=native,
            native_cls=native_cls.numpy(),
            other=other,
            other_cls=other_cls.numpy(),
        )


def make_distilbert(rng: np.random.Generator) -> None:
    """Write a DistilBERT inside a masked language model, like the checkpoint of the hub."""
    config = DistilBertConfig(
        vocab_size=61,
        dim=24,
        n_layers=3,
        n_heads=3,
        hidden_dim=40,
        max_position_embeddings=11,
    )
    model = DistilBertForMaskedLM(config).eval()
    perturb(model)
    lengths = np.array([7, 1, 4, 9], np.int32)
    tokens = rng.integers(1, 61, (4, 9)).astype(np.int32)
    real = np.arange(9) < lengths[:, None]
    tokens[~real] = 0
    with torch.no_grad():
        hidden = model.distilbert(
            torch.tensor(tokens).long(), attention_mask=torch.tensor(real).long()
        ).last_hidden_state
    weights = torch.tensor(real).float()[..., None]
    mean = (hidden * weights).sum(1) / weights.sum(1)
    model.save_pretrained(HERE / "distilbert")
    np.savez_compressed(
        HERE / "distilbert" / "expected.npz",
        tokens=tokens,
        lengths=lengths,
        hidden=hidden.numpy(),
        mean=mean.numpy(),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    make_vits(np.random.default_rng(0))
    make_distilbert(np.random.default_rng(1))
