"""What `predict` returns: labels with their ids, titles and scores."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from numpy import ndarray

from mufin_jax.prediction.catalogue import Catalogue


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One label predicted for one item."""

    label: int
    id: str
    title: str
    score: float


def named(
    catalogue: Catalogue, labels: Int[ndarray, " c"], scores: Float[ndarray, " c"], k: int
) -> list[Prediction]:
    """Return the first k labels of a ranking as predictions; -1 is left out.

    Args:
        catalogue: names the labels.
        labels: of one item, best first.
        scores: of these labels.
        k: how many there are at most.
    """
    return [
        Prediction(
            int(label), catalogue.id_of(int(label)), catalogue.title_of(int(label)), float(score)
        )
        for label, score in zip(labels[:k], scores[:k], strict=True)
        if label >= 0
    ]


def as_json(answer: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return the labels of an item as JSON has them, best first."""
    return [{"id": one.id, "title": one.title, "score": one.score} for one in answer]
