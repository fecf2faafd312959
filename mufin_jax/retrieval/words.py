"""Titles as words: the cosine of TF-IDF vectors ranks labels by their titles (the part t).

Words are scikit-learn's: lower case, two letters and more. Document frequencies are those of the
training and label titles. Nothing is pickled: a folder holds `words.json` (the vocabulary in order
and the weights of its words) and `labels.npz` (labels x words, unit rows).
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
from jaxtyping import Float64
from scipy.sparse import csr_matrix

from mufin_jax.data.sparse import load_csr
from mufin_jax.data.strings import Strings
from mufin_jax.retrieval.sparse_scores import product
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

COMMON_WORD = 10_000
"""Words in more titles than this are left out: they tell little and cost most of the time."""
_ROWS = 1 << 16
"""Titles that become rows together."""


class TitleWords:
    """The labels' titles as TF-IDF vectors; `TitleWords.build` or `load` makes it.

    Args:
        vocabulary: the words, in the order of the columns.
        weights: the inverse document frequency of each word.
        labels: labels x words, unit rows.
    """

    def __init__(
        self, vocabulary: Sequence[str], weights: Float64[np.ndarray, " w"], labels: csr_matrix
    ):
        self.vocabulary, self.weights, self.labels = vocabulary, weights, labels

    @classmethod
    def build(
        cls,
        train_titles: Iterable[str],
        label_titles: Strings | Sequence[str],
        work: str = "the words",
    ) -> "TitleWords":
        """Count the words of the training and label titles; a signal stops the named work.

        Titles stream: no list of all titles or matrix of all counts is made.
        """
        words_of, in_titles, titles = _vectorizer().build_analyzer(), Counter[str](), 0
        for title in until_stopped(itertools.chain(train_titles, label_titles), work):
            in_titles.update(set(words_of(title)))
            titles += 1
        vocabulary = sorted(word for word, count in in_titles.items() if count <= COMMON_WORD)
        counts = np.array([in_titles[word] for word in vocabulary], float)
        weights = np.log((titles + 1) / (counts + 1)) + 1  # as scikit-learn's
        words = cls(vocabulary, weights, csr_matrix((0, len(vocabulary)), dtype=np.float32))
        rows = [words.rows(some, work) for some in _blocks(label_titles)]
        labels = scipy.sparse.vstack(rows or [words.labels], "csr", np.float32)
        return cls(vocabulary, weights, csr_matrix(labels))

    def scores(self, titles: Iterable[str]) -> csr_matrix:
        """Return the cosines of titles with those of all labels that share a word, as CSR rows."""
        return product(self.rows(titles), self._by_word)

    def rows(self, titles: Iterable[str], work: str = "the words") -> csr_matrix:
        """Return unit rows of word weights; words that the vocabulary lacks are left out."""
        titles = list(titles)
        if not len(self.vocabulary):
            return csr_matrix((len(titles), 0), dtype=np.float32)
        found = self._words.transform(until_stopped(titles, work))
        return csr_matrix(found, dtype=np.float32)

    @functools.cached_property
    def _by_word(self) -> csr_matrix:
        return csr_matrix(self.labels.T)

    @functools.cached_property
    def _words(self) -> "TfidfVectorizer":
        words = _vectorizer(vocabulary=self.vocabulary)
        words.idf_ = self.weights
        return words

    def save(self, folder: Path) -> None:
        """Write `words.json`, `labels.npz` and, last, their manifest."""
        words = {"vocabulary": list(self.vocabulary), "weights": self.weights.tolist()}
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            files.save_json(folder / "words.json", words)
            scipy.sparse.save_npz(folder / "labels.npz", self.labels)
        files.seal(folder)

    @classmethod
    def load(cls, folder: Path, num_labels: int) -> "TitleWords":
        """Load what `save` wrote.

        Raises:
            InputError: if a file is missing or damaged, or is not of so many labels.
        """
        files.check_seal(folder)
        with files.damaged(f"{folder}: not words of titles ({{reason}}); {files.MAKE_ANEW}"):
            words = files.load_json(folder / "words.json")
            vocabulary, weights = words["vocabulary"], np.array(words["weights"], float)
            labels = load_csr(folder / "labels.npz", num_labels)
            _check(vocabulary, weights, labels)
        if labels.shape != (num_labels, len(vocabulary)) or len(weights) != len(vocabulary):
            raise InputError(
                f"{folder}: {labels.shape} titles x words, expected {num_labels} x "
                f"{len(vocabulary)}; {files.MAKE_ANEW}"
            )
        return cls(vocabulary, weights, labels)

    def save_rows(self, folder: Path, titles: Iterable[str]) -> None:
        """Write unit rows of word weights of other titles, and their manifest."""
        rows = [self.rows(some) for some in _blocks(titles)]
        none = csr_matrix((0, len(self.vocabulary)), dtype=np.float32)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            joined = scipy.sparse.vstack(rows or [none], "csr", np.float32)
            scipy.sparse.save_npz(folder / "rows.npz", joined)
        files.seal(folder)

    def load_rows(self, folder: Path, count: int) -> csr_matrix:
        """Load what `save_rows` wrote of so many titles.

        Raises:
            InputError: if a file is missing or damaged, or is not of so many titles.
        """
        files.check_seal(folder)
        with files.damaged(f"{folder}: not words of titles ({{reason}}); {files.MAKE_ANEW}"):
            rows = load_csr(folder / "rows.npz", count)
            if not np.isfinite(rows.data).all():
                raise ValueError("a number is not finite")
        if rows.shape != (count, len(self.vocabulary)):
            raise InputError(
                f"{folder}: {rows.shape} titles x words, expected {count} x "
                f"{len(self.vocabulary)}; {files.MAKE_ANEW}"
            )
        return rows


def _blocks(titles: Iterable[str]) -> Iterator[list[str]]:
    """Yield `_ROWS` titles after another."""
    left = iter(titles)
    while some := list(itertools.islice(left, _ROWS)):
        yield some


def _check(vocabulary: object, weights: np.ndarray, labels: csr_matrix) -> None:
    """Raise ValueError unless words are distinct texts, and all numbers are finite."""
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ValueError("the vocabulary is no list of texts")
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError("a word stands there twice")
    if not (np.isfinite(weights).all() and np.isfinite(labels.data).all()):
        raise ValueError("a number is not finite")


def _vectorizer(**options: object) -> "TfidfVectorizer":
    # scikit-learn takes a second to import.
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(**options)  # pyright: ignore[reportArgumentType]
