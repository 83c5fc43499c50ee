"""What a running service consists of, shared by everything that answers requests."""

import hmac

from ..api.schemas import Problem
from ..errors import Refused
from ..monitoring.logs import Tally
from ..monitoring.metrics import Metrics
from ..scheduling.predictor import Pipeline
from ..settings import Settings
from .request_body import Uploads


class Serving:
    """Who answers, under which settings, and whether at all.

    Attributes:
        pipeline: None until the package is loaded.
        draining: whether the service has been told to stop.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.pipeline: Pipeline | None = None
        self.draining = False
        self._turned_away = Tally("turned away")
        self.use(Settings())

    def use(self, settings: Settings) -> None:
        """Sets the limits; before the first request."""
        self.settings = settings
        self.uploads = Uploads(settings.max_upload_bytes)

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.pipeline is not None and self.pipeline.road.healthy and not self.draining

    def loaded(self) -> Pipeline:
        """The pipeline. Raises Refused while there is none."""
        if self.pipeline is None:
            raise Refused("not_ready", "The package is still being loaded.")
        return self.pipeline

    def turn_away(self, path: str, told: Problem, seconds: float) -> None:
        """Counts a request that was refused before anything of it was read."""
        self.metrics.requests.labels(path, told.status, told.code).inc()
        self.metrics.request_seconds.labels(path).observe(seconds)
        if self.settings.log_requests:
            self._turned_away.count()

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header holds the key, if one is set; in a time that does not depend on where it differs."""
        if (key := self.settings.key) is None:
            return True
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())
