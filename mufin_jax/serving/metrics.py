"""What a server measures, in the form of Prometheus, in a registry of its own."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from mufin_jax.serving.engine import Batch

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters, gauges and histograms of one server.

    Attributes:
        requests: by route and status code.
        durations: of requests, by route.
        queued: seconds that a request waited for the model.
        decoded: seconds that a picture took.
        inference: seconds of a batch; its part is the whole model.
        batch: items of a batch.
        queue: items that wait.
        rejected: requests that were turned away, by reason.
        compilations: programs compiled since the server is ready; expected to stay 0.
        labels: by state: trained, added, removed.
        model: 1, with the version of the catalogue and the digest of the model.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mufin_requests", "Requests", ["route", "code"], registry=self.registry
        )
        self.durations = self._seconds("request", "Seconds of a request", "route")
        self.queued = self._seconds("queue", "Seconds that a request waits for the model")
        self.decoded = self._seconds("decode", "Seconds of a picture")
        self.inference = self._seconds("inference", "Seconds of a batch", "part")
        self.batch = Histogram(
            "mufin_batch_items", "Items of a batch", registry=self.registry, buckets=_ITEMS
        )
        self.queue = Gauge("mufin_queue_items", "Items that wait", registry=self.registry)
        self.rejected = Counter(
            "mufin_rejected", "Requests that were turned away", ["reason"], registry=self.registry
        )
        self.compilations = Counter(
            "mufin_compilations", "Programs compiled while ready", registry=self.registry
        )
        self.labels = Gauge("mufin_labels", "Labels", ["state"], registry=self.registry)
        self.model = Gauge(
            "mufin_model_info", "The model", ["version", "digest"], registry=self.registry
        )

    def show_model(self, version: int, digest: str) -> None:
        """Show the version and the digest that answer now, instead of those before."""
        self.model.clear()
        self.model.labels(str(version), digest).set(1)

    def show_labels(self, trained: int, added: int, removed: int) -> None:
        """Show how many labels there are."""
        for state, count in (("trained", trained), ("added", added), ("removed", removed)):
            self.labels.labels(state).set(count)

    def observe_batch(self, batch: "Batch", part: str = "model") -> None:
        """Note a batch of the engine."""
        self.batch.observe(batch.items)
        self.inference.labels(part).observe(batch.seconds)
        for seconds in batch.waited:
            self.queued.observe(seconds)

    def text(self) -> bytes:
        """Return all of it in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _seconds(self, what: str, about: str, *labels: str) -> Histogram:
        name = f"mufin_{what}_duration_seconds"
        return Histogram(name, about, labels, registry=self.registry, buckets=_SECONDS)
