"""What the model's thread does: the items of several requests in one call of the predictor.

Requests go together if they restrict labels alike and are explained alike (`Question.key`). What a
request excludes is a matter of its items, and the largest k serves all: each list is cut after it.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from mufin_jax.prediction.answers import Prediction
from mufin_jax.prediction.items import Item, read_ids, read_query

if TYPE_CHECKING:
    from mufin_jax.prediction.predictor import Predictor

_TRIES = 3
"""Times that a batch is asked, at most, because the labels changed meanwhile."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What a request asks.

    Attributes:
        items: each with the ids that it excludes.
        k: labels of an item.
        within: ids of the only labels that it gets, ascending; None allows all.
        explain: whether each label tells why it has its score.
    """

    items: Sequence[Item]
    k: int = 10
    within: tuple[str, ...] | None = None
    explain: bool = False

    @classmethod
    def read(
        cls,
        items: Iterable[Any],
        k: int = 10,
        exclude: Iterable[str] = (),
        within: Iterable[str] | None = None,
        explain: bool = False,
    ) -> "Question":
        """Return the question of a request, in the arguments of `Predictor.predict`.

        Raises:
            InputError: if one of them has another form.
        """
        barred = tuple(read_ids(exclude, "exclude"))
        read = [dataclasses.replace(item, exclude=barred) for item in read_query(items)]
        only = None if within is None else tuple(sorted(set(read_ids(within, "within"))))
        return cls(read, k, only, explain)

    @property
    def key(self) -> Hashable:
        """What requests that go together have in common."""
        return self.within, self.explain


class Answered(NamedTuple):
    """The answer of a request.

    Attributes:
        version: of the catalogue whose labels these are.
        labels: of each item, best first.
    """

    version: int
    labels: list[list[Prediction]]


@runtime_checkable
class Asking(Protocol):
    """What carries a question, such as a job of the engine."""

    @property
    def asked(self) -> Any:
        """The question."""
        ...


class Asker:
    """Asks a predictor for several requests at once.

    Args:
        predictor: is asked by one thread alone; another one may change its labels meanwhile.
    """

    def __init__(self, predictor: "Predictor"):
        self.predictor = predictor

    def predict(self, asked: Sequence[Asking]) -> list[Answered]:
        """Return the answers of requests whose questions have the same key.

        Raises:
            InputError: if an item of one of them cannot be answered.
        """
        questions: list[Question] = [one.asked for one in asked]
        items = [item for question in questions for item in question.items]
        k, first = max(question.k for question in questions), questions[0]
        found, version = self._whole(items, k, first)
        rows = iter(found)
        return [
            Answered(
                version,
                [row[: one.k] for row in itertools.islice(rows, len(one.items))],
            )
            for one in questions
        ]

    def encode(self, asked: Sequence[Asking]) -> list[Float32[np.ndarray, "n d"]]:
        """Return the vectors of requests, a row an item.

        Raises:
            InputError: if an item of one of them cannot be encoded.
        """
        questions: list[Question] = [one.asked for one in asked]
        vectors = self.predictor.encode([item for one in questions for item in one.items])
        ends = np.cumsum([len(one.items) for one in questions])[:-1]
        return np.split(vectors, ends)

    def _whole(
        self, items: Sequence[Item], k: int, like: Question
    ) -> tuple[list[list[Prediction]], int]:
        """Return the labels of items, and the version that they are of.

        A change of labels during a batch leaves open which of two versions answered: the batch is
        asked again.
        """
        found: list[list[Prediction]] = []
        for _ in range(_TRIES):
            before = self.predictor.catalogue
            found = self.predictor.predict(items, k, within=like.within, explain=like.explain)
            if self.predictor.catalogue is before:
                break
        return found, before.version
