"""Checkpoints: all names are checked, all formats are read, and each defect is one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from places import GOLDEN, ROOT
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mufin_jax.encoders import checkpoint_files
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.pretrained import (
    image_processing,
    load_image_encoder,
    load_text_encoder,
    resolve,
)
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.registry import ENCODERS, described, from_description, name_of
from mufin_jax.runtime.errors import InputError

VIT = '{"model_type": "vit", %s}'
SECOND_QUERY = "encoder.layer.1.attention.attention.query.bias"


@pytest.fixture
def vit(tmp_path):
    return Path(shutil.copytree(GOLDEN / "vit", tmp_path / "vit"))


def rewrite(folder, change):
    """Apply `change` to the weights of a folder."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def rewrite_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def weights(module):
    return dict(nnx.to_flat_state(nnx.state(module)))


def test_old_and_new_names_fill_the_same_network():
    old, new = (
        weights(load_image_encoder(GOLDEN / "vit")),
        weights(load_image_encoder(GOLDEN / "vit_new_names")),
    )
    assert old.keys() == new.keys()
    assert all((old[path][...] == new[path][...]).all() for path in old)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_become_float32(vit, dtype):
    exact = weights(load_image_encoder(vit))
    rewrite(vit, lambda tensors: {k: v.astype(dtype) for k, v in tensors.items()})
    for path, parameter in weights(load_image_encoder(vit)).items():
        assert parameter.dtype == jnp.float32
        rounded = np.asarray(exact[path][...]).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(parameter[...], rounded)


