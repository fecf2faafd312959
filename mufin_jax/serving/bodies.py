"""The bodies of requests and answers, as /openapi.json describes them.

A field that is not known is rejected: a misspelt one would be without effect, silently.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mufin_jax.prediction.answers import Prediction, as_json

_LONGEST_TEXT = 10_000
"""Characters of a text or an id: the model reads the first few hundred of a title."""
_MOST_EXCLUDED = 1_000
"""Ids that a request excludes, at most: each of its items compares its list with all of them."""
_MOST_ALLOWED = 10_000
"""Ids that it allows, at most."""


class Body(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ItemBody(Body):
    """An item: what `Predictor.predict` takes, with pictures as texts."""

    id: str | None = Field(default=None, max_length=_LONGEST_TEXT, description="of a known product")
    title: str | None = Field(default=None, max_length=_LONGEST_TEXT)
    titles: list[str] | None = Field(default=None, description="several texts of one item")
    images: list[str] = Field(
        default_factory=list,
        description="data URIs (data:image/jpeg;base64,...); https addresses, if the server "
        "allows their host",
    )
    text_vector: list[float] | None = Field(default=None, description="for models of ready vectors")
    image_vectors: list[list[float]] | None = Field(
        default=None, description="the same for pictures"
    )


class LabelBody(ItemBody):
    """An item that becomes a label."""

    id: str = Field(max_length=_LONGEST_TEXT, min_length=1)
    related: list[str] = Field(default_factory=list, description="training products it goes with")


class EncodeBody(Body):
    """A request of vectors."""

    items: list[ItemBody] = Field(min_length=1)


class PredictBody(EncodeBody):
    """A request of labels."""

    k: int = Field(default=10, ge=1, description="labels of an item")
    exclude: list[str] = Field(
        default_factory=list, max_length=_MOST_EXCLUDED, description="ids that no item gets"
    )
    within: list[str] | None = Field(
        default=None, max_length=_MOST_ALLOWED, description="the only ids that items get"
    )
    explain: bool = Field(default=False, description="tell why each label has its score")


class LabelsBody(Body):
    """A request to add labels, or to replace those with the same ids."""

    items: list[LabelBody] = Field(min_length=1)
    update: bool = Field(default=False, description="replace the labels that have these ids")


class EmbeddingsBody(BaseModel):
    """A request in the form of OpenAI's endpoint of the same name; fields of no effect pass."""

    input: str | list[str] = Field(description="titles")
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


class Label(BaseModel):
    """A label of an answer.

    Attributes:
        parts: of the score, by name: value and weight.
        attention: of the item's descriptors to the label's.
    """

    id: str
    title: str
    score: float
    parts: dict[str, dict[str, float]] | None = None
    attention: list[list[float]] | None = None


class Answer(BaseModel):
    """The labels of an item, best first."""

    labels: list[Label]


class PredictAnswer(BaseModel):
    """The answers of a request, in the order of its items."""

    model: str
    version: int
    answers: list[Answer]

    @classmethod
    def of(cls, model: str, version: int, found: Sequence[Sequence[Prediction]]) -> "PredictAnswer":
        """Return what `Predictor.predict` gave as a body."""
        answers = [Answer(labels=[Label(**one) for one in as_json(labels)]) for labels in found]
        return cls(model=model, version=version, answers=answers)


class EncodeAnswer(BaseModel):
    """A unit vector for each item."""

    model: str
    vectors: list[list[float]]


class Embedding(BaseModel):
    """A vector in OpenAI's form; a text in base64 holds little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """Vectors in OpenAI's form; nothing counts tokens."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: dict[str, int] = Field(default_factory=lambda: {"prompt_tokens": 0, "total_tokens": 0})


class LabelAnswer(BaseModel):
    """What is known of a label."""

    id: str
    title: str
    recommended: bool
    version: int


class ChangeAnswer(BaseModel):
    """What a change of labels leaves.

    Attributes:
        version: of the catalogue; -1 if it could not be saved and holds in memory alone.
    """

    version: int


class ModelAnswer(BaseModel):
    """The model that answers.

    Attributes:
        id: its name.
        version: of the catalogue.
        digest: of the model's files.
        labels: that are recommended.
        queue: items that wait.
    """

    id: str
    version: int
    digest: str
    labels: int
    queue: int


class ModelsAnswer(BaseModel):
    """All models: there is one."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class ErrorAnswer(BaseModel):
    """What every refusal looks like.

    Attributes:
        error: the status in words, such as "Unprocessable Content".
        error_type: a name for programs, such as "invalid_request".
        message: what was found, what is expected, what to do.
    """

    error: str
    error_type: str
    message: str


def as_item(body: ItemBody, images: Sequence[Any]) -> dict[str, Any]:
    """Return an item in the form of `Predictor.predict`.

    Args:
        body: of the item.
        images: its pictures, in place of those that the body names.
    """
    given = body.model_dump(exclude={"images"}, exclude_none=True)
    return given | {"images": list(images)}
