"""What surrounds every route: the limit of bodies, headers of security, metrics, the access log."""

import json
import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mufin_jax.serving.metrics import Metrics

log = logging.getLogger(__name__)

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_PAGES = ("/docs",)
"""Pages that load scripts: they have no policy of content."""
_LEFT = 499
"""The code under which a client that has left is counted."""


class TooLarge(Exception):
    """The body has more bytes than are allowed."""


class Edge:
    """Wraps an application.

    Args:
        app: what is wrapped.
        metrics: counts requests by route and code.
        body: bytes of a request, at most: counted as they come.
        access: is told of each request, for a log; None logs nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        body: int,
        access: Callable[[str], object] | None = None,
    ):
        self._app, self._metrics, self._body, self._access = app, metrics, body, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, code, taken = time.monotonic(), _LEFT, 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._body:
                    raise TooLarge
            return message

        async def marked(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                policy = -1 if scope["path"] in _PAGES else None
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS[:policy]]}
            await send(message)

        try:
            await self._app(scope, limited, marked)
        finally:
            seconds = time.monotonic() - begin
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(code)).inc()
            self._metrics.durations.labels(route).observe(seconds)
            if self._access is not None:
                client = (scope.get("client") or ("",))[0]
                self._access(
                    json.dumps(
                        {
                            "time": time.time(), "client": client, "method": scope["method"],
                            "route": route, "code": code, "seconds": round(seconds, 6),
                            "bytes": taken,
                        }
                    )
                )  # fmt: skip
