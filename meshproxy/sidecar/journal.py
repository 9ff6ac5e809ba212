"""The application's log: one JSON object a line on standard error, in the field names of OpenTelemetry's log model.

Traffic is not logged here: the access log has its own way, which costs a twentieth.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime


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
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def open_journal(level: int, **fields: object) -> None:
    """Send everything that is logged in this process to standard error; `fields` are in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(fields))
    logging.basicConfig(level=level, handlers=[handler], force=True)
