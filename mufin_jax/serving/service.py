"""What all routes share: the model that answers, its state, and the way of a request to it."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from mufin_jax.prediction.items import check_k
from mufin_jax.prediction.pictures import ReadPicture
from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.asking import Asker, Question
from mufin_jax.serving.bodies import ItemBody
from mufin_jax.serving.config import ServeConfig
from mufin_jax.serving.engine import Busy, Engine, Expired, Job, Unavailable
from mufin_jax.serving.metrics import Metrics
from mufin_jax.serving.pictures import PictureReader, no_fetch
from mufin_jax.serving.probes import Health
from mufin_jax.serving.urls import PictureUrls

if TYPE_CHECKING:
    from mufin_jax.prediction.predictor import Predictor

MOST = 256
"""Items of a batch, at most: the largest size that is compiled."""
HANGS = 60.0
"""Seconds without a beat after which the model's thread counts as hung."""
PICTURE_BYTES = 10_000_000


class Gone(Exception):
    """The client has left."""


class Service:
    """A model and the state of its server.

    Args:
        config: limits.
        name: of the model, for answers.
        token: that changes of labels require; "" allows none.

    Attributes:
        metrics: what is measured.
        draining: whether the server is about to end.
        failed: why loading failed; "" if it did not.
    """

    def __init__(self, config: ServeConfig, name: str, token: str = ""):
        self.config, self.name, self._token = config, name, token.encode()
        self.metrics = Metrics()
        self.draining, self.failed, self.digest = False, "", ""
        self._asker: Asker | None = None
        self._engine: Engine | None = None
        self._reader: PictureReader | None = None
        self._decoding = 0
        self._changing = asyncio.Lock()

    def open(self, predictor: "Predictor", digest: str) -> None:
        """Answer by a predictor that is warm, from now on."""
        config, hosts = self.config, PictureUrls(self.config.image_hosts)
        self.digest = digest
        self._reader = PictureReader(
            predictor.dataset,
            config.decoders,
            min(config.body, PICTURE_BYTES),
            hosts.fetch if config.image_hosts else no_fetch,
            self.metrics.decoded.observe,
            config.pixels,
        )
        self._asker = Asker(predictor)
        engine = Engine(MOST, config.queue, observe=self.metrics.observe_batch)
        engine.start()
        self._engine = engine
        self.metrics.queue.set_function(lambda: engine.waiting)
        self.show()

    def close(self, seconds: float) -> bool:
        """Finish what waits; return whether that took no longer than so many seconds."""
        self.draining = True
        if self._reader is not None:
            self._reader.close()
        return self._engine is None or self._engine.close(seconds)

    @property
    def predictor(self) -> "Predictor":
        """The predictor that answers.

        Raises:
            Unavailable: while it is loaded.
        """
        if self._asker is None:
            raise Unavailable(self.failed or "the model is being loaded")
        return self._asker.predictor

    @property
    def waiting(self) -> int:
        """How many items wait, those whose pictures are read included."""
        return self._decoding + (self._engine.waiting if self._engine else 0)

    def live(self) -> Health:
        """Return whether the process is worth keeping: a full queue changes nothing."""
        engine = self._engine
        if self.failed:
            return False, self.failed
        if engine is None:
            return True, "the model is being loaded"
        if not engine.alive and not self.draining:
            return False, "the model's thread has died"
        silent = time.monotonic() - engine.beat
        return (silent < HANGS), f"the model's thread was heard of {silent:.1f} s ago"

    def ready(self) -> Health:
        """Return whether requests may be sent."""
        if self.draining:
            return False, "the server is about to end"
        if self._engine is None:
            return False, self.failed or "the model is being loaded"
        return self.live()

    def may_change(self, given: str) -> bool | None:
        """Return whether a token allows changes of labels; None if nothing does."""
        return hmac.compare_digest(given.encode(), self._token) if self._token else None

    async def predict(self, question: Question, until: float, left: Callable[[], Awaitable[Any]]):
        """Return the answer to a question of labels; see `_ask`."""
        return await self._ask("predict", question, until, left)

    async def encode(self, question: Question, until: float, left: Callable[[], Awaitable[Any]]):
        """Return the vectors of a question's items; see `_ask`."""
        return await self._ask("encode", question, until, left)

    def check(self, items: Sequence[ItemBody], sources: Sequence[Sequence[Any]], k: int) -> None:
        """Reject a request that is larger than the limits.

        Raises:
            InputError: with the limit.
        """
        most = self.config
        if len(items) > most.items:
            raise InputError(f"{len(items)} items; expected at most {most.items} a request")
        for row, own in enumerate(sources):
            if len(own) > most.pictures:
                raise InputError(
                    f"item {row}: {len(own)} pictures; expected at most {most.pictures}"
                )
        check_k(k, min(most.k, self.predictor.config.shortlist))

    async def pictures(
        self, sources: Sequence[Sequence[str | bytes]], until: float
    ) -> list[list[ReadPicture]]:
        """Return the pictures of items, decoded by other threads.

        Raises:
            Busy: if too much waits already: nothing is decoded for a request that is turned away.
            Expired: if the deadline, on the monotonic clock, passes.
            InputError: if one cannot be read.
        """
        _, items = self.predictor, len(sources)
        if self._reader is None or self.waiting + items > self.config.queue:
            raise Busy(1)
        self._decoding += items
        try:
            left = until - time.monotonic()
            return await asyncio.wait_for(self._reader.read(sources), left)
        except TimeoutError:
            raise Expired("the deadline passed while pictures were read") from None
        finally:
            self._decoding -= items

    async def change(self, change: Callable[[], object]) -> None:
        """Change the labels in another thread, one change after the other; queries go on.

        Raises:
            MufinError: if the change is not possible; then nothing is changed.
        """
        async with self._changing:
            await asyncio.to_thread(change)
            self.show()

    async def refresh(self) -> None:
        """Move to the current version of the catalogue, if another process wrote one."""
        await self.change(self.predictor.refresh)

    def show(self) -> None:
        """Bring the metrics up to the labels of now."""
        catalogue = self.predictor.catalogue
        trained, removed = len(catalogue.base.ids), len(catalogue.changes.removed)
        self.metrics.show_labels(trained, len(catalogue.added), removed)
        self.metrics.show_model(catalogue.version, self.digest)

    async def _ask(
        self, what: str, question: Question, until: float, left: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Return the answer of the model's thread.

        Args:
            what: the method of `Asker`.
            question: what is asked.
            until: the deadline, on the monotonic clock.
            left: returns once the client has left.

        Raises:
            Unavailable: if the server takes no question now.
            Expired: if the deadline passes.
            Gone: if the client leaves.
        """
        if self._asker is None or self._engine is None:
            raise Unavailable(self.failed or "the model is being loaded")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(answer: Any) -> None:
            if future.done():
                return
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        def deliver(answer: Any) -> None:
            loop.call_soon_threadsafe(settle, answer)

        self._engine.submit(
            Job(
                getattr(self._asker, what), question.key, len(question.items), question, until,
                deliver, future.cancelled,
            )
        )  # fmt: skip
        leaving = asyncio.ensure_future(left())
        try:
            await asyncio.wait(
                {future, leaving},
                timeout=max(0.0, until - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if future.done():
                return future.result()
            raise Gone if leaving.done() else Expired("the deadline passed before the answer")
        finally:
            future.cancel()
            leaving.cancel()
