"""Titles to token ids: a checkpoint's own tokenizer, or a WordPiece trained on the titles.

Built on the `tokenizers` library alone; neither JAX nor `transformers` is needed.
"""

import contextlib
import functools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32, Int64
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from mufin_jax.encoders.checkpoint_files import resolve
from mufin_jax.encoders.sentence_files import prompt_of
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import damaged, save_array
from mufin_jax.runtime.storage.npy import NpyWriter
from mufin_jax.runtime.storage.paths import Given, user_path
from mufin_jax.runtime.storage.text import load_text

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_AT_ONCE = 8192
_log = logging.getLogger(__name__)
MAX_CHARACTERS = 100_000
"""Of a title; a tokenizer takes a microsecond and a hundred bytes for each, used or not."""
MAX_WORD = 1000
"""Characters of a word to learn from: learning takes time with their square, and no token has more
than a hundred."""


class Tokenizer:
    """Cuts text as a checkpoint does, or as BERT does: WordPiece between [CLS] and [SEP]."""

    def __init__(self, backend: tokenizers.Tokenizer, prompt: str = ""):
        """Wrap a `tokenizers` pipeline, without its padding and truncation.

        Args:
          backend: the pipeline.
          prompt: stands in front of every text, as some sentence encoders require.
        """
        self.backend, self.prompt = backend, prompt
        self.backend.no_padding()
        self.backend.no_truncation()

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id, special tokens included."""
        return 1 + max(self.backend.get_vocab().values(), default=-1)

    @classmethod
    def train(
        cls, titles: Sequence[str], vocab_size: int = 8192, max_alphabet: int = 1000
    ) -> "Tokenizer":
        """Learn a vocabulary; the same titles give the same vocabulary in every process.

        Args:
          titles: of the training points.
          vocab_size: the most tokens to keep, special ones included.
          max_alphabet: the most distinct characters; words with a rarer one become [UNK]. A
            few titles in a large script then do not use up the vocabulary.
        """
        learner = tokenizers.Tokenizer(models.WordPiece(unk_token=UNK))
        learner.normalizer = normalizers.BertNormalizer(lowercase=True)
        learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        # A normalizer of its own: while the trainer draws from us, it holds the learner's lock.
        normalizer = normalizers.BertNormalizer(lowercase=True)
        read = until_stopped(titles, "prepare")
        counts = Counter(c for title in read for c in normalizer.normalize_str(_clean(title)))
        counts.pop(" ", None)
        by_frequency = sorted(counts, key=lambda c: (-counts[c], c))
        alphabet = sorted(by_frequency[: min(max_alphabet, (vocab_size - len(SPECIAL)) // 2)])
        # The trainer numbers characters in the order of a randomly seeded hash map and breaks
        # ties by those numbers. Naming them all as special tokens fixes their numbers.
        characters = alphabet + [f"##{c}" for c in alphabet]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[*SPECIAL, *characters],
        )
        learner.train_from_iterator(_known_words(normalizer, titles, set(alphabet)), trainer)
        return cls(_assemble(learner.get_vocab(), lowercase=True))

    @classmethod
    def load(cls, source: Given, prompt: str | None = None) -> "Tokenizer":
        """Read a tokenizer.json, or the tokenizer of a Hugging Face checkpoint.

        Args:
          source: a tokenizer.json, a folder with tokenizer.json or vocab.txt, or a hub name.
          prompt: what stands in front of every text, or the name of one of the checkpoint's
            prompts; None for the checkpoint's default prompt.

        Raises:
          InputError: if there is no tokenizer, or it cannot be read.
        """
        path, prompt = tokenizer_file(source, prompt)
        with damaged(f"{path} is not a tokenizer ({{reason}}): expected tokenizer.json"):
            if path.suffix == ".txt":
                return cls(_from_vocabulary(path), prompt)
            with _no_panic():
                backend = tokenizers.Tokenizer.from_str(load_text(path))
            unknown = getattr(backend.model, "unk_token", None)
            if unknown is not None and backend.model.token_to_id(unknown) is None:
                raise ValueError("its vocabulary lacks its unk_token")  # Rust would panic
            if getattr(backend.model, "dropout", None):
                _log.warning("%s drops merges by chance, which is meant for training: off", path)
                backend.model.dropout = None  # pyright: ignore[reportAttributeAccessIssue]
            return cls(backend, prompt)

    def save(self, path: Path) -> None:
        """Write a tokenizer.json; it does not hold the prompt."""
        self.backend.no_truncation()
        path.write_text(self.backend.to_str(pretty=True), "utf-8")  # of a full disk, OSError

    def encode(
        self, titles: Sequence[str], max_tokens: int
    ) -> tuple[Int32[np.ndarray, "t s"], Int32[np.ndarray, " t"]]:
        """Cut titles into token ids, those at both ends ([CLS] and [SEP]) included.

        Args:
          titles: t texts; one that is not empty follows the prompt.
          max_tokens: longer texts lose their end and keep [SEP].

        Returns:
          ids, padded with 0 to s = max_tokens; and the number of real tokens of each.
        """
        ids, lengths, _ = self.encode_and_mark(titles, max_tokens)
        return ids, lengths

    def encode_and_mark(
        self, titles: Sequence[str], max_tokens: int
    ) -> tuple[Int32[np.ndarray, "t s"], Int32[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
        """Return what `encode` returns, and which titles lost their end."""
        prompted = [_clean(self.prompt + title if title else title) for title in titles]
        with damaged("the tokenizer cannot encode these titles ({reason})"), _no_panic():
            self.backend.enable_truncation(max_tokens)
            encodings = self.backend.encode_batch_fast(prompted)
        cut = np.array([bool(encoding.overflowing) for encoding in encodings], bool)
        ids = np.zeros((len(titles), max_tokens), np.int32)
        lengths = np.zeros(len(titles), np.int32)
        for row, encoding in enumerate(encodings):
            own = encoding.ids
            if len(own) > max_tokens or max(own, default=0) >= self.vocab_size:
                raise InputError(
                    f"the tokenizer makes {len(own)} ids up to {max(own)} of {titles[row][:40]!r}: "
                    f"expected at most {max_tokens} ids below {self.vocab_size}"
                )
            lengths[row] = len(own)
            ids[row, : len(own)] = own
        return ids, lengths, cut


def tokenizer_file(source: Given, prompt: str | None = None) -> tuple[Path, str]:
    """Return the file of a tokenizer, and what stands in front of every text.

    Args:
      source: a tokenizer.json, a folder with tokenizer.json or vocab.txt, or a hub name.
      prompt: the prompt, or the name of one of the checkpoint's prompts; None for the checkpoint's
        default prompt.

    Raises:
      InputError: if there is no tokenizer.
    """
    path = user_path(source)
    if not path.exists():
        path = resolve(str(source))
    if not path.is_dir():
        return path, prompt or ""
    prompt = prompt_of(path, prompt)
    found = [path / name for name in ("tokenizer.json", "vocab.txt")]
    found = [file for file in found if file.is_file()]
    if not found:
        raise InputError(
            f"{path} has neither tokenizer.json nor vocab.txt: "
            "name a tokenizer file or the folder of a checkpoint that has one"
        )
    return found[0], prompt


def write_texts(
    tokenizer: Tokenizer, titles: Sequence[str], max_tokens: int, folder: Path
) -> Int64[np.ndarray, " cut"]:
    """Write texts.npy (t, max_tokens) and text_lengths.npy (t,), a chunk at a time.

    Returns:
        The numbers of the titles that are longer than `max_tokens` and were cut.
    """
    lengths, cut = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    with (
        NpyWriter(folder / "texts.npy", (max_tokens,), np.int32) as writer,
        progress(total=len(titles), desc="titles", unit=" titles") as bar,
    ):
        for start in until_stopped(range(0, len(titles), _AT_ONCE), "prepare"):
            part = titles[start : start + _AT_ONCE]
            ids, counts, lost = tokenizer.encode_and_mark(part, max_tokens)
            writer.append(ids)
            lengths.append(counts)
            cut.append(start + np.flatnonzero(lost))
            bar.update(len(counts))
    save_array(folder / "text_lengths.npy", np.concatenate(lengths))
    return np.concatenate(cut)


@contextlib.contextmanager
def _no_panic() -> Iterator[None]:
    """Turn a panic in Rust, which is no Exception, into ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"panic: {error}") from None


