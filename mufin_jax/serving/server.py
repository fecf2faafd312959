"""The life of a server: it listens at once, loads and warms up, answers, and ends gently.

/readyz is 503 until everything is compiled. After SIGTERM it is 503 again, and the server goes on
for `drain_delay`: load balancers need this time to learn of it.
"""

import asyncio
import contextlib
import hashlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from mufin_jax.prediction.config import check_finished
from mufin_jax.runtime.distributed.liveness import leave
from mufin_jax.runtime.errors import InputError, MufinError
from mufin_jax.serving.app import build_app
from mufin_jax.serving.config import ServeConfig
from mufin_jax.serving.edge import Edge
from mufin_jax.serving.probes import Probes
from mufin_jax.serving.service import Service

log = logging.getLogger(__name__)

REFRESH = 5.0
"""Seconds between two looks for another version of the catalogue."""
_FINISH = 3
"""Seconds that open requests have after the drain delay, and then what waits."""
_COMPILED = "/jax/core/compile/backend_compile_duration"

Load = Callable[[Path], tuple[Any, str]]
"""Returns a predictor that is warm, and the digest of its files."""


def load_warm(run: Path) -> tuple[Any, str]:
    """Return the predictor of a run, with all that queries need compiled, and its digest.

    Raises:
        InputError: if the folder holds no finished run, or is damaged.
    """
    from mufin_jax.prediction.predictor import Predictor

    predictor = Predictor.load(run)
    predictor.warm_up()
    labels = run / "finetune" / "predictor" / "labels" / "manifest.json"
    return predictor, hashlib.sha256(labels.read_bytes()).hexdigest()[:16]


def serve(run: Path, config: ServeConfig, load: Load = load_warm) -> None:
    """Serve a finished run until a signal comes.

    Args:
        run: its folder.
        config: limits, addresses.
        load: makes the predictor, in a thread of its own.

    Raises:
        InputError: if the run, the token's file or an address cannot be used.
        MufinError: if loading fails.
    """
    check_finished(run)
    service = Service(config, run.resolve().name, token(config.admin_token_file))
    with _listener(config.host, config.port, "--port") as listener:
        loading = asyncio.run(_Life(run, service, listener, load).live())
    if loading:
        leave(0)  # the thread may be in a long native call


def token(file: Path | None) -> str:
    """Return the token in a file; "" without one.

    Raises:
        InputError: if the file cannot be read, or its token is short.
    """
    if file is None:
        return ""
    try:
        found = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--admin-token-file={file}: cannot be read ({error})") from None
    if len(found) < 16:
        raise InputError(f"--admin-token-file={file}: expected at least 16 characters in it")
    return found


class _Server(uvicorn.Server):
    """Leaves signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Life:
    """One server from its start to its end.

    Args:
        run: the folder of the run.
        service: what answers.
        listener: where requests come from.
        load: makes the predictor.
    """

    def __init__(self, run: Path, service: Service, listener: socket.socket, load: Load):
        self._run, self._service, self._listener, self._load = run, service, listener, load
        config = service.config
        access = print if config.access_log else None
        edge = Edge(build_app(service), service.metrics, config.body, access)
        self._server = _Server(
            uvicorn.Config(
                edge, lifespan="off", log_level="warning", access_log=False, server_header=False,
                timeout_keep_alive=15, timeout_graceful_shutdown=_FINISH,
            )
        )  # fmt: skip
        self._failure: BaseException | None = None
        self._loaded = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def live(self) -> bool:
        """Serve until a signal comes; return whether the model is still being loaded then.

        Raises:
            MufinError: if loading fails.
        """
        loop, service, config = asyncio.get_running_loop(), self._service, self._service.config
        for number in (signal.SIGTERM, signal.SIGINT):
            # The loop's handlers also take signals from the run's own watch (runtime/signals.py).
            loop.add_signal_handler(number, self._end)
        probes = None
        if config.probe_port:
            with _taken("--probe-port", config.probe_port):
                probes = Probes(config.host, config.probe_port, service.live, service.ready)
        threading.Thread(target=self._open, args=(loop,), name="loading", daemon=True).start()
        self._begin(self._refresh())
        host, port = self._listener.getsockname()[:2]
        print(f"{self._run}: loading; http://{host}:{port}/readyz tells when it is ready")
        await self._server.serve([self._listener])
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(service.close, float(_FINISH))
        if probes is not None:
            probes.close()
        if self._failure is not None:
            raise self._failure
        return not self._loaded.is_set()

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load the model; the thread's end is the loop's news."""
        try:
            predictor, digest = self._load(self._run)
        except BaseException as error:
            if not isinstance(error, MufinError):
                log.exception("loading failed")
            self._tell(loop, self._fail, error)
        else:
            self._tell(loop, self._ready, predictor, digest)

    def _tell(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *given: Any):
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(call, *given)

    def _ready(self, predictor: Any, digest: str) -> None:
        self._service.open(predictor, digest)
        self._loaded.set()
        _count_compilations(self._service)
        print(f"{self._run}: ready")

    def _fail(self, error: BaseException) -> None:
        self._service.failed, self._failure = "the model cannot be loaded", error
        self._loaded.set()
        self._server.should_exit = True

    def _end(self) -> None:
        """End gently after the drain delay; at once if asked a second time."""
        if self._service.draining or not self._loaded.is_set():
            self._service.draining = self._server.should_exit = True
            return
        self._service.draining = True
        self._begin(self._drain())

    async def _drain(self) -> None:
        await asyncio.sleep(self._service.config.drain_delay)
        self._server.should_exit = True

    async def _refresh(self) -> None:
        """Move to versions of the catalogue that other processes write."""
        await self._loaded.wait()
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await self._service.refresh()
            except MufinError as error:
                log.warning("the catalogue's version cannot be read: %s", error)

    def _begin(self, task: Any) -> None:
        self._tasks.add(asyncio.ensure_future(task))


def _count_compilations(service: Service) -> None:
    """Count what is compiled from now on: expected is nothing."""
    from jax import monitoring

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            service.metrics.compilations.inc()

    monitoring.register_event_duration_secs_listener(note)


def _listener(host: str, port: int, flag: str) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: if the address is taken, or none of this machine.
    """
    with _taken(flag, port):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)


@contextlib.contextmanager
def _taken(flag: str, port: int) -> Iterator[None]:
    """Turn an address that cannot be used into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{flag}={port}: cannot listen ({error.strerror or error}); choose another one"
        ) from None