def test_shards_are_read_as_one_checkpoint(vit):
    tensors = load_file(vit / "model.safetensors")
    (vit / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-{1 + n % 2:05d}-of-00002.safetensors" for n, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == shard}, vit / shard)
    (vit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    single, sharded = weights(load_image_encoder(GOLDEN / "vit")), weights(load_image_encoder(vit))
    assert all((single[path][...] == sharded[path][...]).all() for path in single)
    (vit / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="model-00002-of-00002"):
        load_image_encoder(vit)


def test_an_index_that_names_a_file_outside_of_the_folder_opens_nothing(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(GOLDEN / "vit", tmp_path / "checkpoints" / "vit"))
    names = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    where = dict.fromkeys(names, "../../other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    opened = []

    def recorded_open(path, **options):
        opened.append(Path(path))
        return safe_open(path, **options)

    monkeypatch.setattr(checkpoint_files, "safe_open", recorded_open)
    with pytest.raises(InputError, match=r"vit/other\.safetensors can't be read"):
        load_image_encoder(folder)
    assert opened == [folder / "other.safetensors"]


def test_a_weight_that_is_missing_is_named(vit):
    rewrite(vit, lambda tensors: {k: v for k, v in tensors.items() if k != SECOND_QUERY})
    with pytest.raises(InputError, match=r"not used: nothing; not filled: blocks\.1\.query\.bias$"):
        load_image_encoder(vit)


def test_a_weight_too_many_is_named(vit):
    rewrite(vit, lambda tensors: {**tensors, "distillation_token": np.ones((1, 1, 24))})
    with pytest.raises(InputError, match=r"not used: distillation_token; not filled: nothing"):
        load_image_encoder(vit)


def test_blocks_beyond_the_depth_of_the_config_are_not_dropped_silently(vit):
    rewrite_json(vit / "config.json", num_hidden_layers=2)
    with pytest.raises(InputError, match=r"layers\.2\..* and 8 more; not filled: nothing") as error:
        load_image_encoder(vit)
    one_line(error)


def test_weights_of_another_shape_than_the_config_implies_are_rejected(vit):
    rewrite_json(vit / "config.json", intermediate_size=41)
    with pytest.raises(InputError, match=r"\(24, 40\).*\(24, 41\)") as error:
        load_image_encoder(vit)
    one_line(error)


def test_a_vit_without_attention_biases_is_complete(vit):
    rewrite_json(vit / "config.json", qkv_bias=False)
    cut = ("query.bias", "key.bias", "value.bias")
    rewrite(vit, lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(cut)})
    assert (
        len(weights(load_image_encoder(vit)))
        == len(weights(load_image_encoder(GOLDEN / "vit"))) - 9
    )


def test_a_checkpoint_of_pickled_weights_is_rejected_with_a_way_to_convert_it(vit):
    (vit / "model.safetensors").rename(vit / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin, convert it.*save_pretrained"):
        load_image_encoder(vit)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json: Expecting property name"),
        ("config.json", "[1]", "config.json: expected a JSON object"),
        ("config.json", "{}", "model_type is None; expected one that encodes images: vit"),
        ("config.json", '{"model_type": ["vit"]}', r"model_type is \['vit'\]; expected one"),
        ("config.json", VIT % '"hidden_act": "relu"', "hidden_act is 'relu'; expected 'gelu'"),
        ("config.json", VIT % '"image_size": [24, 32]', r"\[24, 32\]; expected a square"),
        ("config.json", VIT % '"hidden_size": 25', "width=25 isn't a multiple of heads=12"),
        ("model.safetensors", "not tensors", "model.safetensors can't be read"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(vit, file, content, message):
    (vit / file).unlink()
    if content is not None:
        (vit / file).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        load_image_encoder(vit)
    assert str(vit) in one_line(error)


def test_each_loader_rejects_the_other_kind():
    with pytest.raises(
        InputError, match="model_type is 'distilbert'; expected one that encodes imag"
    ):
        load_image_encoder(GOLDEN / "distilbert")
    with pytest.raises(
        InputError, match="model_type is 'vit'; expected one that encodes texts: dist"
    ):
        load_text_encoder(GOLDEN / "vit")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_config_names_its_encoder_and_survives_json(name):
    config = ENCODERS[name].config_class()()
    assert name_of(config) == name
    values = json.loads(json.dumps(described(config)))
    assert from_description(values, "none") == config
    assert trainable(("blocks", config.depth - 1, "bias"), "last", config.depth)


def test_a_config_of_an_unknown_kind_is_rejected():
    with pytest.raises(InputError, match="'vti'; there are vit, "):
        from_description({"kind": "vti"}, "vit")


def test_a_local_folder_is_its_own_checkpoint(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "../x"])
def test_a_path_that_is_no_folder_is_not_looked_up_on_the_hub(name):
    with pytest.raises(InputError, match=r"no folder .*; give a checkpoint's folder"):
        resolve(name)


def test_a_hub_name_without_network_tells_how_to_download_it(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="`hf download nobody/nothing`") as error:
        resolve("nobody/nothing")
    one_line(error)


def test_preprocessing_is_the_checkpoints_own():
    assert image_processing(GOLDEN / "vit") == ImageProcessing(
        24, "stretch", "bicubic", mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7)
    )


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"size": 36, "resample": 1}, {"size": 36, "resample": "lanczos"}),
        ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
        ({"resample": 0}, "resample=0; expected one of 1 "),
        ({"size": {"height": 3, "width": 4}}, "expected a square"),
        ({"size": {"shortest_edge": 24}}, "shortest_edge.*expected a square"),
        ({"do_center_crop": True}, {"fit": "crop"}),
        ({"do_center_crop": True, "crop_size": 18}, {"size": 18, "fit": "crop", "share": 0.75}),
        ({"do_center_crop": True, "crop_size": 25}, "crop_size=25 is more than size=24"),
        ({"crop_pct": 0.75}, {"fit": "crop", "share": 0.75}),
        ({"crop_pct": 0.75, "size": {"shortest_edge": 400}}, {"size": 400}),
        ({"crop_pct": 2}, "share is 2.0; expected above 0"),
        ({"image_mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\]; expected three"),
        ({"image_std": [0.5, 0.5, 0]}, "expected three numbers above 0"),
        ({"image_std": [0.5, 0.5, 1e-45]}, "1e-45.*; expected at most 1e"),
        ({"image_std": [1e39, 1e39, 1e39]}, "1e[+]39.*; expected at most 1e"),
        ({"image_mean": [0.5, -1e39, 0.5]}, "-1e[+]39.*; expected at most 1e"),
        ({"size": 2048}, {"size": 2048}),
        ({"size": 16_384}, "size=16384; expected .* of 1 to 2,048 pixels"),
    ],
)
def test_older_preprocessing_is_read_and_unsupported_is_rejected(vit, changes, expected):
    rewrite_json(vit / "preprocessor_config.json", **changes)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=f"preprocessor_config.json: .*{expected}"):
            image_processing(vit)
    else:
        ours = image_processing(vit)
        assert {name: getattr(ours, name) for name in expected} == expected


def test_reading_preprocessing_needs_no_jax():
    code = (
        "import sys; from mufin_jax.encoders.registry import of_checkpoint; "
        "from mufin_jax.encoders.freezing import trainable; "
        "from mufin_jax.encoders.pretrained import image_processing; "
        f"image_processing({str(GOLDEN / 'vit')!r}); "
        "print({'jax', 'flax', 'transformers', 'huggingface_hub'} & {*sys.modules})"
    )
    root = ROOT
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


def test_loading_draws_no_random_weights(monkeypatch):
    monkeypatch.setattr(jax.random, "truncated_normal", lambda *a, **k: 1 / 0)
    load_text_encoder(GOLDEN / "distilbert")
