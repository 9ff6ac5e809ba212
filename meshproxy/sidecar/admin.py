"""The admin port: health and metrics for everyone, operations for this host only.

    GET  /livez     200 while the event loop runs
    GET  /readyz    200 while new requests are accepted; ?verbose lists the conditions
    GET  /metrics   Prometheus text, or OpenMetrics if the scraper asks for it; with the model server's page, if that is
                    relayed to this client
    GET  /scaling   the load of the model server by model, for what adds and removes replicas
    GET  /config    the configuration in use: fingerprint, documents, identity (loopback only)
    GET  /status    what `meshproxy status` shows (loopback only)
    GET  /tap       a line of each call that ends (loopback only, `live_pages`)
    GET  /stat      counts of calls, every second (loopback only, `live_pages`)
    GET  /calls     the calls of a worker, for the hop lag (loopback only)
    GET  /reports   what a worker has to report to the control plane, for its supervisor (loopback only)
    POST /drain     the same as SIGTERM (loopback only; not on the admin port of a worker)

`/scaling` says nothing that `/metrics` does not, and is read like it: by another pod, which knows the address of this
one and has no credentials.

The last seven answer loopback peers that name a loopback host: a page in a browser on this host can send requests to
them under the name of the attacker's site (DNS rebinding), and a server that fetches URLs can be made to
(CVE-2024-40632).
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.telemetry import exposition
from meshproxy.transport.connection import Times

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Coroutine, Iterator, Sequence

    from meshproxy.codec.events import Headers, Rejected, RequestHead
    from meshproxy.telemetry.metrics import Registry
    from meshproxy.telemetry.relayed_page import RelayedPage
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.stream import Downstream, Serve

TEXT = ((b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"))
JSON = ((b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"))
READ_ONLY = frozenset(
    {
        *(b"/livez", b"/live", b"/readyz", b"/ready", b"/healthz/ready"),
        *(b"/metrics", b"/scaling", b"/config", b"/status", b"/calls", b"/reports"),
    }
)
LIVE = frozenset({b"/tap", b"/stat"})
LOOPBACK_HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
ANSWER_SECONDS = 30.0
"""How long a client may take to read a response: this port has few connections, and the kubelet needs one."""
NOT_FOUND = b"not found: expected /livez, /readyz, /metrics, /scaling, /config, /status, /tap, /stat or /drain\n"
NOTE_ELSEWHERE = "something needs attention: ask from this host, or use meshproxy status"


def share_of_admin(descriptors: int) -> int:
    """How many clients the admin port has at once, with so many descriptors (-1: any number): they are among those that
    other clients leave to the sidecar (`clusters.OWN_DESCRIPTORS`), and must leave some, too."""
    return min(64, max(4, (descriptors - 64) // 15)) if descriptors >= 0 else 64


ADMIN_CONNECTIONS = share_of_admin(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
ADMIN_TIMES = Times(head=2.0, idle=5.0)
"""Short, so that clients which hold connections to the admin port do not keep a probe waiting."""


class AdminTarget(Protocol):
    """The process behind the admin port."""

    def readiness(self) -> dict[str, bool]:
        """The conditions that must hold for it to be ready."""

    def notes(self) -> list[str]:
        """What readiness does not depend on and is not as it should be, such as rejected documents, which it quotes."""

    def configuration(self) -> dict[str, object]:
        """The configuration in use, without secrets."""

    async def status(self) -> dict[str, object]:
        """The state of every part, without secrets."""

    async def scaling(self) -> dict[str, object] | None:
        """The load of the model server (`scaling.Scaling.page`); None if it is not known."""

    def calls(self) -> dict[str, object] | None:
        """What the first of several workers adds up (`worker_calls.tell`); None: there is nothing."""

    def drain(self) -> None:
        """Begin a graceful shutdown."""


Relay = Callable[[str], "Awaitable[RelayedPage | None] | None"]
"""The model server's metrics page for a client, by its address `HOST:PORT`; None: there is none for it."""


def _relays_nothing(remote: str) -> None:
    return None


