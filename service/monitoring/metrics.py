"""What an operator watches, in Prometheus' words. Every label has few values, whatever is asked.

One process, one registry: BentoML's own metrics, which make a new series of every path that anybody tries, are off.
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

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64)
MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The service's counters.

    Attributes:
        requests: by route, status and code of the problem ("ok" if none).
        request_seconds: from the first header to the last byte of the answer, by route.
        stage_seconds: waiting included, by stage: read, decode, network or explain.
        batch_size: images of one call of the network.
        abstentions: by reason.
        outlier_score: cosine distances.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which no query here needs
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("graft_requests", "Requests answered", ["route", "status", "code"], registry=registry)
        self.request_seconds = Histogram(
            "graft_request_seconds", "Seconds from headers to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "graft_stage_seconds", "Seconds in one stage, waiting included", ["stage"], buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram("graft_batch_size", "Images of one call of the network", buckets=SIZES, registry=registry)
        self.images = Counter("graft_images", "Images answered", registry=registry)
        self.abstentions = Counter("graft_abstentions", "Answers that nobody should rely on", ["reason"], registry=registry)
        self.outlier_score = Histogram(
            "graft_outlier_score",
            "Cosine distance to the training images",
            registry=registry,
            buckets=[n / 20 for n in range(21)],
        )
        self._waiting = Gauge("graft_waiting", "Images in a queue", ["queue"], registry=registry)
        self._model = Gauge(
            "graft_model_info",
            "What is served",
            ["name", "version", "sha256", "backbone", "device", "precision"],
            registry=registry,
        )

    def watch(self, queue: str, depth: Callable[[], float]) -> None:
        """Tells the depth of a queue whenever somebody looks."""
        self._waiting.labels(queue).set_function(depth)

    def tell_model(self, **facts: str) -> None:
        self._model.labels(**facts).set(1)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
