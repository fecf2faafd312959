"""The routes: HTTP in, calls of the service, HTTP out.

Nothing here computes: pictures are decoded and models asked in other threads.
"""

import base64
import http
import math
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
import pydantic
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mufin_jax.runtime.errors import DiskError, Held, InputError
from mufin_jax.serving import bodies
from mufin_jax.serving.asking import Question
from mufin_jax.serving.bodies import as_item
from mufin_jax.serving.edge import TooLarge
from mufin_jax.serving.engine import Busy, Expired, Unavailable
from mufin_jax.serving.metrics import CONTENT_TYPE
from mufin_jax.serving.probes import Health, answer_of
from mufin_jax.serving.reading import read_body, read_items
from mufin_jax.serving.service import Gone, Service

Token = Annotated[str, Header(alias="authorization")]
_BODIES = (
    bodies.PredictBody, bodies.EncodeBody, bodies.EmbeddingsBody, bodies.LabelsBody,
)  # fmt: skip
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": bodies.ErrorAnswer} for code in (413, 415, 422, 429, 500, 503, 504)
}
_CHANGES: dict[int | str, dict[str, Any]] = {
    code: {"model": bodies.ErrorAnswer} for code in (401, 403, 404, 409, 507)
}
_REF = "#/components/schemas/{model}"
_TYPES: tuple[tuple[type[Exception], int, str], ...] = (
    (InputError, 422, "invalid_request"),
    (TooLarge, 413, "too_large"),
    (Busy, 429, "busy"),
    (Expired, 504, "deadline"),
    (Unavailable, 503, "unavailable"),
    (Held, 409, "held"),
    (DiskError, 507, "disk"),
    (Gone, 499, "client_left"),
    (ClientDisconnect, 499, "client_left"),
)
"""What exceptions become; the first that fits counts."""


def build_app(service: Service) -> FastAPI:
    """Return the routes of a service."""
    app = FastAPI(
        title="mufin_jax", version="1", redoc_url=None, responses=_ERRORS,
        description="Ranked labels for items with titles and pictures.",
    )  # fmt: skip
    _add_errors(app, service)
    _add_questions(app, service)
    _add_labels(app, service)
    _add_states(app, service)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        found = described()
        _, schemas = models_json_schema(
            [(kind, "validation") for kind in _BODIES], ref_template=_REF
        )
        found.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        return found

    app.openapi = openapi
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    """Add the routes that ask the model."""
    config = service.config

    async def question(request: Request, kind: type[Any], until: float) -> Question:
        body, sources = await read_items(request, kind, config)
        k = body.k if isinstance(body, bodies.PredictBody) else 1
        service.check(body.items, sources, k)
        pictures = await service.pictures(sources, until)
        items = [as_item(*pair) for pair in zip(body.items, pictures, strict=True)]
        if not isinstance(body, bodies.PredictBody):
            return Question.read(items)
        return Question.read(items, body.k, body.exclude, body.within, body.explain)

    @app.post("/v1/predict", response_model_exclude_none=True, openapi_extra=_takes("PredictBody"))
    async def predict(request: Request) -> bodies.PredictAnswer:
        """Rank labels for items."""
        until = time.monotonic() + config.deadline
        asked = await question(request, bodies.PredictBody, until)
        version, labels = await service.predict(asked, until, _left(request))
        return bodies.PredictAnswer.of(service.name, version, labels)

    @app.post("/v1/embed", openapi_extra=_takes("EncodeBody"))
    async def embed(request: Request) -> bodies.EncodeAnswer:
        """Return a unit vector for each item."""
        until = time.monotonic() + config.deadline
        asked = await question(request, bodies.EncodeBody, until)
        vectors = await service.encode(asked, until, _left(request))
        return bodies.EncodeAnswer(model=service.name, vectors=vectors.tolist())

    @app.post("/v1/embeddings", openapi_extra=_takes("EmbeddingsBody", files=False))
    async def embeddings(request: Request) -> bodies.EmbeddingsAnswer:
        """Return vectors of titles, in the form of OpenAI's endpoint."""
        until = time.monotonic() + config.deadline
        body = await read_body(request, bodies.EmbeddingsBody)
        titles = [body.input] if isinstance(body.input, str) else body.input
        items = [bodies.ItemBody(title=title[:10_000]) for title in titles]
        service.check(items, [], 1)
        asked = Question.read(as_item(item, []) for item in items)
        vectors = await service.encode(asked, until, _left(request))
        shown = [_packed(one) if body.encoding_format == "base64" else one.tolist()
                 for one in vectors]  # fmt: skip
        data = [bodies.Embedding(index=i, embedding=one) for i, one in enumerate(shown)]
        return bodies.EmbeddingsAnswer(model=service.name, data=data)


