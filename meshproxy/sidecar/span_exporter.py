"""Sends spans to a collector over OTLP/HTTP, beside the traffic: encoded in slices, in batches, from a bounded queue.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. Nothing waits for it: what the queue cannot hold and what the
collector does not take is counted and dropped. Redirects are failures, since they would be answered elsewhere.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy import __version__
from meshproxy.codec.events import RequestHead
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.named_context import load_own
from meshproxy.sidecar.http_get import Url, trusting
from meshproxy.telemetry.otlp import encode_attributes, encode_request, encode_scope, encode_span, read_response
from meshproxy.telemetry.otlp_http import RETRIED, advice, read_retry_after, request_fields
from meshproxy.telemetry.spans import spans_of
from meshproxy.transport.channel import H1Channel, Target
from meshproxy.transport.client import ClientError, exchange
from meshproxy.transport.connect_failures import COLLECTOR, NoCredentials
from meshproxy.transport.connector import named_server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from meshproxy.codec.events import Headers
    from meshproxy.telemetry.metrics import Counter
    from meshproxy.telemetry.otlp_settings import ExportSettings
    from meshproxy.telemetry.span_record import SpanRecord
    from meshproxy.transport.client import Response
    from meshproxy.transport.connection import ConnectionContext

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
SLICE = 16
"""Exchanges that are encoded in one turn of the event loop: about half a millisecond."""
BATCH_BYTES = 2 << 20
"""Of a body before it is compressed. Collectors take 20 MiB, and some gateways before them 4."""
RESPONSE_BYTES = 65_536
CLOSE_SECONDS = 2.0
"""For what is left when the process ends, or another exporter has taken over."""
SECONDS_BETWEEN_MESSAGES = 60.0

logger = logging.getLogger(__name__)


class ExportFailed(Exception):
    """A batch was not taken. The message says why."""


class SpanExporter:
    """Takes records, and exports them while `run` runs.

    Args:
        settings: where to, and how much.
        shared: what connections share.
        exported: counts spans that the collector took.
        dropped: counts those that were lost, by reason.
        offset: seconds since the epoch minus monotonic ones.
        new_id: ids of spans.
        draw: a random number from 0 up to 1, for the back-off.

    Raises:
        FetchError: the address, or the file of authorities, cannot be used.
    """

    def __init__(
        self,
        settings: ExportSettings,
        shared: ConnectionContext,
        *,
        exported: Counter,
        dropped: Counter,
        offset: Callable[[], float],
        new_id: Callable[[], bytes],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._exported = exported.labels()
        self._dropped = dropped
        self._offset = offset
        self._new_id = new_id
        self._draw = draw
        self._queue: deque[SpanRecord] = deque()
        self._full = asyncio.Event()
        """There is a batch."""
        self._batch: asyncio.Task[None] | None = None
        """What is on its way."""
        self._is_closed = False
        self._logged = -SECONDS_BETWEEN_MESSAGES
        url = Url.read_any(settings.url)
        security = None
        if url.is_tls:
            security = named_server(_context_of(settings), hints=COLLECTOR)
        self._channel = H1Channel(shared, Target(url.address, security))
        self._url = settings.url
        self._head = RequestHead(
            0, b"POST", url.authority.encode(), url.target.encode(), request_fields(settings), end=False
        )
        self._resource = encode_attributes(1, settings.resource)
        self._scope = encode_scope("meshproxy", __version__)

    def take(self, record: SpanRecord) -> None:
        """Queue a record (`span_record.SpanRecorder`)."""
        queue = self._queue
        if self._is_closed:
            self._drop("shutdown", record.spans)
            return
        if len(queue) >= self._settings.max_queue:
            self._drop("queue-full", record.spans)
            return
        queue.append(record)
        record.trace.is_exported = True
        if len(queue) >= self._settings.max_batch:
            self._full.set()

    def limited(self, record: SpanRecord) -> None:
        """Count one that was kept by nobody (`span_record.KEPT_EACH_SECOND`)."""
        self._drop("keep-limit", record.spans)

    async def run(self) -> None:
        """Export a batch whenever there is one, and what there is after each delay. Ends when it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._settings.delay):
                    await self._full.wait()
            except TimeoutError:
                pass
            due = time.monotonic() + self._settings.timeout
            batch = self._batch = asyncio.ensure_future(self._export_batch(due))
            await asyncio.shield(batch)

    async def close(self) -> None:
        """Export what is on its way and what is left, for a moment, after `run` has ended. What comes later is counted
        and dropped."""
        self._is_closed = True
        due = time.monotonic() + CLOSE_SECONDS
        if self._batch is not None and not self._batch.done():
            await asyncio.wait((self._batch,), timeout=CLOSE_SECONDS)
            self._batch.cancel()
            await asyncio.gather(self._batch, return_exceptions=True)
        while self._queue and time.monotonic() < due:
            await self._export_batch(due)
        for record in self._queue:
            self._drop("shutdown", record.spans)
        self._queue.clear()
        await self._channel.close()

    async def _export_batch(self, due: float) -> None:
        """Take one batch from the queue and send it until `due`."""
        spans: list[bytes] = []
        size = taken = 0
        while self._queue and taken < self._settings.max_batch and size < BATCH_BYTES:
            record = self._queue.popleft()
            try:
                encoded = [encode_span(span) for span in spans_of(record, self._offset(), self._new_id)]
            except Exception:
                logger.exception("internal error: the spans of a request could not be encoded")
                self._drop("internal", record.spans)
                continue
            spans += encoded
            size += sum(map(len, encoded))
            taken += 1
            if taken % SLICE == 0:
                await asyncio.sleep(0)
        if len(self._queue) < self._settings.max_batch:
            self._full.clear()
        if not spans:
            return
        body = encode_request(self._resource, self._scope, spans)
        if self._settings.is_compressed:
            body = await asyncio.to_thread(gzip.compress, body, 1, mtime=0)
        try:
            rejected = await self._send(body, due)
        except asyncio.CancelledError:
            self._drop("shutdown", len(spans))
            raise
        except ExportFailed as failed:
            self._drop("failed", len(spans))
            self._report(f"spans were not exported: {failed}")
            return
        except Exception:  # a task that ends with one ends the sidecar
            self._drop("internal", len(spans))
            logger.exception("internal error: spans were not exported")
            return
        rejected = min(rejected, len(spans))
        self._exported.value += len(spans) - rejected
        if rejected:
            self._drop("rejected", rejected)

    async def _send(self, body: bytes, due: float) -> int:
        """Send one body, again where that makes sense, until `due`. Returns how many spans the collector rejected.

        Raises:
            ExportFailed: nobody has taken it.
        """
        head = replace(self._head, length=len(body))  # some gateways before a collector take no chunks
        tries = 0
        while True:
            wait: float | None = None
            left = due - time.monotonic()
            try:
                response = await exchange(
                    self._channel, head, body, timeout=max(left, 0.001), max_body_bytes=RESPONSE_BYTES
                )
            except ClientError as error:
                problem = str(error)
            else:
                if response.status == 200:
                    return self._read(response)
                problem = f"the response has status {response.status}"
                if response.status not in RETRIED:
                    raise ExportFailed(problem + advice(response.status, "OTEL_EXPORTER_OTLP_HEADERS"))
                wait = retry_after(response.headers, time.monotonic() + self._offset())
            # A collector that asks for no wait at all is not asked again and again.
            wait = max(wait, FIRST_WAIT) if wait is not None else backoff(tries, self._draw)
            tries += 1
            if time.monotonic() + wait >= due:
                raise ExportFailed(f"{problem}, and {tries} tries were all that the time limit allows")
            await asyncio.sleep(wait)

    def _read(self, response: Response) -> int:
        """How many spans a response rejects. Raises ExportFailed."""
        try:
            partial = read_response(response.body)
        except ValueError:
            raise ExportFailed("the response is not one of OTLP: see that the URL is a collector's") from None
        if partial.rejected > 0 or partial.message:
            self._report(f"the collector rejected {partial.rejected} spans: {partial.message[:200]}")
        return max(0, partial.rejected)

    def _drop(self, reason: str, spans: int) -> None:
        self._dropped.labels(reason).value += spans

    def _report(self, problem: str) -> None:
        now = time.monotonic()
        if now - self._logged >= SECONDS_BETWEEN_MESSAGES:
            self._logged = now
            logger.warning("spans lost", extra={"fields": {"collector": self._url, "problem": problem}})


def _context_of(settings: ExportSettings) -> Callable[[], ssl.SSLContext]:
    """The context for each connection: a certificate of ours is read again for it, since it may live for hours. Raises
    FetchError."""
    own = settings.own
    # One that has our certificate is for nobody else.
    context = trusting(Path(settings.certificate) if settings.certificate is not None else None, is_own=own is not None)
    if own is None:
        return lambda: context

    def current() -> ssl.SSLContext:
        try:
            load_own(context, *own)
        except CertificateError as error:
            raise NoCredentials(error.message) from None
        return context

    return current


def backoff(tries: int, draw: Callable[[], float]) -> float:
    """Seconds before the next try after `tries` others: doubled each time, a fifth more or less by chance."""
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries, 10))
    return wait * (0.8 + 0.4 * draw())


def retry_after(headers: Headers, now: float) -> float | None:
    """The seconds that an answer asks to wait (`read_retry_after`); None: it does not say, or says it twice. `now`:
    seconds since the epoch."""
    values = [value for name, value in headers if name == b"retry-after"]
    return read_retry_after(values[0].decode("latin-1"), now) if len(values) == 1 else None
