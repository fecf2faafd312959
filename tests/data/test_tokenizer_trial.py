"""Hostile tokenizer files: each ends in one line that names the file, before anything loads it."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from raw_folders import tiny_repository
from tokenizers import models

from mufin_jax.data import tokenizer_trial
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.data.tokenizer_trial import load_tried
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.checkpoints import check_checkpoints
from mufin_jax.runtime.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", "##a", "chair", "d", "x"]


def replace(length: int, times: int) -> dict[str, Any]:
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * length}
    return {"normalizer": {"type": "Sequence", "normalizers": [one] * times}}


def template(*pieces: dict[str, Any], ids: int = 2) -> dict[str, Any]:
    tokens = {"[CLS]": {"id": "[CLS]", "ids": [ids], "tokens": ["[CLS]"]}}
    return {"post_processor": {"type": "TemplateProcessing", "single": list(pieces),
                               "pair": list(pieces), "special_tokens": tokens}}  # fmt: skip


def charsmap(text: str) -> dict[str, Any]:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": text}}


CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
UNIGRAM = {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]], "byte_fallback": False}
MERGES = {"type": "BPE", "vocab": {"x": 0, "d": 1, "xd": 2}, "merges": [["x", "d"]]}
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a normalizer that makes a gigabyte": (replace(1000, 3), "end the process"),
    "a normalizer without end": (replace(100, 3), "take more than 1 s"),
    "a map that aborts": (charsmap("/////w=="), "end the process|PanicException"),
    "a map that panics": (charsmap("AAAAAAAA"), "PanicException"),
    "a template longer than a text": (template(*[CLS] * 50, TEXT), "cannot be encoded|tokens with"),
    "a template of pairs": (template(CLS, {"Sequence": {"id": "B", "type_id": 0}}), "."),
    "a template with an unknown id": (template(CLS, TEXT, ids=5000), "the id 5,000"),
    "a template with an id beyond int32": (template(CLS, TEXT, ids=2**31), "the id 2,147,483,648"),
    "a model without an unknown token": ({"model": UNIGRAM}, "cannot be encoded"),
    "nothing but blanks": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""}},
        "no text gives a token",
    ),
}  # fmt: skip


def tokenizer_json(folder: Path, **changes: Any) -> Path:
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    Tokenizer.load(folder / "vocab.txt").save(folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text()) | changes
    if "post_processor" not in changes:
        content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder / "tokenizer.json"


def ids_changed(folder: Path, word: str, number: int) -> Path:
    path = tokenizer_json(folder)
    content = json.loads(path.read_text())
    content["model"]["vocab"][word] = number
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_one_line(name, tmp_path, monkeypatch):
    changes, message = HOSTILE[name]
    monkeypatch.setattr(tokenizer_trial, "SECONDS", 1 if "1 s" in message else 20)
    monkeypatch.setattr(tokenizer_trial, "_MEMORY", 2**29)
    path = tokenizer_json(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_tried(path, None, 8)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("number", [5000, 2**31, 2**32 - 1])
def test_ids_far_beyond_the_vocabulary_are_rejected(number, tmp_path):
    with pytest.raises(InputError, match=f"the token 'chair' has the id {number:,}"):
        load_tried(ids_changed(tmp_path, "chair", number), None, 8)


def test_a_hole_in_the_vocabulary_counts_as_an_id(tmp_path):
    tokenizer = load_tried(ids_changed(tmp_path, "chair", 40), None, 8)
    assert tokenizer.encode(["chair"], 8)[0].max() == 40 < tokenizer.vocab_size == 41


def test_merges_by_chance_are_off_and_a_line_tells_so(tmp_path, caplog):
    path = tokenizer_json(tmp_path, model=MERGES | {"dropout": 0.5}, normalizer=None)
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tried(path, None, 8)
    assert "tokenizer.json drops merges by chance" in caplog.text
    ids, _ = tokenizer.encode(["xdxdxdxd"] * 20, 8)
    np.testing.assert_array_equal(ids, np.tile(ids[:1], (20, 1)))


def test_titles_of_the_catalogue_are_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "_MEMORY", 2**29)
    words = {"type": "Replace", "pattern": {"String": "garment 7"}, "content": "q" * 10**6}
    sequence = [words, {"type": "Replace", "pattern": {"String": "q"}, "content": "a" * 10**4}]
    path = tokenizer_json(tmp_path, normalizer={"type": "Sequence", "normalizers": sequence})
    load_tried(path, None, 8)
    with pytest.raises(InputError, match="a few short texts end the process"):
        load_tried(path, None, 8, ["garment 7"])


def test_a_trial_is_made_once(tmp_path, monkeypatch):
    trials = []
    made = tokenizer_trial._try
    monkeypatch.setattr(tokenizer_trial, "_try", lambda *a: trials.append(a) or made(*a))
    monkeypatch.setattr(tokenizer_trial, "_tried", set())
    path = tokenizer_json(tmp_path)
    for _ in range(3):
        load_tried(path, None, 8)
    assert len(trials) == 1
    path.write_text(path.read_text() + "\n")
    load_tried(path, None, 8)
    assert len(trials) == 2
    Tokenizer.load(path)  # of a prepared folder
    assert len(trials) == 2


def test_a_tokenizer_is_tried_before_the_first_stage_and_in_preparation(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "SECONDS", 1)
    path = tokenizer_json(tmp_path, **charsmap("AAAAAAAA"))
    config = PrepareConfig(image_size=8, records=False, max_tokens=8, tokenizer=str(path))
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer that can be used"):
        check_checkpoints(config, ModelConfig())
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer that can be used"):
        prepare(config, tiny_repository(tmp_path / "raw"), tmp_path / "out")


def test_a_panic_in_a_prepared_folder_is_one_line(tmp_path):
    path = tokenizer_json(tmp_path, **charsmap("AAAAAAAA"))
    with pytest.raises(InputError, match=r"cannot encode these titles \(ValueError: panic"):
        Tokenizer.load(path).encode(["b"], 8)
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}))  # no unknown token
    with pytest.raises(InputError, match="the tokenizer cannot encode these titles"):
        Tokenizer(backend).encode(["b"], 8)


def test_a_huge_tokenizer_file_is_rejected_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"bytes: expected at most 100"):
        load_tried(tokenizer_json(tmp_path), None, 8)


def test_a_prepared_folder_has_the_tokens_that_its_tokenizer_makes(tmp_path):
    config = PrepareConfig(
        image_size=8, records=False, max_tokens=8, tokenizer=str(tokenizer_json(tmp_path))
    )
    prepare(config, tiny_repository(tmp_path / "raw"), tmp_path / "out")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.texts.max() < dataset.tokenizer.vocab_size == len(WORDS)
