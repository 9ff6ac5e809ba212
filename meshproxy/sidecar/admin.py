"""The admin port: health and metrics for everybody, switches for this host only.

    GET  /livez     200 while the event loop turns
    GET  /readyz    200 while new requests are welcome; with ?verbose what that hangs on
    GET  /metrics   Prometheus text, or OpenMetrics if asked for
    GET  /config    what runs: fingerprint, documents, identity (loopback only)
    POST /drain     what SIGTERM does (loopback only)

`/config` and `/drain` answer loopback peers (and those on a UNIX socket, which only our own user can open) that name a
loopback host: a page in a browser on this host can send them requests under the name of its own site (DNS rebinding),
and a server that fetches URLs can be made to (CVE-2024-40632).
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.telemetry.exposition import render, wants_openmetrics
from meshproxy.transport.connection import Times

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from meshproxy.codec.events import Headers, Rejected, RequestHead
    from meshproxy.telemetry.metrics import Registry
    from meshproxy.transport.facts import ConnectionFacts
    from meshproxy.transport.stream import Downstream

TEXT = ((b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"))
JSON = ((b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"))
METRICS = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
READ_ONLY = frozenset({b"/livez", b"/live", b"/readyz", b"/ready", b"/healthz/ready", b"/metrics", b"/config"})
LOOPBACK_HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
ANSWER_SECONDS = 30.0
"""How long a client may take to read an answer: the connections of this port are few, and the kubelet needs one."""
ADMIN_CONNECTIONS = 64
ADMIN_TIMES = Times(head=2.0, idle=5.0)
"""Short: whoever holds a connection to the admin port must not keep a probe waiting."""


class Operated(Protocol):
    """What the admin port asks of the process."""

    def readiness(self) -> dict[str, bool]:
        """What being ready hangs on."""

    def configuration(self) -> dict[str, object]:
        """What runs, without secrets."""

    def drain(self) -> None:
        """Begin to go away."""


class Admin:
    """Serves the admin port."""

    def __init__(self, loop: asyncio.AbstractEventLoop, registry: Registry, operated: Operated) -> None:
        self._loop = loop
        self._registry = registry
        self._operated = operated

    def serve(self, stream: Downstream, head: RequestHead) -> None:
        """Answer one request (`stream.Serve`)."""
        reader = stream.sink = Reader(stream)
        self._loop.call_later(ANSWER_SECONDS, reader.give_up)
        path, _, query = head.target.partition(b"?")
        if path in READ_ONLY and head.method not in (b"GET", b"HEAD"):
            reply(stream, head, 405, b"use GET\n", (*TEXT, (b"allow", b"GET")))
        elif path in (b"/livez", b"/live"):
            reply(stream, head, 200, b"ok\n")
        elif path in (b"/readyz", b"/ready", b"/healthz/ready"):
            self._readyz(stream, reader, head, verbose=query == b"verbose")
        elif path == b"/metrics":
            self._metrics(stream, reader, head)
        elif path in (b"/config", b"/drain"):
            self._private(stream, reader, head, path)
        else:
            reply(stream, head, 404, b"there is /livez, /readyz, /metrics, /config and /drain\n")

    def reject(self, stream: Downstream, rejected: Rejected) -> None:
        """Answer what the codec refused (`h1.Reject`)."""
        stream.sink = Reader(stream)
        reply(stream, None, rejected.status, rejected.reason.encode() + b"\n")

    def _readyz(self, stream: Downstream, reader: Reader, head: RequestHead, *, verbose: bool) -> None:
        reply_ready(stream, head, self._operated.readiness(), verbose=verbose)

    def _metrics(self, stream: Downstream, reader: Reader, head: RequestHead) -> None:
        accept = next((value for name, value in head.headers if name == b"accept"), None)
        openmetrics = wants_openmetrics(accept)
        headers = ((b"content-type", OPENMETRICS if openmetrics else METRICS), TEXT[1])
        is_whole = head.method == b"HEAD"
        stream.send_response(200, headers, end=is_whole)
        if is_whole:
            return
        self._send_pieces(stream, reader, render(self._registry, openmetrics=openmetrics))

    def _send_pieces(self, stream: Downstream, reader: Reader, pieces: Iterator[bytes]) -> None:
        """A piece each turn of the loop, so that traffic goes on between them, and none while the last is not read."""
        if reader.is_gone:
            return
        piece = next(pieces, None)
        if piece is None:
            stream.send_data(b"", end=True)
        elif stream.send_data(piece, end=False):
            self._loop.call_soon(self._send_pieces, stream, reader, pieces)
        else:
            reader.then = partial(self._send_pieces, stream, reader, pieces)

    def _private(self, stream: Downstream, reader: Reader, head: RequestHead, path: bytes) -> None:
        host = head.authority.rpartition(b":")[0] if head.authority[-1:] != b"]" else head.authority
        host = (host or head.authority).lower()
        if not _is_near(stream.facts) or host not in LOOPBACK_HOSTS:
            reply(stream, head, 403, b"this is for loopback only, by the name localhost\n")
        elif path == b"/config":
            self._config(stream, reader, head)
        elif head.method != b"POST":
            reply(stream, head, 405, b"use POST\n", (*TEXT, (b"allow", b"POST")))
        else:
            reply(stream, head, 202, b"draining\n")
            self._operated.drain()

    def _config(self, stream: Downstream, reader: Reader, head: RequestHead) -> None:
        reply(stream, head, 200, json.dumps(self._operated.configuration(), indent=2).encode() + b"\n", JSON)


class Reader:
    """Drops what a client sends beyond its head, and knows whether it is still there."""

    __slots__ = ("_stream", "is_gone", "then")

    def __init__(self, stream: Downstream) -> None:
        self._stream = stream
        self.is_gone = False
        self.then: Callable[[], None] | None = None
        """What waits for the client to read."""

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """Of no interest."""
        self._stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        """Of no interest."""

    def rejected(self, rejected: Rejected) -> None:
        """Of no interest: the answer is on its way."""

    def reset_received(self, code: int, reason: str) -> None:
        """The client is gone."""
        self.is_gone = True

    def drained(self) -> None:
        """The client reads again."""
        then, self.then = self.then, None
        if then is not None:
            then()

    def give_up(self) -> None:
        """The client has had its time."""
        if self._stream.sink is self:
            self.is_gone = True
            self._stream.reset(ErrorCode.CANCEL)


def reply_ready(stream: Downstream, head: RequestHead, conditions: dict[str, bool], *, verbose: bool) -> None:
    """Say whether all conditions hold, and which do not; with `verbose` also those that do."""
    is_ready = all(conditions.values())
    lines = [f"[{'+' if holds else '-'}] {name}" for name, holds in conditions.items() if verbose or not holds]
    lines.append("ready" if is_ready else "not ready")
    reply(stream, head, 200 if is_ready else 503, "\n".join(lines).encode() + b"\n")


def reply(stream: Downstream, head: RequestHead | None, status: int, body: bytes, headers: Headers = TEXT) -> None:
    """A whole answer, its body left out for HEAD."""
    if head is not None and head.method == b"HEAD":
        stream.send_response(status, headers, end=True, length=len(body))
    else:
        stream.send_response(status, headers, end=False, length=len(body))
        stream.send_data(body, end=True)
    stream.stop_receiving()


def _is_near(facts: ConnectionFacts) -> bool:
    return facts.local.startswith("/") or facts.remote.startswith(("127.", "[::1]:", "[::ffff:127."))


class Unobserved:
    """Nobody counts what happens at the admin port (`listener.ListenerEvents`)."""

    def handshake(self, result: str) -> None: ...
    def connection(self, protocol: str, change: int) -> None: ...
    def limit(self, name: str) -> None: ...
