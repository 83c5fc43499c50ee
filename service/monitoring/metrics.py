"""Prometheus metrics. Each label has few values, whatever is requested.

Each process has one registry. BentoML's metrics are off: they create a new series for every path that is tried.
"""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from .merged_metrics import MetricsFolder

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The service's counters.

    Attributes:
        requests: by route, status, and the problem's code ("ok" if none).
        request_seconds: from the first header to the last byte of the response, by route.
        stage_seconds: queueing included, by stage: read, decode, network, or explain.
        batch_size: images per forward pass.
        abstentions: by reason.
        outlier_score: cosine distances.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would add a second series per metric, which no query here needs
        registry = self.registry = CollectorRegistry()
        self._folder: MetricsFolder | None = None
        ProcessCollector(registry=registry)
        self.requests = Counter("graft_requests", "Requests", ["route", "status", "code"], registry=registry)
        self.request_seconds = Histogram(
            "graft_request_seconds", "Seconds from headers to response", ["route"], buckets=LATENCY_BUCKETS_S, registry=registry
        )
        self.stage_seconds = Histogram(
            "graft_stage_seconds",
            "Seconds in one stage, queueing included",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch_size = Histogram(
            "graft_batch_size", "Images per forward pass", buckets=BATCH_SIZE_BUCKETS, registry=registry
        )
        self.images = Counter("graft_images", "Images classified", registry=registry)
        self.abstentions = Counter("graft_abstentions", "Predictions with abstain set", ["reason"], registry=registry)
        self.outlier_score = Histogram(
            "graft_outlier_score",
            "Cosine distance to the training images",
            registry=registry,
            buckets=[n / 20 for n in range(21)],
        )
        self._waiting = Gauge("graft_waiting", "Images in a queue", ["queue"], registry=registry)
        self._model = Gauge(
            "graft_model_info",
            "The served model",
            ["name", "version", "sha256", "backbone", "device", "precision"],
            registry=registry,
        )

    def track_queue(self, queue: str, depth: Callable[[], float]) -> None:
        """Exports the depth of a queue; `depth` is called at each scrape."""
        self._waiting.labels(queue).set_function(depth)

    def set_model_info(self, **labels: str) -> None:
        self._model.labels(**labels).set(1)

    def share(self, folder: MetricsFolder) -> None:
        """Adds the metrics of the other workers of this service to those of this one."""
        self._folder = folder

    def publish(self) -> None:
        """Shows the other workers the metrics of this one. Call it every second, at which their age does not matter."""
        if self._folder:
            self._folder.publish(generate_latest(self.registry))

    def to_text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        text = generate_latest(self.registry)
        return self._folder.merge(text) if self._folder else text
