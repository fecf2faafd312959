"""Make the golden checkpoints of DINOv2 and EfficientNet-Lite: tiny, random, by the references.

Needs torch, transformers 5 and efficientnet-lite-pytorch 0.1, which the project itself doesn't. Run
it from the root of the repository:
    python tests/golden/make_image_encoders.py
As make_other_encoders.py else; `dinov2_giant` has gated MLPs, and `efficientnet_lite` is a folder
as benchmarks/convert_efficientnet_lite.py writes it.
"""

import json

import numpy as np
import torch
from efficientnet_lite_pytorch import BlockArgs, EfficientNet, GlobalParams
from make_encoders import HERE, perturb
from make_other_encoders import COMMON, inputs, pictures, save
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

DINO = COMMON | {
    "crop_size": {"height": 24, "width": 24},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_rescale": True,
    "image_processor_type": "BitImageProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 32},
}
LITE = COMMON | {
    "do_rescale": True,
    "image_processor_type": "ViTImageProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": 40, "width": 40},
}
# Kernel, stride, expansion, input and output channels, units.
STAGES = [(3, 1, 1, 32, 8, 1), (5, 2, 2, 8, 12, 3), (3, 2, 6, 12, 10, 2)]


def make_dinov2(name: str, rng: np.random.Generator, **config) -> None:
    """Write a DINOv2."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_ratio": 2,
             "patch_size": 8, "image_size": 40, "layerscale_value": 0.5}  # fmt: skip
    model = Dinov2Model(Dinov2Config(**sizes, **config)).eval()
    perturb(model)
    images = pictures(rng, 40, 51, 32)
    with torch.no_grad():
        vectors = {
            f"{size}_vectors": model(inputs(pixels)).pooler_output.numpy()
            for size, pixels in images.items()
        }
    save(model, name, DINO, **images, **vectors)
    (HERE / name / "model.safetensors").chmod(0o644)


class Lite(EfficientNet):
    """The reference, which is saved as the converted checkpoints are."""

    def save_pretrained(self, folder) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(exist_ok=True)
        state = {name: values.contiguous() for name, values in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)
        columns = zip(*STAGES, strict=True)
        names = (
            "kernel_sizes",
            "strides",
            "expand_ratios",
            "",
            "out_channels",
            "num_block_repeats",
        )
        sizes = {name: list(column) for name, column in zip(names, columns, strict=True) if name}
        config = {
            "model_type": "efficientnet_lite",
            "stem_channels": 32,
            "hidden_dim": 1280,
            **sizes,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2))


def make_lite(rng: np.random.Generator) -> None:
    """Write an EfficientNet-Lite with random running statistics."""
    stages = [
        BlockArgs(num_repeat=units, kernel_size=kernel, stride=stride, expand_ratio=expansion,
                  input_filters=enters, output_filters=leaves, id_skip=True)
        for kernel, stride, expansion, enters, leaves, units in STAGES
    ]  # fmt: skip
    model = Lite(stages, GlobalParams(
        dropout_rate=0.0, num_classes=3, batch_norm_momentum=0.99, batch_norm_epsilon=1e-3,
        drop_connect_rate=0.0, relu_fn="relu6", fix_head_stem=True,
    )).eval()  # fmt: skip
    perturb(model)
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(torch.randn_like(buffer) * 0.2)
            if key.endswith("running_var"):
                buffer.mul_(torch.rand_like(buffer) + 0.5)
    images = pictures(rng, 40, 33, 70)
    with torch.no_grad():
        vectors = {
            f"{size}_vectors": model.extract_features(inputs(pixels)).mean((2, 3)).numpy()
            for size, pixels in images.items()
        }
    save(model, "efficientnet_lite", LITE, **images, **vectors)


if __name__ == "__main__":
    torch.manual_seed(0)
    make_dinov2("dinov2", np.random.default_rng(8))
    make_dinov2("dinov2_giant", np.random.default_rng(9), use_swiglu_ffn=True, qkv_bias=False)
    make_lite(np.random.default_rng(10))