class Admin:
    """Serves the admin port.

    Args:
        serve_live: serves `/tap` and `/stat` to clients on this host.
        is_worker: this is one of several workers, which is not drained by itself.
        relay: gives the page to append to `/metrics`.
        reports: gives the page `/reports` for its query; None: there is none.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        target: AdminTarget,
        serve_live: Serve,
        *,
        is_worker: bool = False,
        relay: Relay = _relays_nothing,
        reports: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._target = target
        self._serve_live = serve_live
        self._is_worker = is_worker
        self._relay = relay
        self._reports = reports
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, stream: Downstream, head: RequestHead) -> None:
        """Answer one request (`stream.Serve`)."""
        path, _, query = head.target.partition(b"?")
        if path in LIVE and _is_local(stream, head):
            self._serve_live(stream, head)
            return
        sink = stream.sink = DiscardingSink(stream)
        self._loop.call_later(ANSWER_SECONDS, sink.give_up)
        if path in READ_ONLY and head.method not in (b"GET", b"HEAD"):
            reply(stream, head, 405, b"use GET\n", (*TEXT, (b"allow", b"GET")))
        elif path in (b"/livez", b"/live"):
            reply(stream, head, 200, b"ok\n")
        elif path in (b"/readyz", b"/ready", b"/healthz/ready"):
            is_verbose = query == b"verbose"
            notes = self._target.notes() if is_verbose else []
            if not _is_local(stream, head):
                notes = [NOTE_ELSEWHERE] if notes else []
            reply_ready(stream, head, self._target.readiness(), verbose=is_verbose, notes=notes)
        elif path == b"/metrics":
            self._metrics(stream, sink, head)
        elif path == b"/scaling":
            self._begin(self._show_scaling(stream, head))
        elif path == b"/reports" and self._reports is not None and _is_local(stream, head):
            reply(stream, head, 200, self._reports(query), JSON)
        elif path in (b"/config", b"/status", b"/calls", b"/drain", *LIVE):
            self._operate(stream, head, path)
        else:
            reply(stream, head, 404, NOT_FOUND)

    def reject(self, stream: Downstream, rejected: Rejected) -> None:
        """Answer a request that the codec rejected (`stream.Reject`)."""
        stream.sink = DiscardingSink(stream)
        reply(stream, None, rejected.status, rejected.reason.encode() + b"\n")

    def _metrics(self, stream: Downstream, sink: DiscardingSink, head: RequestHead) -> None:
        accept = next((value for name, value in head.headers if name == b"accept"), None)
        openmetrics = exposition.wants_openmetrics(accept)
        headers = ((b"content-type", exposition.OPENMETRICS if openmetrics else exposition.TEXT), TEXT[1])
        if head.method == b"HEAD":
            stream.send_response(200, headers, end=True)
            return
        stream.send_response(200, headers, end=False)
        relayed = self._relay(stream.info.remote)
        if relayed is None:
            self._send_pieces(stream, sink, exposition.render(self._registry, openmetrics=openmetrics))
        else:
            self._begin(self._send_both(stream, sink, relayed, openmetrics=openmetrics))

    async def _send_both(
        self, stream: Downstream, sink: DiscardingSink, relayed: Awaitable[RelayedPage | None], *, openmetrics: bool
    ) -> None:
        """The sidecar's metrics, then the model server's, if there are any."""
        page = await relayed
        more = page.render(openmetrics=openmetrics) if page is not None else ()
        self._send_pieces(stream, sink, exposition.render(self._registry, openmetrics=openmetrics, more=more))

    def _send_pieces(self, stream: Downstream, sink: DiscardingSink, pieces: Iterator[bytes]) -> None:
        """One piece in each turn of the event loop, so that requests are served in between, and the next one only once
        the client has read the last."""
        if sink.is_gone:
            return
        piece = next(pieces, None)
        if piece is None:
            stream.send_data(b"", end=True)
        elif not piece or stream.send_data(piece, end=False):  # an empty chunk would end the response
            self._loop.call_soon(self._send_pieces, stream, sink, pieces)
        else:
            sink.then = partial(self._send_pieces, stream, sink, pieces)

    def _begin(self, answer: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _show_status(self, stream: Downstream, head: RequestHead) -> None:
        """A supervisor asks its workers, which takes time."""
        status = await self._target.status()
        if not _is_gone(stream):
            reply(stream, head, 200, _json(status), JSON)

    async def _show_scaling(self, stream: Downstream, head: RequestHead) -> None:
        """An error rather than too little: with less than there is, replicas would be taken away."""
        page = await self._target.scaling()
        if _is_gone(stream):
            return
        if page is None:
            reply(stream, head, 503, b"not known: there is no inbound port, or a worker does not answer\n")
        else:
            # For programs, and without indent: a third of the time.
            reply(stream, head, 200, json.dumps(page).encode() + b"\n", JSON)

    def _operate(self, stream: Downstream, head: RequestHead, path: bytes) -> None:
        if not _is_local(stream, head):
            reply(stream, head, 403, b"forbidden: use a loopback connection and the host name localhost\n")
        elif path == b"/config":
            reply(stream, head, 200, _json(self._target.configuration()), JSON)
        elif path == b"/status":
            self._begin(self._show_status(stream, head))
        elif path == b"/calls":
            told = self._target.calls()
            if told is None:
                reply(stream, head, 404, b"no calls are added up here\n")
            else:
                reply(stream, head, 200, _json(told), JSON)
        elif self._is_worker:
            reply(stream, head, 404, b"a worker is not drained by itself: use the admin port of the sidecar\n")
        elif head.method != b"POST":
            reply(stream, head, 405, b"use POST\n", (*TEXT, (b"allow", b"POST")))
        else:
            reply(stream, head, 202, b"draining\n")
            self._target.drain()


class DiscardingSink:
    """Discards what a client sends after its request head, and tracks whether it is still connected."""

    __slots__ = ("_stream", "is_gone", "then")

    def __init__(self, stream: Downstream) -> None:
        self._stream = stream
        self.is_gone = False
        self.then: Callable[[], None] | None = None
        """Called once the client has read what was sent."""

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """Return the credit, so that the client can finish its request."""
        self._stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        """Ignored."""

    def rejected(self, rejected: Rejected) -> None:
        """Ignored: the response is already being sent."""

    def reset_received(self, code: int, reason: str) -> None:
        """The client disconnected or cancelled."""
        self.is_gone = True

    def drained(self) -> None:
        """The client has read what was sent (backpressure)."""
        then, self.then = self.then, None
        if then is not None:
            then()

    def give_up(self) -> None:
        """Reset the stream: the client has not read the response in time."""
        if self._stream.sink is self:
            self.is_gone = True
            self._stream.reset(ErrorCode.CANCEL)


def reply_ready(
    stream: Downstream, head: RequestHead, conditions: dict[str, bool], *, verbose: bool, notes: Sequence[str] = ()
) -> None:
    """200 if all conditions hold, otherwise 503 with those that do not; `verbose` lists all of them, and notes."""
    is_ready = all(conditions.values())
    lines = [f"[{'+' if holds else '-'}] {name}" for name, holds in conditions.items() if verbose or not holds]
    lines += [f"[!] {note}" for note in notes]
    lines.append("ready" if is_ready else "not ready")
    reply(stream, head, 200 if is_ready else 503, "\n".join(lines).encode() + b"\n")


def reply(stream: Downstream, head: RequestHead | None, status: int, body: bytes, headers: Headers = TEXT) -> None:
    """A complete response, without its body for HEAD."""
    if head is not None and head.method == b"HEAD":
        stream.send_response(status, headers, end=True, length=len(body))
    else:
        stream.send_response(status, headers, end=False, length=len(body))
        stream.send_data(body, end=True)
    stream.stop_receiving()


def _is_gone(stream: Downstream) -> bool:
    sink = stream.sink
    return isinstance(sink, DiscardingSink) and sink.is_gone


def _host(authority: bytes) -> bytes:
    """The host of an authority in lower case, without its port."""
    host = authority.rpartition(b":")[0] if authority[-1:] != b"]" else authority
    return (host or authority).lower()


def _is_local(stream: Downstream, head: RequestHead) -> bool:
    """The client is on this host, and no browser that was led here under another name, or by a page of another site,
    which cannot read the answer but can send a form (`POST /drain`)."""
    if not _is_loopback(stream.info) or _host(head.authority) not in LOOPBACK_HOSTS:
        return False
    return not any(
        name == b"origin" or (name == b"sec-fetch-site" and value not in (b"none", b"same-origin"))
        for name, value in head.headers
    )


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _is_loopback(info: ConnectionInfo) -> bool:
    return info.remote.startswith(("127.", "[::1]:"))


class NoListenerEvents:
    """Events of the admin port are not counted (`listener.ListenerEvents`)."""

    def handshake(self, result: str, reason: str) -> None: ...
    def connected(self, info: ConnectionInfo) -> None: ...
    def disconnected(self, info: ConnectionInfo) -> None: ...
    def limit(self, name: str) -> None: ...
