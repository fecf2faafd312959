"""/livez and /readyz on a port of their own, answered by threads of their own.

The event loop may be busy and the queue full: a probe is answered all the same. A server that is
merely busy must not be restarted.
"""

import json
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Health = tuple[bool, str]
"""Whether all is well, and a line about it."""
_TIMEOUT = 5.0
"""Seconds after which a client that sends nothing is hung up on."""


class Probes:
    """A small server of probes.

    Args:
        host: the address to listen at.
        port: 0 takes a free one.
        live: whether the process is worth keeping.
        ready: whether it can be sent requests.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(
        self, host: str, port: int, live: Callable[[], Health], ready: Callable[[], Health]
    ):
        self._server = _Server((host, port), _handler({"/livez": live, "/readyz": ready}))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="probes", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return self._server.server_address[1]

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Threads that end with the process; the queue of the socket holds a burst of probes."""

    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        """Listen, without a question to the name server, which may be slow."""
        socketserver.TCPServer.server_bind(self)


def answer_of(health: Health) -> tuple[int, bytes]:
    """Return the status and the body that report a state."""
    well, about = health
    return (200 if well else 503), json.dumps({"ok": well, "about": about}).encode()


def _handler(routes: dict[str, Callable[[], Health]]) -> type[BaseHTTPRequestHandler]:
    """Return a handler of GET and HEAD that reports what the routes' functions return."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT
        server_version, sys_version = "mufin", ""

        def do_GET(self) -> None:
            asked = routes.get(self.path.partition("?")[0])
            code, body = answer_of(asked()) if asked else (404, b'{"ok": false}')
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: a probe comes every few seconds."""

    return Handler
