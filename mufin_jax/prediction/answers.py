"""What `predict` returns: labels with their ids, titles and scores."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from numpy import ndarray

from mufin_jax.prediction.catalogue import Catalogue


class PartOfScore(NamedTuple):
    """A part of a score, such as c, the classifier's (`parts.py` has all of them).

    Attributes:
        value: what the part gives the label.
        weight: what it counts.
    """

    value: float
    weight: float


class Explanation(NamedTuple):
    """Why a label has its score.

    Attributes:
        parts: by name; the sum of value times weight is the score.
        attention: how much each of the item's descriptors (texts first, then pictures) attends to
            each of the label's, a row each; None for a model without cross-attention.
    """

    parts: dict[str, PartOfScore]
    attention: tuple[tuple[float, ...], ...] | None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One label predicted for one item.

    Attributes:
        label: its number.
        id: its id.
        title: its title, "" if it has none.
        score: the larger, the better.
        why: present if the query asked for it (`explain=True`).
    """

    label: int
    id: str
    title: str
    score: float
    why: Explanation | None = dataclasses.field(default=None, repr=False)


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
    found: list[dict[str, Any]] = []
    for one in answer:
        found.append({"id": one.id, "title": one.title, "score": one.score})
        if one.why is not None:
            parts = {name: part._asdict() for name, part in one.why.parts.items()}
            found[-1] |= {"parts": parts, "attention": one.why.attention}
    return found