def _clean(title: str) -> str:
    """Return the title as Rust accepts it: without lone surrogates, and cut if it is endless."""
    return title[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def _known_words(
    normalizer: normalizers.Normalizer, titles: Iterable[str], alphabet: set[str]
) -> Iterable[str]:
    """Yield the titles, lower-cased, without words that hold a character outside the alphabet."""
    for title in until_stopped(titles, "prepare"):
        words = normalizer.normalize_str(_clean(title)).split()
        words = (word for word in words if len(word) <= MAX_WORD)
        yield " ".join(word for word in words if alphabet.issuperset(word))


def _from_vocabulary(path: Path) -> tokenizers.Tokenizer:
    words = load_text(path).splitlines()
    missing = [token for token in (UNK, CLS, SEP) if token not in words]
    if missing:
        raise InputError(f"{path} lacks {missing}: expected a BERT vocab.txt, one token a line")
    settings = path.with_name("tokenizer_config.json")
    lowercase = True
    if settings.is_file():
        lowercase = json.loads(load_text(settings)).get("do_lower_case", True)
    return _assemble({word: i for i, word in enumerate(words)}, lowercase)


def _assemble(vocabulary: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    """Return BERT's pipeline around a vocabulary, as a checkpoint's tokenizer.json describes it."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=UNK))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary[CLS]), (SEP, vocabulary[SEP])],
    )
    backend.add_special_tokens([token for token in SPECIAL if token in vocabulary])
    return backend
