"""Requests as they come: bodies of JSON, or of several parts with files."""

import asyncio
import re
from typing import TypeVar

import pydantic
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.bodies import EncodeBody, LabelsBody
from mufin_jax.serving.config import ServeConfig

B = TypeVar("B", bound=pydantic.BaseModel)
E = TypeVar("E", bound=EncodeBody | LabelsBody)
Sources = list[list[str | bytes]]
"""Of each item, its pictures as they came."""

_LARGE = 32_768
"""Bytes of a body from which on another thread reads it."""
_PART = re.compile(r"images(?:\[(\d{1,3})\])?")
_FORM = 'expected a field "request" with JSON, and files named images[0] for item 0'


async def read_body(request: Request, kind: type[B]) -> B:
    """Return a body of JSON.

    Raises:
        InputError: if it has another form.
        HTTPException: 415 for another kind of content.
    """
    kinds = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kinds.lower() != "application/json":
        raise HTTPException(415, "expected content of the type application/json")
    return await _parsed(await request.body(), kind)


async def read_items(request: Request, kind: type[E], limits: ServeConfig) -> tuple[E, Sources]:
    """Return a body with items, and the pictures of each: JSON, or multipart with files.

    Raises:
        InputError: if it has another form.
        HTTPException: 415 for another kind of content.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await read_body(request, kind)
        return body, [[*item.images] for item in body.items]
    most = limits.items * limits.pictures
    async with request.form(max_files=most, max_fields=1, max_part_size=limits.body) as form:
        given = form.get("request")
        if not isinstance(given, str):
            raise InputError(f"no request; {_FORM}")
        body = await _parsed(given.encode(), kind)
        sources: Sources = [[*item.images] for item in body.items]
        for name, part in form.multi_items():
            if name == "request":
                continue
            found = _PART.fullmatch(name)
            if found is None or not isinstance(part, UploadFile):
                raise InputError(f"a part named {name[:80]!r}; {_FORM}")
            row = int(found[1] or 0)
            if row >= len(sources):
                raise InputError(f"a file for item {row} of {len(sources)}; {_FORM}")
            sources[row].append(await part.read())
    return body, sources


async def _parsed(content: bytes, kind: type[B]) -> B:
    """Return the body of JSON text.

    Raises:
        InputError: if it is of another form; the message names the first field that is wrong.
    """
    try:
        if len(content) < _LARGE:
            return kind.model_validate_json(content)
        return await asyncio.to_thread(kind.model_validate_json, content)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise InputError(f"{place[:200]}: {first['msg'][:200]}") from None
