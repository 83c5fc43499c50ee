"""JSON logging on stderr, one object per line. Pixels and keys must never be logged."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime

logger = logging.getLogger("graft")


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON, with the entries of its `fields` attribute."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class RateLimitedLog:
    """Logs a frequent event at most once per second, with its count."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._n = 0

    def count(self) -> None:
        """Counts one event. Call it in the event loop."""
        self._n += 1
        if self._n == 1:
            asyncio.get_running_loop().call_later(1.0, self._flush)

    def _flush(self) -> None:
        logger.warning(self._event, extra={"fields": {"times": self._n}})
        self._n = 0


def configure() -> None:
    """Sets up Graft's logger. The loggers of libraries stay as BentoML configured them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
