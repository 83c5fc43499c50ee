"""One JSON object a line on stderr: what a collector can parse and a person can grep. Never a pixel, never a key."""

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


def configure() -> None:
    """Lets our own logger speak JSON; the libraries' stay as BentoML set them up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
