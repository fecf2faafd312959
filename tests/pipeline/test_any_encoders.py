"""Any image encoder works with any text encoder: in training, on the disk and in caches."""

import dataclasses

import jax
import numpy as np
import pytest
import small
from flax import nnx
from small import CONFIG, weights

from mufin_jax.data.loader import Loader
from mufin_jax.encoders.clip_text import ClipTextConfig
from mufin_jax.encoders.dinov2 import Dinov2Config
from mufin_jax.encoders.efficientnet_lite import EfficientNetLiteConfig
from mufin_jax.encoders.modernbert import ModernBertConfig
from mufin_jax.encoders.mpnet import MpnetConfig
from mufin_jax.encoders.resnet import ResNetConfig
from mufin_jax.encoders.siglip import SiglipConfig
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.saved import load_model, new_model, save_model
from mufin_jax.pipeline.cli import parse
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.training.frozen_features import precompute
from mufin_jax.training.optimizer import OptimizerConfig, trains

RESNET = ResNetConfig(4, (6, 9), (1, 2), bottleneck=True)
SIGLIP = SiglipConfig(width=12, depth=2, heads=2, mlp=10, patch=4, image_size=8)
LITE = EfficientNetLiteConfig(4, (6, 9), (1, 2), (3, 5), (1, 2), (1, 2), 12)
DINO = Dinov2Config(width=12, depth=2, heads=2, mlp=10, patch=4, image_size=8, gated=True)
TEXT = {"width": 12, "depth": 2, "heads": 2, "mlp": 10, "max_positions": 16}
MODERN = ModernBertConfig(**TEXT, neighbours=2, pooling="cls", normalise=True)
CLIP = ClipTextConfig(width=12, depth=2, heads=2, mlp=10, max_positions=16, projection=7)
MODELS = {
    "ResNet": dataclasses.replace(CONFIG, image=RESNET),
    "SigLIP and CLIP": dataclasses.replace(CONFIG, image=SIGLIP, text=CLIP),
    "EfficientNet-Lite and ModernBERT": dataclasses.replace(CONFIG, image=LITE, text=MODERN),
    "DINOv2 and MPNet": dataclasses.replace(CONFIG, image=DINO, text=MpnetConfig(**TEXT)),
}


@pytest.mark.slow
@pytest.mark.rotates("any encoders", every=2)
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_reproduces_the_vectors_of_any_encoders(name, dataset, one_device, tmp_path):
    model = new_model(MODELS[name], dataset, one_device, seed=0)
    wanted = describe_once(model, Loader(dataset, "both", one_device), tmp_path / "wanted.npy")
    assert np.isfinite(wanted).all() and np.asarray(wanted).std(0).min() > 0

    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", one_device)
    assert (again.config.image, again.config.text) == (model.config.image, model.config.text)
    found = weights(again)
    assert found.keys() == weights(model).keys()
    for path, value in weights(model).items():
        np.testing.assert_array_equal(found[path], value, path)

    loader = Loader(dataset, "both", one_device)
    loader = precompute(
        again, loader, OptimizerConfig(), tmp_path / "kept", tmp_path / "decisions.json"
    )
    assert [path.name.rsplit("-", 1)[0] for path in (tmp_path / "kept").iterdir()] == [
        "image-trunk"
    ]
    found = describe_once(again, loader, tmp_path / "found.npy")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_all_weights_of_a_resnet_train_but_not_its_statistics(dataset, one_device):
    model = small.new_model(dataset, one_device, MODELS["ResNet"])
    full = OptimizerConfig(image_encoder="full")
    _, train, rest = nnx.split(model, trains(full, model.depths(), cross=True), ...)
    assert len(jax.tree.leaves(train["image_encoder"])) == 3 * 12
    assert {path[-1] for path, _ in nnx.to_flat_state(rest)} == {"mean", "variance"}


def test_the_encoders_options_are_the_fields_of_the_presets_encoders():
    presets = {"miniature": Experiment(model=MODELS["SigLIP and CLIP"])}
    options = ["--model.image.depth=3", "--model.text.projection=8", "--model.image.layers=scan"]
    model = parse(presets, options).experiment.model
    assert model.image == dataclasses.replace(SIGLIP, depth=3, layers="scan")
    assert model.text == dataclasses.replace(CLIP, projection=8)
