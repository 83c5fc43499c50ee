"""JSON logging on stderr, one object per line. Pixels and keys must never be logged.

No thread that logs ever waits: lines are written by a thread of their own. If what reads the log stalls, a pipe is full after
64 KB, and an event loop that wrote into it would answer nothing more, not even a signal.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime

logger = logging.getLogger("graft")

MAX_LINES = 10_000  # that wait to be written; further ones are dropped, and counted
MAX_LINE_LENGTH = 2**16  # characters
GATHER_S = 0.05  # lines of this time are written at once: waking a thread for each would cost more than the line
FLUSH_S = 1.0  # to write the last lines before the process ends


class LineWriter:
    """Writes lines to a file descriptor in a thread.

    Attributes:
        n_dropped: how many lines were dropped and not reported yet.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._filled, self._emptied = threading.Event(), threading.Event()
        self._emptied.set()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.n_dropped = 0

    def write(self, line: str) -> None:
        """Adds a line, without waiting for it to be written."""
        if len(self._lines) >= MAX_LINES:
            self.n_dropped += 1
            return
        self._lines.append(line[:MAX_LINE_LENGTH])
        if not self._filled.is_set():
            self._emptied.clear()
            self._filled.set()
            self._start()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Waits until all lines are written, or until the timeout."""
        self._emptied.wait(timeout_s)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._filled.wait()
            time.sleep(GATHER_S)
            self._filled.clear()
            while self._lines:
                self._write_all("".join(f"{self._lines.popleft()}\n" for _ in range(len(self._lines))))
                if n_dropped := self.n_dropped:
                    self.n_dropped -= n_dropped
                    self._write_all(f"{_to_json('warning', 'log lines dropped', {'times': n_dropped})}\n")
            if not self._filled.is_set():
                self._emptied.set()

    def _write_all(self, text: str) -> None:
        content = text.encode(errors="backslashreplace")
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError:
            pass  # the reader is gone, or the disk is full: there is nowhere to say so


stdout, stderr = LineWriter(1), LineWriter(2)


class LineHandler(logging.Handler):
    """Hands formatted records to a `LineWriter`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001 - as all handlers of the standard library do
            self.handleError(record)

    def flush(self) -> None:
        self._writer.flush()


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON, with the entries of its `fields` attribute."""

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _to_json(record.levelname.lower(), record.getMessage(), fields, record.created)


def _to_json(level: str, event: str, fields: dict[str, object], created: float | None = None) -> str:
    moment = datetime.fromtimestamp(time.time() if created is None else created, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": moment, "level": level, "event": event, **fields}, ensure_ascii=False)


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
    """Sets up Graft's logger. The loggers of libraries keep BentoML's format, but do not wait either."""
    handler = LineHandler(stderr)
    handler.setFormatter(JsonFormatter())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    never_wait()


def never_wait() -> None:
    """Replaces all handlers that write to stdout and stderr by handlers that do not wait."""
    named = (found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger))
    for found in [logging.root, *named]:
        found.handlers = [_without_waiting(handler) for handler in found.handlers]


def _without_waiting(handler: logging.Handler) -> logging.Handler:
    writers = {sys.stdout: stdout, sys.stderr: stderr}
    if not isinstance(handler, logging.StreamHandler) or handler.stream not in writers:
        return handler
    replacement = LineHandler(writers[handler.stream])
    replacement.setFormatter(handler.formatter)
    replacement.setLevel(handler.level)
    replacement.filters = list(handler.filters)
    return replacement
