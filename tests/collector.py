"""A small OTLP/HTTP collector, which keeps what it gets and answers as it is told."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TAKEN = b"\x0a\x00"
"""What the OpenTelemetry Collector 0.165.0 answers: an empty `partial_success`."""


class Collector:
    """Attributes:
    answers: status, fields and body of the next responses; after them 200.
    requests: what was taken, with the fields of each request.
    is_silent: it answers nothing.
    """

    def __init__(self) -> None:
        self.answers: deque[tuple[int, Mapping[str, str], bytes]] = deque()
        self.requests: list[tuple[Mapping[str, str], ExportTraceServiceRequest]] = []
        self.tries = 0
        self.is_silent = False
        self.url = ""
        self._changed = asyncio.Condition()

    @property
    def spans(self) -> list[Span]:
        """All that was taken."""
        return [
            span
            for _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds: looked at when a request has come and when it is answered. Raises
        TimeoutError."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        body = await request.read()
        self.tries += 1
        async with self._changed:
            self._changed.notify_all()
        try:
            if self.is_silent:
                await asyncio.Event().wait()
            if request.path != "/v1/traces" or request.method != "POST":
                return web.Response(status=404)
            if request.content_type != "application/x-protobuf":
                return web.Response(status=415)
            status, headers, answer = self.answers.popleft() if self.answers else (200, {}, TAKEN)
            if status == 200:
                if request.headers.get("content-encoding") == "gzip" and body[:1] == b"\x1f":
                    body = gzip.decompress(body)
                self.requests.append((dict(request.headers), ExportTraceServiceRequest.FromString(body)))
            return web.Response(status=status, headers=headers, body=answer, content_type="application/x-protobuf")
        finally:
            async with self._changed:
                self._changed.notify_all()


@asynccontextmanager
async def collecting(tls: ssl.SSLContext | None = None) -> AsyncIterator[Collector]:
    """A collector on a port of the loopback interface."""
    collector = Collector()
    runner = web.ServerRunner(web.Server(collector.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        collector.url = f"http://{host}:{port}" if tls is None else f"https://localhost:{port}"
        yield collector
    finally:
        await runner.cleanup()
