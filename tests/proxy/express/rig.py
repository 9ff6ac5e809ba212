"""A client, a sidecar and its model server with everything between their bytes, but no sockets and no time of its own:
the same script can be played with and without the express lane, and must come to the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, cast

from meshproxy.codec.limits import Limits
from meshproxy.config.servers import BreakerSettings
from meshproxy.identity.caller import Token, Workload
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.pipeline import Pipeline
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.retry import INBOUND_RETRIES
from meshproxy.routing.routes import Route, Routes
from meshproxy.telemetry.access_log import AccessLog
from meshproxy.telemetry.audit import AuditLog
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.observer import Observer
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.trace import Tracer, record_trace
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_client import H1Client
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import PERIOD, Reaper
from meshproxy.upstream.cluster import Cluster, ClusterSettings
from meshproxy.upstream.discovery import EndpointAddress
from meshproxy.upstream.pool import H1Pool, PoolSettings
from meshproxy.upstream.sidecar_pool import SidecarPool
from tests.proxy.fakes import NOW, FakeLoop, FakePolicy, FakeTraffic

PEER = Workload("spiffe://dev.example/ns/a/sa/b", "dev.example", "a", "b", NOW + 72)
ADDRESS = "127.0.0.1:8501"
CONNECTIONS = 2
"""To the model server; no more are opened."""


class Loop(FakeLoop):
    """Connections that it is asked to open stay in the opening."""

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        coroutine.close()
        return asyncio.Future(loop=cast("asyncio.AbstractEventLoop", NoLoop()))


class NoLoop:
    """As much of a loop as a future needs that never ends."""

    def get_debug(self) -> bool:
        return False

    def call_soon(self, *_: object, **__: object) -> None: ...


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.state = "open"
        self.is_reading = True

    def write(self, data: bytes) -> None:
        assert self.state == "open"
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.state != "open"

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None: ...


class Lines:
    """A log."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    @property
    def real(self) -> LineWriter:
        return cast("LineWriter", self)


class Verifier:
    """Knows one token (`ports.Verifies`), until it expires or its key is withdrawn."""

    def __init__(self) -> None:
        self.token = Token("corp", "alice", {}, NOW + 70)
        self.is_withdrawn = False

    def verify(self, authorization: bytes, now: float) -> Token:
        if authorization != b"Bearer good" or now >= self.token.expires or self.is_withdrawn:
            raise Refusal(Reason.UNAUTHENTICATED, "bad token", challenge="Bearer")
        return self.token


class Spans(Tracer):
    """A tracer whose ids are counted, and which keeps what it is to record."""

    def __init__(self, sampler: Sampler | None) -> None:
        self.recorded: list[Exchange] = []
        super().__init__(sampler, self.recorded.append if sampler is not None else None)

    def _fetch(self) -> None:
        self._digits = b"".join(b"%016x" % number for number in range(1, 257))
        self._left = 256