def _add_labels(app: FastAPI, service: Service) -> None:
    """Add the routes that show and change labels."""

    def check_token(authorization: str) -> None:
        allowed = service.may_change(authorization.removeprefix("Bearer "))
        if allowed is None:
            raise HTTPException(403, "labels cannot be changed: the server has no admin token")
        if not allowed:
            raise HTTPException(401, "expected the header Authorization: Bearer TOKEN")

    def show(uid: str) -> bodies.LabelAnswer:
        catalogue = service.predictor.catalogue
        label = next(catalogue.all_of(uid), None)
        if label is None:
            raise HTTPException(404, "no label has this id")
        return bodies.LabelAnswer(
            id=uid, title=catalogue.title_of(label), recommended=catalogue.holds(uid),
            version=catalogue.version,
        )  # fmt: skip

    @app.get("/v1/labels/{uid:path}", responses=_CHANGES)
    async def label(uid: str) -> bodies.LabelAnswer:
        """Show what is known of a label."""
        return show(uid)

    @app.post("/v1/labels", responses=_CHANGES, openapi_extra=_takes("LabelsBody"))
    async def add(request: Request, authorization: Token = "") -> bodies.ChangeAnswer:
        """Add labels, or replace them; needs the admin token."""
        check_token(authorization)
        until = time.monotonic() + service.config.deadline
        body, sources = await read_items(request, bodies.LabelsBody, service.config)
        service.check(body.items, sources, 1)
        pictures = await service.pictures(sources, until)
        items = [as_item(*pair) for pair in zip(body.items, pictures, strict=True)]
        predictor = service.predictor
        change = predictor.update_labels if body.update else predictor.add_labels
        await service.change(lambda: change(items))
        return bodies.ChangeAnswer(version=predictor.catalogue.version)

    @app.post("/v1/rollback", responses=_CHANGES)
    async def roll_back(authorization: Token = "") -> bodies.ChangeAnswer:
        """Return to the version of the catalogue before this one; needs the admin token."""
        check_token(authorization)
        await service.change(service.predictor.roll_back)
        return bodies.ChangeAnswer(version=service.predictor.catalogue.version)

    @app.delete("/v1/labels/{uid:path}", responses=_CHANGES)
    async def remove(uid: str, authorization: Token = "") -> bodies.ChangeAnswer:
        """Recommend a label no more; needs the admin token."""
        check_token(authorization)
        if not service.predictor.catalogue.holds(uid):
            raise HTTPException(404, "no label that is recommended has this id")
        await service.change(lambda: service.predictor.remove_labels([uid]))
        return bodies.ChangeAnswer(version=service.predictor.catalogue.version)


def _add_states(app: FastAPI, service: Service) -> None:
    """Add the routes that tell about the server."""

    def told(health: Health) -> Response:
        code, body = answer_of(health)
        return Response(body, code, media_type="application/json")

    @app.get("/v1/models")
    async def models() -> bodies.ModelsAnswer:
        """Show the model that answers."""
        catalogue = service.predictor.catalogue
        one = bodies.ModelAnswer(
            id=service.name, version=catalogue.version, digest=service.digest,
            labels=int(catalogue.recommended.sum()), queue=service.waiting,
        )  # fmt: skip
        return bodies.ModelsAnswer(data=[one])

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return told(service.live())

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        return told(service.ready())

    @app.get("/health", include_in_schema=False)
    async def health() -> Response:
        return told(service.ready())

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_errors(app: FastAPI, service: Service) -> None:
    """Make each exception an answer of one form, without a word on the server's inside."""

    async def refused(request: Request, error: Exception) -> Response:
        code, kind = next(
            ((code, kind) for one, code, kind in _TYPES if isinstance(error, one)),
            (500, "internal"),
        )
        headers = {}
        if isinstance(error, Busy):
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        if code in (413, 429, 503, 504):
            service.metrics.rejected.labels(kind).inc()
        return _error(code, kind, " ".join(str(error).split()) if code != 500 else "", headers)

    async def of_http(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        detail = str(error.detail) if isinstance(error, HTTPException) else ""
        headers = {"WWW-Authenticate": "Bearer"} if code == 401 else {}
        return _error(code, "http", detail, headers)

    async def of_form(request: Request, error: Exception) -> Response:
        return _error(422, "invalid_request", "a parameter of the address has another form")

    for kind, *_ in _TYPES:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_form)
    app.add_exception_handler(pydantic.ValidationError, of_form)
    app.add_exception_handler(Exception, refused)


def _error(code: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return a refusal."""
    try:
        name = http.HTTPStatus(code).phrase
    except ValueError:
        name = "Client Closed Request"
    shown = bodies.ErrorAnswer(error=name, error_type=kind, message=message or name)
    return JSONResponse(shown.model_dump(), code, headers)


def _takes(body: str, files: bool = True) -> dict[str, Any]:
    """Return what OpenAPI is told about a body that a route reads itself."""
    schema = {"$ref": _REF.format(model=body)}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if files:
        pictures = {"type": "array", "items": {"type": "string", "format": "binary"}}
        parts = {"request": {"type": "string"}, "images[0]": pictures}
        form = {"type": "object", "required": ["request"], "properties": parts}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _left(request: Request) -> Callable[[], Awaitable[None]]:
    """Return what ends once the client has left; the body must have been read."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


def _packed(vector: np.ndarray) -> str:
    """Return a vector as OpenAI's clients read it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
