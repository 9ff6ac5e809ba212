"""The process log: one JSON object a line on standard error, with the field names of OpenTelemetry's log data model.

Requests are not logged here: the access log has its own path, at a sixth of the cost. Neither blocks on its
reader: a sidecar whose log is not read keeps serving.
"""

from __future__ import annotations

import json
import logging
import select
import sys
from collections.abc import Mapping
from typing import TextIO

from meshproxy.telemetry.timestamps import timestamp

logger = logging.getLogger(__name__)

LINE_CHARACTERS = 3_500
"""Of a traceback; a line stays below PIPE_BUF, 4,096 bytes, which a pipe that is ready accepts without blocking."""


class JsonFormatter(logging.Formatter):
    """`timestamp`, `severity_text`, `logger`, `event`, and the fields of `extra={"fields": {...}}`."""

    def __init__(self, fields: Mapping[str, object] | None = None) -> None:
        """`fields` are added to every line."""
        super().__init__()
        self._fields = fields or {}

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "timestamp": timestamp(record.created),
            "severity_text": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update(self._fields)
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)[-LINE_CHARACTERS:]
        return json.dumps(entry, default=str)


class ProcessLog(logging.StreamHandler[TextIO]):
    """Writes records if that does not block; otherwise drops them, and logs how many with the next record."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.dropped = 0
        self._poll = select.poll()
        try:
            self._poll.register(stream.fileno(), select.POLLOUT)
            self._is_file = True
        except (OSError, ValueError):
            self._is_file = False  # a stream in memory never blocks

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or drop and count it."""
        if self._is_file and not self._poll.poll(0):
            self.dropped += 1
            return
        if self.dropped:
            record.__dict__["fields"] = {**getattr(record, "fields", {}), "dropped_before": self.dropped}
            self.dropped = 0
        super().emit(record)


def open_process_log(level: int, **fields: object) -> None:
    """Send everything that is logged in this process to standard error; `fields` are in every line. So are errors that
    nothing can catch, which Python would write there itself, waiting for a reader if need be."""
    handler = ProcessLog(sys.stderr)
    handler.setFormatter(JsonFormatter(fields))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.unraisablehook = _log_unraisable


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value
    # A TLS server name that is not ASCII (`transport.server_name`). Clients could fill the log with it.
    is_of_client = isinstance(error, UnicodeDecodeError) and isinstance(unraisable.object, bytes)
    logger.log(
        logging.DEBUG if is_of_client else logging.ERROR,
        "unraisable exception: %s in %.200r",
        unraisable.err_msg or "exception ignored",
        unraisable.object,
        exc_info=error,
    )
