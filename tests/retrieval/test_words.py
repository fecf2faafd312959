"""Titles as words: cosines by hand, what is saved, and titles without a word."""

import numpy as np
import pytest
import scipy.sparse
from block_sizes import small_blocks
from sklearn.feature_extraction.text import TfidfVectorizer

from mufin_jax.retrieval import words as words_module
from mufin_jax.retrieval.words import TitleWords
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files

LABELS = ["red lamp", "blue lamp", "", "chair"]

blocks = small_blocks((words_module, "_ROWS", 3))


@pytest.fixture(scope="module")
def words():
    return TitleWords.build(["red chair", "green sofa"], LABELS)


def test_a_title_scores_the_labels_that_share_a_word(words):
    found = words.scores(["Red lamp!", "sofa", "", "unknown"]).toarray()
    np.testing.assert_allclose(found[0, 0], 1, rtol=1e-6)
    assert 0 < found[0, 1] < 1 and found[0, 2] == found[0, 3] == 0
    assert not found[1:].any()


def test_rare_words_weigh_more(words):
    """`blue` is in one title of six, `lamp` in two."""
    blue, lamp = words.scores(["blue", "lamp"]).toarray()[:, 1]
    assert blue > lamp > 0


def test_weights_are_those_of_scikit_learn_by_the_number_of_titles_with_a_word():
    given = ["red red chair, red", "green sofa"]
    words = TitleWords.build(given, LABELS)
    wanted = TfidfVectorizer().fit([*given, *LABELS])
    assert words.vocabulary == sorted(wanted.vocabulary_)
    np.testing.assert_allclose(words.weights, wanted.idf_)


def test_what_is_saved_scores_the_same(words, tmp_path):
    words.save(tmp_path / "words")
    loaded = TitleWords.load(tmp_path / "words", len(LABELS))
    titles = ["red chair", "a blue LAMP", "", "x"]
    assert (loaded.scores(titles) != words.scores(titles)).nnz == 0


def test_words_of_other_labels_are_rejected(words, tmp_path):
    words.save(tmp_path / "words")
    with pytest.raises(InputError, match=r"\(4, \d\) titles x words, expected 5"):
        TitleWords.load(tmp_path / "words", 5)


def test_rows_of_other_titles_are_saved_and_loaded(words, tmp_path):
    titles = ["red chair", "", "green lamp"]
    words.save_rows(tmp_path / "titles", titles)
    loaded = words.load_rows(tmp_path / "titles", 3)
    assert (loaded != words.rows(titles)).nnz == 0 and loaded.shape == words.rows(titles).shape
    with pytest.raises(InputError, match=r"\(3, \d\) titles x words, expected 4"):
        words.load_rows(tmp_path / "titles", 4)
    words.save_rows(tmp_path / "none", [])
    assert words.load_rows(tmp_path / "none", 0).shape[0] == 0


def test_rows_that_are_not_finite_are_rejected(words, tmp_path):
    words.save_rows(tmp_path, ["red chair"])
    rows = scipy.sparse.load_npz(tmp_path / "rows.npz")
    rows.data[0] = np.nan
    scipy.sparse.save_npz(tmp_path / "rows.npz", rows)
    files.seal(tmp_path)
    with pytest.raises(InputError, match=r"not words of titles \(.*a number is not finite\)"):
        words.load_rows(tmp_path, 1)


def test_titles_without_any_word_score_nothing(tmp_path):
    empty = TitleWords.build(["", "!"], ["?", ""])
    empty.save(tmp_path / "words")
    for some in (empty, TitleWords.load(tmp_path / "words", 2)):
        assert some.scores(["lamp", ""]).toarray().tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"vocabulary": ["lamp"] * 6}, "a word stands there twice"),
        ({"vocabulary": [1, 2, 3, 4, 5, 6]}, "no list of texts"),
        ({"vocabulary": 3}, "no list of texts"),
        ({"weights": [float("inf")] * 6}, "a number is not finite"),
        ({"weights": "heavy"}, "ValueError"),
        ({}, "KeyError"),
    ],
)
def test_words_that_are_none_are_rejected_in_one_line(words, tmp_path, changes, reason):
    """Their checksums are right: somebody has made the file so."""
    folder = tmp_path / "words"
    words.save(folder)
    content = files.load_json(folder / "words.json") | changes if changes else {}
    files.save_json(folder / "words.json", content)
    files.seal(folder)
    with pytest.raises(InputError, match=f"not words of titles .*{reason}") as caught:
        TitleWords.load(folder, len(LABELS))
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