class Rig:
    """One sidecar."""

    endpoint_address = EndpointAddress(rest=ADDRESS)
    server: Any
    pool: Any
    clients: list[Any]

    def __init__(self, *, is_express: bool = True, records: bool = False, audits: bool = False, **route: Any) -> None:
        self.loop = Loop()
        self.is_express = is_express
        loop = cast("asyncio.AbstractEventLoop", self.loop)
        self.metrics = SidecarMetrics()
        self.log, self.audit = Lines(), Lines()
        self.records: list[Exchange] = []
        clock = UtcClock(NOW - self.loop.now)
        self.observer = Observer(
            self.metrics.telemetry_failures,
            [
                self.metrics.requests.observe,
                AccessLog(self.log.real, clock),
                AuditLog(self.audit.real.write, clock, self.metrics.audit_events),
                record_trace,
                self.records.append,
            ],
        )
        self.reaper = Reaper(loop)
        self.shared = ConnectionContext(
            loop=loop,
            outbox=Outbox(loop),
            reaper=self.reaper,
            limits=Limits(),
            times=Times(),
            on_limit=lambda name: None,
        )
        pool = PoolSettings(connect_timeout=1.0, max_connections=CONNECTIONS, max_pending=8, idle_timeout=60.0)
        settings = ClusterSettings(pool, breaker=BreakerSettings(consecutive_failures=2, failing_for=0.0))
        self.cluster = Cluster(self.shared, "main", settings, Unwatched(), chance=random.Random(1))
        self.cluster.set_endpoints([self.endpoint_address])
        (self.endpoint,) = self.cluster.endpoints.values()
        self.verifier = Verifier()
        self.policy = FakePolicy()
        self.policy.audits = ("watched",) if audits else ()
        self.traffic = FakeTraffic()
        self.spans = Spans(Sampler(1.0) if records else None)
        self.route = {"timeout": 60.0, "retry": INBOUND_RETRIES, **route}
        self.pipeline = Pipeline(
            loop=loop,
            now=self.loop.time,
            wall_clock=lambda: NOW + self.loop.now - 100.0,
            reaper=self.reaper,
            snapshot=self.snapshot(),
            observer=self.observer,
            tracer=self.spans,
            refresh_keys=lambda issuer, then: None,
            on_limit=lambda name: None,
            traffic=self.traffic,
            repeat=self.observer.repeat,
            draw=lambda: 0.5,
        )
        self.wire = Wire()
        self.server = self.accept(self.wire)
        self.pool = self.find_pool()
        self.wires: list[Wire] = []
        self.clients = []
        for _ in range(CONNECTIONS):
            self.open()

    def find_pool(self) -> Any:
        """The connections to the model server."""
        assert type(self.endpoint.rest) is H1Pool
        return self.endpoint.rest

    def snapshot(self, **changes: Any) -> Snapshot:
        parts: dict[str, Any] = {
            "verifier": self.verifier,
            "policy": self.policy,
            "routes": Routes(Route("route", "main", **self.route)),
            "clusters": {"main": self.cluster},
            "limits": BodyLimits(),
            "forwards_identity": False,
            "forwards_token": False,
            "is_express": self.is_express,
        }
        return Snapshot(**{**parts, **changes})

    def accept(self, wire: Wire) -> Any:
        """A client connects."""
        info = ConnectionInfo(
            direction="inbound", protocol="HTTP/1.1", remote="127.0.0.1:40000", local="127.0.0.1:18500", peer=PEER
        )
        server = H1Server(self.shared, info, self.pipeline.serve, self.pipeline.reject)
        server.attach(cast("asyncio.Transport", wire))
        return server

    def open(self) -> None:
        """A connection to the model server has been opened."""
        wire = Wire()
        info = ConnectionInfo(direction="upstream", protocol="HTTP/1.1", remote=ADDRESS, local="")
        client = H1Client(self.shared, info, self.pool)
        client.attach(cast("asyncio.Transport", wire))
        self.pool.size += 1
        self.pool._connections.add(client)
        self.wires.append(wire)
        self.clients.append(client)
        self.pool.released(client)

    # What may happen

    def ask(self, *pieces: bytes) -> None:
        """The client sends this, each piece a read."""
        for piece in pieces:
            if self.wire.state == "open" and self.wire.is_reading:
                self.server.data_received(piece)
                self.turn()

    @property
    def asked(self) -> H1Client | None:
        """A connection over which an answer is awaited."""
        busy = [each for each in self.clients if each.ride is not None or each.sink is not None]
        return busy[0] if busy else None

    def answer(self, *pieces: bytes) -> None:
        """The model server sends this, over the connection that was used first."""
        client = self.asked
        for piece in pieces:
            if client is not None and not client.transport.is_closing():
                client.data_received(piece)
                self.turn()

    def hang_up(self, *, is_eof: bool) -> None:
        """The model server ends the connection over which an answer is awaited, or an idle one."""
        client = self.asked or next((each for each in self.clients if not each.transport.is_closing()), None)
        if client is not None:
            self._end(client, is_eof)

    def leave(self, *, is_eof: bool) -> None:
        """The client ends its connection."""
        self._end(self.server, is_eof)

    def _end(self, connection: Any, is_eof: bool) -> None:
        if is_eof and not connection.transport.is_closing():
            connection.eof_received()
            self.turn()
        connection.connection_lost(None)
        self.turn()

    def wait(self, seconds: float) -> None:
        """Time passes."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.advance(min(PERIOD, end - self.loop.now))
            self.turn()
            self.reaper.sweep(self.loop.now)
            self.turn()

    def turn(self) -> None:
        """Iterations of the loop until nothing is left to be done."""
        while self.loop.soon:
            self.loop.turn()

    # What there is to see

    def seen(self) -> dict[str, object]:
        """All that the script has led to, but for the lane's own counts."""
        return {
            "client": (self.wire.written, self.wire.state, self.wire.is_reading),
            "servers": [(wire.written, wire.state, wire.is_reading) for wire in self.wires],
            "records": [told(record) for record in self.records],
            "log": self.log.lines,
            "audit": self.audit.lines,
            "spans": [told(record) for record in self.spans.recorded],
            "traffic": self.traffic.events,
            "in flight": len(self.pipeline.live),
            "served": self.pipeline.served,
            "replay": self.pipeline.replay_bytes,
            "load": (self.endpoint.load.in_flight, self.endpoint.record.calls, self.endpoint.record.failures),
            "breakers": self.endpoint.states(),
            **self.connections(),
            "deadlines": (self.server.deadline, [each.deadline for each in self.clients]),
            "timers": sorted(timer.when() for timer in self.loop.pending),
        }

    def connections(self) -> dict[str, object]:
        """What there is to see of them."""
        return {"idle": len(self.pool._idle)}

    @property
    def page(self) -> bytes:
        """The metrics."""
        return b"".join(render(self.metrics.registry))

    def count(self, outcome: Outcome) -> int:
        return self.pipeline.express[outcome]

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """What became of requests, without what did not happen."""
        return {outcome: count for outcome, count in self.pipeline.express.items() if count}


