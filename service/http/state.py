"""The state of a running service, shared by all request handlers. No HTTP parsing, no routes."""

import hmac

from ..api.schemas import Problem
from ..errors import Refused
from ..monitoring.logs import Tally
from ..monitoring.metrics import Metrics
from ..scheduling.predictor import Pipeline
from ..settings import Settings
from .request_body import Uploads


class Serving:
    """Settings, metrics, upload budget, and the predictor.

    Attributes:
        pipeline: None until the package is loaded.
        draining: whether the service is shutting down.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.pipeline: Pipeline | None = None
        self.draining = False
        self._turned_away = Tally("requests rejected")
        self.use(Settings())

    def use(self, settings: Settings) -> None:
        """Applies settings. Call it before the first request."""
        self.settings = settings
        self.uploads = Uploads(settings.max_upload_bytes)

    @property
    def ready(self) -> bool:
        """Whether the service accepts new requests."""
        return self.pipeline is not None and self.pipeline.road.healthy and not self.draining

    def loaded(self) -> Pipeline:
        """The predictor. Raises ProblemError while the package is loading."""
        if self.pipeline is None:
            raise Refused("not_ready", "The package is still loading.")
        return self.pipeline

    def turn_away(self, path: str, told: Problem, seconds: float) -> None:
        """Counts and logs a request that was rejected before its body was read."""
        self.metrics.requests.labels(path, told.status, told.code).inc()
        self.metrics.request_seconds.labels(path).observe(seconds)
        if self.settings.log_requests:
            self._turned_away.count()

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header has the API key, if one is set. Compares in constant time."""
        if (key := self.settings.key) is None:
            return True
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), key.encode())
