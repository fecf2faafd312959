"""Claims about titles and token ids."""

import subprocess
import sys

import numpy as np
import pytest

from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.runtime.errors import InputError

TITLES = ["Leather sofa, brown", "leather chair", "Café table café", "sofa table sofa 日本"] * 3
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "leather", "so", "##fa", ",", "cafe"]


def test_the_tokenizer_of_a_checkpoint_gives_the_known_ids_of_a_known_title(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    ids, lengths = Tokenizer.load(tmp_path).encode(["Leather SOFA, Café chair"], max_tokens=9)
    np.testing.assert_array_equal(ids, [[2, 5, 6, 7, 8, 9, 1, 3, 0]])
    np.testing.assert_array_equal(lengths, [8])


def test_a_cased_checkpoint_keeps_its_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, "Leather"]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    ids, _ = Tokenizer.load(tmp_path).encode(["Leather"], max_tokens=3)
    np.testing.assert_array_equal(ids, [[2, 10, 3]])


def test_padding_and_truncation_of_a_tokenizer_file_are_not_used(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    backend = Tokenizer.load(tmp_path).backend
    backend.enable_padding(length=20, pad_id=4)
    backend.enable_truncation(2)
    backend.save(str(tmp_path / "tokenizer.json"))
    ids, lengths = Tokenizer.load(tmp_path / "tokenizer.json").encode(["leather sofa"], 6)
    np.testing.assert_array_equal(ids, [[2, 5, 6, 7, 3, 0]])
    np.testing.assert_array_equal(lengths, [5])


def test_long_titles_lose_their_end_and_keep_the_separator():
    tokenizer = Tokenizer.train(TITLES, 128)
    ids, lengths = tokenizer.encode(["leather sofa leather sofa leather", ""], max_tokens=4)
    assert lengths.tolist() == [4, 2]
    assert ids[0, -1] == ids[1, 1] == tokenizer.backend.token_to_id("[SEP]")
    assert ids[1].tolist()[2:] == [0, 0]


def test_training_learns_whole_words_of_frequent_titles():
    tokenizer = Tokenizer.train(TITLES, 200)
    encoding = tokenizer.backend.encode("Leather SOFA")
    assert encoding.tokens == ["[CLS]", "leather", "sofa", "[SEP]"]
    assert tokenizer.vocab_size <= 200


def test_rare_characters_do_not_use_up_the_vocabulary():
    titles = [*TITLES, "".join(chr(0x4E00 + i) for i in range(500))]
    tokenizer = Tokenizer.train(titles, vocab_size=200, max_alphabet=40)
    assert tokenizer.backend.token_to_id("leather") is not None
    assert tokenizer.backend.encode("\u4fff").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_training_gives_the_same_vocabulary_in_every_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from mufin_jax.data.tokenizer import Tokenizer;"
        "words = [f'{a}{b}{c} {c}{a}' for a in 'abcd' for b in 'efgh' for c in 'ijkl'];"
        "Tokenizer.train(words, 90).save(Path(sys.argv[1]))"
    )
    files = [tmp_path / f"{i}.json" for i in range(3)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    first, *others = [file.read_bytes() for file in files]
    assert all(other == first for other in others)


def test_a_saved_tokenizer_encodes_as_before(tmp_path):
    tokenizer = Tokenizer.train(TITLES, 128)
    before = tokenizer.encode(TITLES, 7)
    tokenizer.save(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(
        Tokenizer.load(tmp_path / "tokenizer.json").encode(TITLES, 7)[0], before[0]
    )


def test_a_lone_surrogate_does_not_stop_encoding():
    _, lengths = Tokenizer.train(TITLES, 128).encode(["sofa \ud800"], 6)
    assert lengths[0] >= 3


def test_a_vocabulary_without_special_tokens_is_rejected(tmp_path):
    (tmp_path / "vocab.txt").write_text("leather\nsofa\n")
    with pytest.raises(InputError, match=r"lacks \['\[UNK\]', '\[CLS\]', '\[SEP\]'\]"):
        Tokenizer.load(tmp_path)


def test_a_folder_without_a_tokenizer_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"neither tokenizer.json nor vocab.txt"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_file_is_rejected(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match="is not a tokenizer"):
        Tokenizer.load(tmp_path)
