"""Make the golden checkpoints of ResNet, CLIP and SigLIP: tiny, random, by Hugging Face's own code.

Needs torch and transformers 5, which the project itself doesn't. Run it from the root of the
repository:
    python tests/golden/make_other_encoders.py
The folders are like those of make_encoders.py. The preprocessor files are like those on the hub of
microsoft/resnet-18, openai/clip-vit-base-patch32 and google/siglip2-base-patch16-224, at a smaller
size.
"""

import json

import numpy as np
import torch
from make_encoders import HERE, perturb
from PIL import Image
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
)

MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]
COMMON = {"do_normalize": True, "do_resize": True, "image_mean": MEAN, "image_std": STD}
RESNET = COMMON | {
    "crop_pct": 0.875,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "resample": 3,
    "size": 40,
}
CLIP = COMMON | {
    "crop_size": 24,
    "do_center_crop": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "resample": 3,
    "size": 24,
}
SIGLIP = COMMON | {
    "do_rescale": True,
    "image_processor_type": "SiglipImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 24, "width": 24},
}
TITLES = ["A red chair", "lamp 42", "the Lamp's chair  and table", "red"]


def inputs(pixels: np.ndarray) -> torch.Tensor:
    """Rescale and normalise like Hugging Face's processors, channels first."""
    values = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32)


def pictures(rng: np.random.Generator, side: int, height: int, width: int) -> dict:
    """Return random images of a network's own size, and of another size that is not square."""
    return {
        "native": rng.integers(0, 256, (3, side, side, 3), np.uint8),
        "other": rng.integers(0, 256, (2, height, width, 3), np.uint8),
    }


def photo(rng: np.random.Generator) -> np.ndarray:
    """Return a smooth picture of 61 x 45 pixels, in which a shift by one pixel is visible."""
    noise = rng.integers(0, 256, (8, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((45, 61), Image.Resampling.BICUBIC))


def save(model: torch.nn.Module, name: str, preprocessor: dict, **expected: np.ndarray) -> None:
    """Write a checkpoint, its outputs for inputs, and its preprocessing of a photo."""
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    taken = photo(np.random.default_rng(7))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = processor(Image.fromarray(taken), do_normalize=False, do_rescale=False)
    prepared = np.asarray(found["pixel_values"][0]).transpose(1, 2, 0)
    np.savez_compressed(
        folder / "expected.npz", photo=taken, prepared=prepared.astype(np.uint8), **expected
    )


def make_resnet(name: str, rng: np.random.Generator, **config) -> None:
    """Write a ResNet with random running statistics."""
    model = ResNetModel(ResNetConfig(**config)).eval()
    perturb(model)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("normalization.weight"):  # otherwise sums of many units would grow
                parameter.mul_(0.3)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(torch.randn_like(buffer) * 0.2)
            if key.endswith("running_var"):
                buffer.mul_(torch.rand_like(buffer) + 0.5)
    images = pictures(rng, 40, 33, 70)
    with torch.no_grad():
        vectors = {f"{k}_vectors": model(inputs(v)).pooler_output[:, :, 0, 0].numpy()
                   for k, v in images.items()}  # fmt: skip
    save(model, name, RESNET, **images, **vectors)


def clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's pipeline with a small vocabulary; its last two tokens start and end a text."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789'"
    merges = ["r e", "re d</w>", "c h", "a i", "ch ai", "chai r</w>", "l a", "m p</w>", "la mp</w>"]
    words = [*letters, *(f"{c}</w>" for c in letters), *("".join(m.split()) for m in merges)]
    vocab = {word: n for n, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m.split()) for m in merges])


def make_clip(rng: np.random.Generator) -> None:
    """Write both encoders in one checkpoint, with its tokenizer."""
    tokenizer = clip_tokenizer()
    layer = {"num_attention_heads": 3, "initializer_factor": 1.0}
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "patch_size": 8,
              "image_size": 24, **layer}  # fmt: skip
    text = {"hidden_size": 18, "intermediate_size": 28, "num_hidden_layers": 2,
            "vocab_size": len(tokenizer), "max_position_embeddings": 30,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            **layer}  # fmt: skip
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20)).eval()
    perturb(model)
    images = pictures(rng, 24, 51, 32)
    asked = tokenizer(TITLES, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors = {
            f"{name}_vectors": model.get_image_features(
                inputs(pixels), interpolate_pos_encoding=name == "other"
            ).pooler_output.numpy()
            for name, pixels in images.items()
        }
        texts = model.get_text_features(**asked).pooler_output.numpy()
    save(
        model, "clip", CLIP, **images, **vectors, text_vectors=texts,
        tokens=asked["input_ids"].numpy().astype(np.int32),
        lengths=asked["attention_mask"].sum(1).numpy().astype(np.int32),
    )  # fmt: skip
    tokenizer.save_pretrained(HERE / "clip")
    for path in (HERE / "clip").glob("*token*.json"):
        if path.name != "tokenizer.json":
            path.unlink()


def make_siglip(rng: np.random.Generator) -> None:
    """Write both encoders in one checkpoint; we use only that of images."""
    layer = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
    vision = {"num_hidden_layers": 3, "patch_size": 8, "image_size": 24, **layer}
    text = {"num_hidden_layers": 1, "vocab_size": 19, "max_position_embeddings": 4, **layer}
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval()
    perturb(model)
    images = pictures(rng, 24, 51, 32)
    with torch.no_grad():
        vectors = {
            f"{name}_vectors": model.vision_model(
                inputs(pixels), interpolate_pos_encoding=name == "other"
            ).pooler_output.numpy()
            for name, pixels in images.items()
        }
    save(model, "siglip", SIGLIP, **images, **vectors)


if __name__ == "__main__":
    torch.manual_seed(0)
    make_resnet(
        "resnet_basic", np.random.default_rng(2),
        embedding_size=6, hidden_sizes=[6, 8, 10, 12], depths=[1, 2, 1, 3], layer_type="basic",
    )  # fmt: skip
    make_resnet(
        "resnet_bottleneck", np.random.default_rng(3),
        embedding_size=6, hidden_sizes=[16, 20, 24, 28], depths=[2, 1, 3, 2],
    )  # fmt: skip
    make_clip(np.random.default_rng(4))
    make_siglip(np.random.default_rng(5))
