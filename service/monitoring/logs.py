"""One JSON object a line on stderr: what a collector can parse and a person can grep. Never a pixel, never a key."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime

logger = logging.getLogger("graft")


class JsonFormatter(logging.Formatter):
    """A record as JSON, with whatever stands in its `fields`."""

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


class Tally:
    """An event that may come a thousand times a second: a line once a second says how often it did."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._n = 0

    def count(self) -> None:
        """Once more, in the event loop."""
        self._n += 1
        if self._n == 1:
            asyncio.get_running_loop().call_later(1.0, self._tell)

    def _tell(self) -> None:
        logger.warning(self._event, extra={"fields": {"times": self._n}})
        self._n = 0


def configure() -> None:
    """Lets our own logger speak JSON; the libraries' stay as BentoML set them up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
