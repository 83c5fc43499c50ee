"""The state of a running service, shared by all request handlers. No HTTP parsing, no routes."""

from ..api.schemas import Problem
from ..errors import ProblemError
from ..monitoring.logs import RateLimitedLog
from ..monitoring.metrics import Metrics
from ..scheduling.predictor import Predictor
from ..settings import Settings
from .api_keys import ApiKeys
from .connection_table import ConnectionTable
from .request_body import UploadBudget


class AppState:
    """Settings, metrics, upload budget, and the predictor.

    Attributes:
        predictor: None until the package is loaded.
        draining: whether the service is shutting down.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.predictor: Predictor | None = None
        self.draining = False
        self._rejection_log = RateLimitedLog("requests rejected")
        self.configure(Settings())

    def configure(self, settings: Settings) -> None:
        """Applies settings. Call it before the first request."""
        self.settings = settings
        self.api_keys = ApiKeys(settings.api_key.get_secret_value() if settings.api_key else None, settings.api_key_file)
        self.metrics_keys = ApiKeys(None, settings.metrics_key_file)
        self.upload_budget = UploadBudget(settings.max_upload_bytes)
        self.connections = ConnectionTable(settings.max_connections, settings.max_unsent_bytes, settings.write_deadline_s)

    @property
    def ready(self) -> bool:
        """Whether the service accepts new requests."""
        return self.predictor is not None and self.predictor.queue.healthy and not self.draining

    def require_predictor(self) -> Predictor:
        """The predictor. Raises ProblemError while the package is loading."""
        if self.predictor is None:
            raise ProblemError("not_ready", "The package is still loading.")
        return self.predictor

    def reject(self, path: str, problem: Problem, seconds: float) -> None:
        """Counts and logs a request that was rejected before its body was read."""
        self.metrics.requests.labels(path, problem.status, problem.code).inc()
        self.metrics.request_seconds.labels(path).observe(seconds)
        if self.settings.log_requests:
            self._rejection_log.count()

    def route_path(self, path: str) -> str:
        """The path of a request without the prefix that a proxy left on it, if any."""
        root = self.settings.root_path
        return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
