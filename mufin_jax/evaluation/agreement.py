"""Whether a predictor can be measured on a prepared folder: both must have the same labels.

Labels are numbers, and so are tokens: with those of another catalogue, all scores would be noise.
"""

import json
from typing import Any

import numpy as np

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.strings import Strings
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError


def check_agreement(predictor: object, dataset: object, lists: Shortlist | None) -> None:
    """Reject data that a predictor cannot be measured on.

    Args:
        predictor: expected to be a `Predictor`.
        dataset: expected to be a prepared folder with the predictor's labels, tokenizer and size of
            pictures.
        lists: shortlists of its test points, if they are given.

    Raises:
        InputError: if one of them is another thing, or they do not fit each other.
    """
    if not isinstance(predictor, Predictor):
        raise _other_kind("predictor", predictor, Predictor)
    if not isinstance(dataset, Dataset):
        raise _other_kind("dataset", dataset, Dataset)
    if not same_data(predictor, dataset):
        own, texts = predictor.dataset, predictor.loader.descriptors.sees_texts
        _check_labels(own.labels.ids, dataset.labels.ids, dataset)
        for what, mine, other in _facts(own, dataset, texts):
            if mine != other:
                raise InputError(
                    f"{dataset.path}: found another {what} than {own.path}, which the predictor "
                    f"was trained on ({other!s:.80}; expected {mine!s:.80}); prepare the data with "
                    "the settings and the tokenizer of that folder"
                )
    if lists is not None and len(lists.labels) != len(dataset.test):
        raise InputError(
            f"lists: found {len(lists.labels)} shortlists; expected one for each of the "
            f"{len(dataset.test)} test points of {dataset.path}"
        )


def same_data(predictor: Predictor, dataset: Dataset) -> bool:
    """Return whether these are the data that the predictor was trained on."""
    return predictor.dataset is dataset or predictor.dataset.manifest == dataset.manifest


def _other_kind(name: str, given: object, kind: type) -> InputError:
    return InputError(
        f"{name}: found {type(given).__name__}; expected a {kind.__name__}, from "
        f"{kind.__name__}.load"
    )


def _check_labels(own: Strings, other: Strings, dataset: Dataset) -> None:
    """Reject labels with other ids, or in another order."""
    if len(own) != len(other):
        raise InputError(
            f"{dataset.path}: found {len(other)} labels; expected the predictor's {len(own)}: it "
            "can be measured on its own catalogue alone"
        )
    if not (np.array_equal(own.offsets, other.offsets) and np.array_equal(own.blob, other.blob)):
        row = next(row for row in range(len(own)) if own[row] != other[row])
        raise InputError(
            f"{dataset.path}: label {row} is {other[row]!r:.80}; expected {own[row]!r:.80}, as the "
            "predictor has it: it can be measured on its own catalogue alone"
        )


def _facts(own: Dataset, other: Dataset, texts: bool) -> list[tuple[str, Any, Any]]:
    """Return what must be equal: its name, and the value of each folder."""
    found = [
        ("width of ready text vectors", _width(own.text_vectors), _width(other.text_vectors)),
        ("width of ready image vectors", _width(own.image_vectors), _width(other.image_vectors)),
        ("processing of pictures", own.processing, other.processing),
    ]
    if texts and own.text_vectors is None and other.text_vectors is None:
        mine, its = own.tokenizer, other.tokenizer
        found += [
            ("number of tokens of a title", own.texts.shape[1], other.texts.shape[1]),
            ("size of the vocabulary", mine.vocab_size, its.vocab_size),
            ("tokenizer", _pipeline(mine), _pipeline(its)),
            ("prompt", mine.prompt, its.prompt),
        ]
    return found


def _pipeline(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a tokenizer does, without the length that its last use has left."""
    return json.loads(tokenizer.backend.to_str()) | {"truncation": None, "padding": None}


def _width(vectors: np.ndarray | None) -> int | None:
    return None if vectors is None else vectors.shape[1]
