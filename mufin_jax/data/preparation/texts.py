"""The texts of a catalogue: their tokens, or their ready vectors."""

from pathlib import Path

import numpy as np

from mufin_jax.data.preparation.config import PrepareConfig
from mufin_jax.data.preparation.items import distinct_texts, drop_empty, train_tokenizer
from mufin_jax.data.preparation.ready import ready_texts
from mufin_jax.data.preparation.resize import Bag
from mufin_jax.data.readers.catalogue import Catalogue
from mufin_jax.data.readers.tally import Fact, Tally
from mufin_jax.data.tokenizer import write_texts
from mufin_jax.data.tokenizer_trial import load_tried


def write_all_texts(
    config: PrepareConfig, catalogue: Catalogue, bags: dict[str, Bag], out: Path, tally: Tally
) -> tuple[dict[str, np.ndarray], int, str, Fact]:
    """Drop empty items, and write the texts' tokens or their ready vectors.

    Args:
        config: the settings.
        catalogue: the items.
        bags: by side, the pictures of each item.
        out: the prepared folder.
        tally: takes the empty items, and those without a vector.

    Returns:
        By side, the rows of each item's texts; the number of texts; the tokenizer's prompt; and how
        many texts are cut.
    """
    if config.text_vectors is None:
        drop_empty(catalogue, bags, tally)
        texts, text = distinct_texts(catalogue)
        return text, len(texts), *_tokenize(config, catalogue, texts, out)
    vectors = out / "text_vectors.npy"
    text = ready_texts(Path(config.text_vectors), catalogue, vectors, tally)
    drop_empty(catalogue, bags, tally, text)
    count = len(np.load(vectors, mmap_mode="r", allow_pickle=False))
    return text, count, "", _cut(config, [], count)


def _tokenize(
    config: PrepareConfig, catalogue: Catalogue, texts: list[str], out: Path
) -> tuple[str, Fact]:
    """Load or train the tokenizer, and save it with the texts' tokens.

    Returns:
        Its prompt, and how many texts are longer than `max_tokens` and are cut.
    """
    if config.tokenizer is not None:
        tokenizer = load_tried(config.tokenizer, config.prompt, config.max_tokens, texts)
    else:
        tokenizer = train_tokenizer(catalogue, config.vocab_size)
        tokenizer.prompt = config.prompt or ""
    tokenizer.save(out / "tokenizer.json")
    cut = write_texts(tokenizer, texts, config.max_tokens, out)
    return tokenizer.prompt, _cut(config, [texts[row] for row in cut], len(texts))


def _cut(config: PrepareConfig, cut: list[str], count: int) -> Fact:
    """Return how many of the texts are longer than `max_tokens` and are cut."""
    first = repr(cut[0][:60]) if cut else ""
    return Fact(f"titles cut at {config.max_tokens} tokens", len(cut), count, first)
