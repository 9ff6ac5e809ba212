"""A collector of OpenTelemetry as the sink of the audit trail: logs over OTLP/HTTP (`otlp_logs`). Everything blocks: it
is called from the thread of `audit_writer`, whose queue is the only one.

A line is sent again until the collector has said that it took it, so that a line may be there twice, and never not at
all: `audit.collected` takes the second one away. What a collector refuses for good is a problem of the trail.
"""

from __future__ import annotations

import gzip
import http.client
import logging
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshproxy import __version__
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.named_context import load_own
from meshproxy.telemetry.otlp import encode_attributes, encode_request, encode_scope, read_response
from meshproxy.telemetry.otlp_http import RETRIED, advice, read_retry_after, request_fields
from meshproxy.telemetry.otlp_logs import SCOPE, encode_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.telemetry.otlp_settings import LogSettings

BATCH_BYTES = 1 << 20
"""Of lines in one request: a collector takes 20 MiB, and 4 MiB if another one is behind it over gRPC."""
RESPONSE_BYTES = 64 << 10
PAUSE_SECONDS = 0.5
"""After a try that may go well the next time."""
LONGEST_PAUSE = 30.0
"""That a collector may ask for."""

logger = logging.getLogger(__name__)


class AuditCollector:
    """The sink (`audit_sink.AuditSink`).

    Args:
        settings: where to, and how.
        pause: waits so many seconds.

    Attributes:
        lost: lines that the collector has rejected.

    Raises:
        OSError: the authorities cannot be loaded.
    """

    is_unsettled = False

    def __init__(self, settings: LogSettings, pause: Callable[[float], object] = time.sleep) -> None:
        self._settings = settings
        self._pause = pause
        self.lost = 0
        self._resource = encode_attributes(1, settings.resource)
        self._scope = encode_scope(SCOPE, __version__)
        url = urlsplit(settings.url)
        self._path = url.path
        self._address = url.hostname or "", url.port
        self._context = None
        if url.scheme == "https":
            try:
                self._context = ssl.create_default_context(cafile=settings.certificate)
            except OSError as error:  # also ssl.SSLError
                raise OSError(f"the authorities in {settings.certificate} cannot be loaded: {error}") from None
        self._headers = {name.decode(): value.decode() for name, value in request_fields(settings)}
        self._connection: http.client.HTTPConnection | None = None
        self._said = ""

    def write(self, lines: bytes) -> int:
        """As `AuditSink.write`. It takes whole lines only."""
        taken = lines
        if len(lines) > BATCH_BYTES:
            taken = lines[: (lines.rfind(b"\n", 0, BATCH_BYTES) + 1) or (lines.index(b"\n") + 1)]
        whole = taken.splitlines()
        now = time.time_ns()
        body = encode_request(self._resource, self._scope, [encode_record(line, now) for line in whole])
        if self._settings.is_compressed:
            body = gzip.compress(body, 1, mtime=0)
        try:
            status, wait, answer = self._post(body)
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: of a name that cannot be one
            return self._later(str(error) or type(error).__name__)
        if status in RETRIED:
            return self._later(f"it answers {status}", wait)
        if status != 200:
            self._pause(PAUSE_SECONDS)
            raise OSError(f"the collector answers {status}{advice(status, 'OTEL_EXPORTER_OTLP_LOGS_HEADERS')}")
        try:
            rejected = read_response(answer)
        except ValueError:
            self._pause(PAUSE_SECONDS)
            raise OSError("the answer is not one of OTLP: see that the URL is a collector's") from None
        if rejected.rejected > 0:
            self.lost += min(rejected.rejected, len(whole))
            self._say(f"it rejected {rejected.rejected} lines: {rejected.message[:200]}")
        else:
            self._said = ""
        return len(taken)

    def _post(self, body: bytes) -> tuple[int, float, bytes]:
        """Status, seconds that it asks to wait, body. Raises OSError and HTTPException."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                return self._ask(connection, body)
            except ConnectionError:  # it was idle for too long
                connection.close()
        return self._ask(self._connect(), body)

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> tuple[int, float, bytes]:
        connection.request("POST", self._path, body, self._headers)
        response = connection.getresponse()
        answer = response.read(RESPONSE_BYTES + 1)
        if len(answer) > RESPONSE_BYTES:
            raise OSError("the answer is too long")
        if not response.will_close and response.isclosed():
            self._connection = connection
        else:
            connection.close()
        wait = read_retry_after(response.headers.get("retry-after", ""), time.time())
        return response.status, wait or 0.0, answer

    def _connect(self) -> http.client.HTTPConnection:
        """Raises OSError."""
        host, port = self._address
        if self._context is not None:
            if self._settings.own is not None:
                try:
                    load_own(self._context, *self._settings.own)  # again: it may live for hours
                except CertificateError as error:
                    raise OSError(error.message) from None
            return http.client.HTTPSConnection(host, port, timeout=self._settings.timeout, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=self._settings.timeout)

    def _later(self, problem: str, wait: float = 0.0) -> int:
        """Nothing was taken, and the next try may go well."""
        self._say(problem)
        self._pause(min(max(wait, PAUSE_SECONDS), LONGEST_PAUSE))
        return 0

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            fields = {"collector": self._settings.url, "problem": problem}
            logger.warning("the collector does not take the audit trail", extra={"fields": fields})

    def settle(self, last: int) -> None:
        """There is nothing to settle."""

    def reopen(self) -> None:
        """It has no name."""

    def close(self) -> None:
        """As `AuditSink.close`."""
        if self._connection is not None:
            self._connection.close()