class SidecarRig(Rig):
    """The same before another sidecar, with connections of HTTP/1.1 to it. That of HTTP/2 stays in the opening: calls
    that find no connection wait."""

    endpoint_address = EndpointAddress(sidecar=ADDRESS)

    def find_pool(self) -> Any:
        assert type(self.endpoint.rest) is SidecarPool
        return self.endpoint.rest


class TwoServersRig(Rig):
    """The same with two model servers, which are balanced."""

    other_address = EndpointAddress(rest="127.0.0.1:8502")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.cluster.set_endpoints([self.endpoint_address, self.other_address])
        self.endpoint, self.other = self.cluster.endpoints.values()
        first, self.pool = self.pool, self.other.rest
        for _ in range(CONNECTIONS):
            self.open()
        self.pool = first

    def open(self) -> None:
        super().open()
        self.clients[-1].address = self.pool.address

    def connections(self) -> dict[str, object]:
        load = (self.other.load.in_flight, self.other.record.calls, self.other.record.failures)
        return {**super().connections(), "other": (load, self.other.states())}


class MixedRig(TwoServersRig):
    """One of both is another sidecar."""

    other_address = EndpointAddress(sidecar="127.0.0.1:8502")


def defect(*_: object) -> None:
    """Is put in the place of what is to go wrong."""
    raise RuntimeError("a defect")


class Unwatched:
    def circuit(self, *what: object) -> None: ...
    def ejected(self, *what: object) -> None: ...
    def connect_failed(self, *what: object) -> None: ...
    def endpoints(self, *what: object) -> None: ...


def told(record: Exchange) -> dict[str, object]:
    """A record, so that it can be compared."""
    fields: dict[str, object] = {}
    for name in Exchange.__slots__:
        value = getattr(record, name)
        if name == "attempts":
            value = [[getattr(each, part) for part in type(each).__slots__] for each in value]
        elif name == "trace" and value is not None:
            value = [getattr(value, part) for part in type(value).__slots__ if part != "record"]
        elif name == "refusal" and value is not None:
            value = (value.reason, value.message, value.limit, value.rule)
        elif name == "caller":
            value = str(value)  # tokens are compared by identity
        elif name == "connection":
            value = (value.direction, value.remote, value.inflating)
        fields[name] = value
    return fields


def request(
    body: bytes = b"{}",
    *,
    target: bytes = b"/v1/models/open:predict",
    method: bytes = b"POST",
    request_id: bytes | None = None,
    trace: bytes | None = None,
    timeout: bytes | None = None,
    token: bytes | None = b"good",
    more: bytes = b"",
) -> bytes:
    """A request as it goes on the wire. `more`: complete field lines."""
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: models", b"user-agent: test"]
    if method != b"GET":
        lines.append(b"Content-Length: %d" % len(body))
    fields = {b"x-request-id": request_id, b"traceparent": trace, b"x-envoy-expected-rq-timeout-ms": timeout}
    lines += [name + b": " + value for name, value in fields.items() if value is not None]
    if token is not None:
        lines.append(b"authorization: Bearer " + token)
    return b"\r\n".join(lines) + b"\r\n" + more + b"\r\n" + (body if method != b"GET" else b"")


def answer(body: bytes = b"answer", *, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    """An answer of a model server."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        more,
        len(body),
        body,
    )
