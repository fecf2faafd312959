"""Paths that users give: text or a path, with ~ for the home folder, through one door."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mufin_jax.data.preparation.config import PrepareConfig
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.model.config import ModelConfig
from mufin_jax.prediction.pictures import plain_picture
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import user_name, user_path

_AS_TEXT = """
from pathlib import Path
from mufin_jax import Dataset, Experiment, Predictor
from mufin_jax.pipeline.embed import EmbedConfig
from mufin_jax.runtime.errors import InputError
e = Experiment(data="~/shop", workdir="runs/x", refit_of="~/old")
assert (e.data, e.folder, e.refit_of) == (Path.home() / "shop", Path("runs/x"), Path.home() / "old")
c = EmbedConfig(data="~/shop", out="~/out", text_checkpoint="~/text")
assert (c.data, c.out, c.text_checkpoint) == (
    Path.home() / "shop", Path.home() / "out", str(Path.home() / "text"))
for load in (Dataset.load, Predictor.load):
    try:
        load("~/nowhere")
    except InputError as error:
        assert str(Path.home() / "nowhere") in str(error), error
"""


def test_text_is_a_path_and_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/shop") == tmp_path / "shop" == user_path(Path("~/shop"))
    assert user_path("a/~b") == Path("a/~b")
    assert user_name("google/vit", "x") == "google/vit"
    assert user_name("~/vit", "x") == str(tmp_path / "vit")
    assert PrepareConfig(images=Path("~/photos")).images == tmp_path / "photos"
    assert PrepareConfig(tokenizer="~/t", text_vectors="~/v").tokenizer == str(tmp_path / "t")
    assert ModelConfig(text_checkpoint="~/text").text_checkpoint == str(tmp_path / "text")


def test_pictures_and_tokenizers_are_found_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (4, 4)).save(tmp_path / "lamp.png")
    assert plain_picture("~/lamp.png", 1000) == tmp_path / "lamp.png"
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nlamp\n")
    assert Tokenizer.load("~/words").vocab_size == 5


@pytest.mark.parametrize("wrong", ["", 3, b"folder", None])
def test_what_is_no_path_is_named(wrong):
    check = getattr(user_path, "__wrapped__", user_path)  # without the tests' check of types
    with pytest.raises(InputError, match=r"data=.*: expected a path, as text"):
        check(wrong, "data")


def test_names_may_be_as_long_as_file_systems_take_them():
    """255 bytes a name, counted as UTF-8; 4,095 a path, with its separators."""
    deep = "/".join(["x" * 127] * 32)[:4095]
    for most in ("n" * 255, "é" * 127 + "n", deep[:-1]):
        assert user_path(most) == Path(most)
    for more in ("n" * 256, "é" * 128, deep + "y"):
        with pytest.raises(InputError, match="expected names of at most 255 bytes"):
            user_path(more)


def test_every_door_of_the_library_takes_text():
    subprocess.run([sys.executable, "-c", _AS_TEXT], check=True)
