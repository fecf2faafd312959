"""A sentence encoder's own files: its pooling, its normalisation, its prompts."""

import json
import shutil
from pathlib import Path

import pytest
from places import GOLDEN

from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.pretrained import load_config
from mufin_jax.encoders.sentence_files import pooling_of, prompt_of
from mufin_jax.runtime.errors import InputError


@pytest.fixture
def e5(tmp_path):
    """A checkpoint with the default prompt "query: ", pooled by the mean and normalised."""
    return Path(shutil.copytree(GOLDEN / "xlm_roberta", tmp_path / "e5"))


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def older(**modes):
    """A 1_Pooling/config.json as sentence-transformers 2 to 5 write it."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    return {f"pooling_mode_{name}": modes.get(name, False) for name in names}


@pytest.mark.parametrize(
    ("written", "pooling"),
    [
        (older(mean_tokens=True), "mean"),
        (older(cls_token=True), "cls"),
        (older(lasttoken=True), "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"word_embedding_dimension": 24}, "mean"),
        (older(max_tokens=True), "'max_tokens'; expected one of mean, cls, last"),
        (older(cls_token=True, mean_tokens=True), "'mean and cls'; expected one of"),
        ({"pooling_mode": "weightedmean"}, "'weightedmean'; expected one of"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt is False"),
    ],
)
def test_the_pooling_is_that_of_the_checkpoint_or_one_line_tells_why_not(e5, written, pooling):
    (e5 / "1_Pooling" / "config.json").write_text(json.dumps(written))
    if len(pooling) < 5:
        config = load_config(e5, "text")
        assert (config.pooling, config.normalise) == (pooling, True)
    else:
        with pytest.raises(InputError, match=f"1_Pooling/config.json: .*{pooling}"):
            load_config(e5, "text")


def test_a_checkpoint_without_such_files_is_pooled_by_the_mean_as_distilbert_always_was():
    for name in ("distilbert", "modernbert"):
        assert pooling_of(GOLDEN / name) == {}
        config = load_config(GOLDEN / name, "text")
        assert (config.pooling, config.normalise) == ("mean", False)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"type": "sentence_transformers.models.Dense"}, "step 'Dense' isn't implemented"),
        ({"type": "x.Transformer", "path": "0_Transformer"}, "weights are in the folder '0_Tr"),
        ({"type": "x.Pooling", "path": "../1_Pooling"}, "leads outside of the checkpoint's folder"),
        ({"type": "x.Pooling", "path": "2_Pooling"}, "config.json is missing"),
        ({"type": 3}, "modules.json: "),
    ],
)
def test_a_step_that_is_not_implemented_is_rejected_in_one_line(e5, steps, message):
    (e5 / "modules.json").write_text(json.dumps([steps]))
    with pytest.raises(InputError, match=message) as error:
        load_config(e5, "text")
    assert "\n" not in str(error.value)


def test_the_prompt_is_the_default_one_or_the_one_that_is_named_or_given(e5):
    assert prompt_of(e5) == "query: "
    assert prompt_of(e5, "passage") == "passage: "
    assert prompt_of(e5, "title: ") == "title: "
    assert prompt_of(e5, "") == ""
    assert prompt_of(GOLDEN / "minilm") == prompt_of(GOLDEN / "distilbert") == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ["query: "]}, "prompts is .*expected texts by name"),
        ({"default_prompt_name": "question"}, "default_prompt_name is 'question'; expected one of"),
    ],
)
def test_wrong_prompts_are_rejected_in_one_line(e5, change, message):
    rewrite(e5 / "config_sentence_transformers.json", **change)
    with pytest.raises(InputError, match=f"config_sentence_transformers.json: {message}"):
        Tokenizer.load(e5)


def test_a_prompt_stands_in_front_of_each_title_and_an_empty_title_stays_empty(e5):
    prompted, plain = Tokenizer.load(e5), Tokenizer.load(e5, "")
    assert prompted.prompt == "query: "
    found, expected = prompted.encode(["red", ""], 9), plain.encode(["query: red", ""], 9)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tolist() == theirs.tolist()
    assert found[1].tolist()[1] == 2 < found[1].tolist()[0]
