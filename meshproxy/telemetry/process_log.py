"""The process log: one JSON object a line on standard error, with the field names of OpenTelemetry's log data model.

Requests are not logged here: the access log has its own path, at a sixth of the cost. Neither blocks on its
reader: a sidecar whose log is not read keeps serving.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from meshproxy.telemetry.line_writer import own_descriptor
from meshproxy.telemetry.timestamps import timestamp

logger = logging.getLogger(__name__)

LINE_CHARACTERS = 3_500
"""Of a traceback: a line with one stays below PIPE_BUF, 4,096 bytes, which a pipe takes as a whole or not at all."""
REST_SECONDS = 0.02
"""For the rest of a long line, such as the problems of documents, of which a pipe has taken the beginning: who reads
takes it in a fraction of that."""
CLOSE_SECONDS = 1.0
"""For that at the end of the process."""


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
    """Writes records as far as that does not block; otherwise drops them, and logs how many with the next record. The
    rest of a line that was written in part comes before the next one."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.dropped = 0
        self._rest = b""
        self._descriptor: int | None = None
        try:
            self._descriptor, may_block = own_descriptor(stream.fileno())
        except (OSError, ValueError):
            return  # a stream in memory never blocks
        self._most = select.PIPE_BUF if may_block else None
        """Bytes that are taken without blocking by what is ready."""
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or drop and count it."""
        if self._descriptor is None:
            super().emit(record)
            return
        self._rest = self._write(self._descriptor, self._rest)
        if self._rest:
            self.dropped += 1
            return
        if self.dropped:
            record.__dict__["fields"] = {**getattr(record, "fields", {}), "dropped_before": self.dropped}
        try:
            line = (self.format(record) + self.terminator).encode("ascii")
        except Exception:
            self.handleError(record)
            return
        rest = self._write(self._descriptor, line)
        if rest == line:
            self.dropped += 1
        else:
            self._rest, self.dropped = rest, 0

    def _write(self, descriptor: int, text: bytes, patience: float = 0.0) -> bytes:
        """Write what is taken at once, or within `patience`, and then the rest within `REST_SECONDS`. Returns what is
        left, which is all of it if the reader is gone."""
        due = time.monotonic() + patience
        try:
            while text and self._poll.poll(max(0.0, due - time.monotonic()) * 1e3):
                text = text[os.write(descriptor, text[: self._most]) :]
                due = max(due, time.monotonic() + REST_SECONDS)
        except OSError:
            pass
        return text

    def close(self) -> None:
        """At the end of the process: what is left of a line, and then nothing."""
        if self._descriptor is not None:
            self._write(self._descriptor, self._rest, CLOSE_SECONDS)
            os.close(self._descriptor)
            self._descriptor, self._rest = None, b""
        super().close()


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
