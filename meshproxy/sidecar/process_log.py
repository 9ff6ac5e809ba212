"""The application's log: one JSON object a line on standard error, in the field names of OpenTelemetry's log model.

Traffic is not logged here: the access log has its own way, which costs a sixth. Neither ever waits for its reader: a
sidecar whose log nobody takes serves on.
"""

from __future__ import annotations

import json
import logging
import select
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

LINE_CHARACTERS = 3_500
"""Of a trace; a whole line stays below PIPE_BUF, 4,096 bytes, which a pipe that is ready takes without waiting."""


class JsonFormatter(logging.Formatter):
    """`timestamp`, `severity_text`, `logger`, `event`, and whatever `extra={"fields": {...}}` adds."""

    def __init__(self, fields: Mapping[str, object] | None = None) -> None:
        """`fields` are in every line."""
        super().__init__()
        self._fields = fields or {}

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
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
    """Writes where it can be written without waiting; elsewhere drops, and says how many when it can again."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.dropped = 0
        self._poll = select.poll()
        try:
            self._poll.register(stream.fileno(), select.POLLOUT)
            self._is_file = True
        except (OSError, ValueError):
            self._is_file = False  # a stream in memory never waits

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or count it."""
        if self._is_file and not self._poll.poll(0):
            self.dropped += 1
            return
        if self.dropped:
            record.__dict__["fields"] = {**getattr(record, "fields", {}), "dropped_before": self.dropped}
            self.dropped = 0
        super().emit(record)


def open_process_log(level: int, **fields: object) -> None:
    """Send everything that is logged in this process to standard error; `fields` are in every line."""
    handler = ProcessLog(sys.stderr)
    handler.setFormatter(JsonFormatter(fields))
    logging.basicConfig(level=level, handlers=[handler], force=True)
