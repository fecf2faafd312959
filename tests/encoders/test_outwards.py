"""Encoders as checkpoints of Hugging Face: read again, they are the same; torch computes alike."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from mufin_jax.encoders.bert import Bert, BertConfig
from mufin_jax.encoders.distilbert import DistilBert, DistilBertConfig
from mufin_jax.encoders.outwards import can_save, savable, save_checkpoint, tensors_of
from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.roberta import Roberta, RobertaConfig
from mufin_jax.encoders.rows import alone
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.encoders.vit import ViT, ViTConfig

WORDS = {"vocab": 32, "width": 8, "depth": 2, "heads": 2, "mlp": 12, "max_positions": 16}
PATCHES = ViTConfig(width=8, depth=2, heads=2, mlp=12, patch=4, image_size=16, qkv_bias=False)
ENCODERS = {
    "vit": (ViT, PATCHES),
    "distilbert": (DistilBert, DistilBertConfig(**WORDS)),
    "bert": (Bert, BertConfig(**WORDS, types=3)),
}


def new(kind, seed=0):
    """An encoder whose weights are all different, biases and norms too."""
    make, config = ENCODERS[kind]
    encoder = make(config, nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    for _, value in nnx.to_flat_state(nnx.state(encoder, nnx.Param)):
        value.set_value(value[...] + 0.1 * random.normal(size=value.shape).astype(np.float32))
    return encoder


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_saved_encoder_is_read_again_with_the_same_weights_and_sizes(kind, tmp_path):
    encoder = new(kind)
    save_checkpoint(encoder, tmp_path / kind)
    load = load_image_encoder if kind == "vit" else load_text_encoder
    read = load(tmp_path / kind, init_std=encoder.config.init_std)
    assert read.config == encoder.config
    again = tensors_of(read)
    for name, values in tensors_of(encoder).items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_every_kind_that_can_be_saved_is_tested():
    assert set(savable()) == set(ENCODERS)


def test_what_no_file_can_tell_is_not_saved(tmp_path):
    config = dataclasses.replace(ENCODERS["distilbert"][1], layer_norm_eps=1e-5)
    odd = [
        DistilBert(config, nnx.Rngs(0)),  # whose epsilon config.json does not have
        Roberta(RobertaConfig(**WORDS), nnx.Rngs(0)),  # which inherits from BERT
        ReadyVectors(4, nnx.Rngs(0)),
    ]
    assert not any(map(can_save, odd))
    with pytest.raises(ValueError, match=r"roberta; expected one of vit, distilbert, bert"):
        save_checkpoint(odd[1], tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_a_processor_that_is_written_is_read_again(fit):
    share = 0.875 if fit == "crop" else 1.0
    made = ImageProcessing(28, fit, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), share)
    assert ImageProcessing.from_hf(json.loads(json.dumps(made.to_hf()))) == made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_transformers_computes_what_we_compute(kind, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    encoder = new(kind, seed=1)
    save_checkpoint(encoder, tmp_path / kind)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / kind).eval()
    random = np.random.default_rng(2)
    if kind == "vit":
        images = random.normal(size=(3, 16, 16, 3)).astype(np.float32)
        with torch.no_grad():
            found = theirs(pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)))
        found, ours = found.last_hidden_state[:, 0].numpy(), encoder(jnp.asarray(images))
    else:
        tokens, lengths = random.integers(0, 32, (3, 8), np.int32), np.array([8, 3, 5], np.int32)
        mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
        given = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(mask)}
        with torch.no_grad():
            states = theirs(**given).last_hidden_state.numpy()
        found = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        places = alone(jnp.asarray(tokens), jnp.asarray(lengths))
        ours = encoder.packed(jnp.asarray(tokens), places, 1)[:, 0]
    np.testing.assert_allclose(ours, found, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_the_processor_of_transformers_prepares_pictures_as_we_do(fit, tmp_path):
    pytest.importorskip("torch")
    from transformers import AutoImageProcessor

    from mufin_jax.data.images import read_image
    from mufin_jax.runtime.storage.files import save_json

    made = ImageProcessing(16, fit, "bicubic", share=0.8 if fit == "crop" else 1.0)
    save_json(tmp_path / "preprocessor_config.json", made.to_hf())
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    picture = Image.fromarray(pixels)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(picture, return_tensors="np")["pixel_values"][0]
    ours = made.normalise(read_image(picture, made)).transpose(2, 0, 1)
    np.testing.assert_allclose(ours, theirs, atol=3 * 2 / 255)  # both round pixels to bytes
