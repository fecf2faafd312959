"""The command that writes ready vectors, and runs that read them instead of checkpoints."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from contexts import context
from raw_folders import tiny_outfits, write_repository
from small import relevant, weights

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.encoders.pretrained import image_processing
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.embed_side import describe_once, encode
from mufin_jax.model.saved import load_model, new_loader, new_model
from mufin_jax.pipeline.embed import EmbedConfig, embed, main
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.pretrain import pretrain
from mufin_jax.training.centring import centre
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_config import PretrainConfig

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEXT, IMAGE = str(GOLDEN / "minilm"), str(GOLDEN / "efficientnet_lite")
SIDES = {"train": 12, "test": 5, "label": 13}
SMALL = PrepareConfig(records=False, max_tokens=8)
MODEL = ModelConfig(dim=6, reduce="hidden", reduce_hidden=8)
CHECKPOINTS = dataclasses.replace(MODEL, text_checkpoint=TEXT, image_checkpoint=IMAGE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Items with a title and up to two pictures of their own; label 0 is training point 0."""
    first = {"train": 0, "test": 60, "label": 30}
    ids = {side: [f"{side}{i}" for i in range(count)] for side, count in SIDES.items()}
    ids["label"][0] = "train0"
    titles = {
        side: [(uid, f"{'ab'[i % 2]} {uid}") for i, uid in enumerate(own)]
        for side, own in ids.items()
    }
    pictures = {
        side: [[first[side] + 2 * i + k for k in range(i % 3)] for i in range(count)]
        for side, count in SIDES.items()
    }
    pictures["label"][0] = pictures["train"][0]
    pairs = {side: [relevant(i) for i in range(SIDES[side])] for side in ("train", "test")}
    return write_repository(tmp_path_factory.mktemp("raw") / "raw", titles, pairs, pictures)


def settings(raw, out):
    return EmbedConfig(raw, out, TEXT, IMAGE, prepare=SMALL, part=7)


@pytest.fixture(scope="module")
def written(raw, tmp_path_factory):
    """The folder that the command has written, in parts of seven rows."""
    out = tmp_path_factory.mktemp("embedded")
    embed(settings(raw, out))
    return out


@pytest.fixture(scope="module")
def folders(raw, written, tmp_path_factory):
    """The catalogue prepared for checkpoints, and with the ready vectors."""
    out = tmp_path_factory.mktemp("prepared")
    ready = dataclasses.replace(
        SMALL, text_vectors=str(written / "text"), image_vectors=str(written / "image")
    )
    prepare(
        dataclasses.replace(SMALL, tokenizer=TEXT), raw, out / "pixels", image_processing(IMAGE)
    )
    prepare(ready, raw, out / "vectors")
    return out / "pixels", out / "vectors"


@pytest.mark.slow
def test_each_item_stands_once_with_all_of_its_pictures(written):
    ids = (written / "text" / "00000.ids.txt").read_text().split("\n")
    assert ids == ["train0", "train1", "train2", "train3", "train4", "train5", "train6", ""]
    everything = [
        uid
        for path in sorted((written / "image").glob("*.txt"))
        for uid in path.read_text().split()
    ]
    assert everything.count("train0") == 0 and everything.count("train2") == 2
    texts = [np.load(path) for path in sorted((written / "text").glob("*.npy"))]
    assert [len(part) for part in texts] == [7, 7, 7, 7, 1]
    assert {(part.dtype.name, part.shape[1]) for part in texts} == {("float32", 24)}


@pytest.mark.slow
def test_the_command_resumes_where_it_was_stopped(raw, written, monkeypatch):
    last, kept = written / "text" / "00004.npy", written / "text" / "00001.npy"
    wanted, untouched = last.read_bytes(), kept.stat().st_mtime_ns
    last.unlink()
    embed(settings(raw, written))
    assert last.read_bytes() == wanted and kept.stat().st_mtime_ns == untouched


@pytest.mark.slow
def test_a_folder_of_other_settings_is_rejected(raw, written):
    other = dataclasses.replace(settings(raw, written), part=8)
    with pytest.raises(InputError, match=r"was made with other settings"):
        embed(other)


def test_a_command_without_a_checkpoint_or_for_outfits_is_rejected(raw, tmp_path, capsys):
    assert main([f"--data={raw}", f"--out={tmp_path / 'out'}"]) == 2
    assert "no checkpoint: name --text-checkpoint or" in capsys.readouterr().err
    tiny_outfits(tmp_path / "outfits")
    with pytest.raises(InputError, match=r"items of outfits have several titles"):
        embed(EmbedConfig(tmp_path / "outfits", tmp_path / "out", TEXT, prepare=SMALL))


@pytest.mark.slow
def test_ready_vectors_are_described_as_the_checkpoints_describe(folders, one_device, tmp_path):
    seen, found = [], []
    for folder, config in zip(folders, (CHECKPOINTS, MODEL), strict=True):
        dataset = Dataset.load(folder)
        model = new_model(config, dataset, one_device, seed=3)
        loader = new_loader(model.config, dataset, one_device)
        centre(model, loader)
        pictures = np.arange(loader.num_descriptors - loader.num_texts)
        texts = encode(model, loader, "text", np.arange(loader.num_texts))
        seen.append((texts, encode(model, loader, "image", pictures)))
        found.append(np.asarray(describe_once(model, loader, tmp_path / f"{folder.name}.npy")))
    assert found[0].std(0).min() > 0.01
    scales = []
    for some in zip(*seen, strict=True):
        encoded, ready = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in some)
        np.testing.assert_allclose(encoded, ready, atol=1e-6)
        scales.append((ready - ready.mean(0)).std(1).min())
    # Vectors of random encoders are nearly equal. Centring brings what differs, and with it the
    # rounding, to a scale of 1.
    np.testing.assert_allclose(*found, atol=1e-6 / min(scales))


@pytest.mark.slow
def test_a_model_trained_on_ready_vectors_is_that_of_the_frozen_checkpoints(
    folders, one_device, tmp_path
):
    config = PretrainConfig(
        epochs=4, batch_size=6, hard_limit=1.0, loss="softmax", batches_over="points", dropout=0.3,
        optimizer=OptimizerConfig(
            rate=1e-2, warmup=2, image_encoder="frozen", text_encoder="frozen"
        ),
    )  # fmt: skip
    found = []
    for folder, model in zip(folders, (CHECKPOINTS, MODEL), strict=True):
        out = tmp_path / folder.name
        out.mkdir()
        pretrain(config, context(out, one_device, {"prepare": folder}, model=model))
        trained = weights(load_model(out / "model", one_device))
        found.append({path: value for path, value in trained.items() if "encoder" not in path})
    assert found[0].keys() == found[1].keys()
    for path, value in found[0].items():
        # Means are of scaled vectors. A bias of keys changes no attention: it trains on rounding.
        if path.endswith(("reduce/mean", "key/bias")):
            continue
        np.testing.assert_allclose(found[1][path], value, atol=1e-5, err_msg=path)
