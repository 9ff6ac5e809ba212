"""The real pipeline between a fake client and fake model servers: no sockets, time is a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from meshproxy.codec.events import Headers, RequestHead, ResponseHead
from meshproxy.config.routes import Retries
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call
from meshproxy.policy.decide import Permit
from meshproxy.proxy.exchange import Exchange, TraceContext
from meshproxy.proxy.pipeline import Pipeline
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import INBOUND_RETRIES, RetryRule, Skip
from meshproxy.routing.routes import Route, Routes
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.reaper import PERIOD, Reaper
from meshproxy.upstream.cluster import NoEndpoint
from meshproxy.upstream.latency import Latency

ALICE = Workload("spiffe://dev.example/ns/a/sa/alice", "dev.example", "a", "alice", 2_000_000_000.0)
NOW = 1_700_000_000.0


class FakeTimer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self.callback = callback
        self.is_cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(when, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Every timer strikes at its own time."""
        end = self.now + seconds
        while True:
            due = [timer for timer in self.timers if not timer.is_cancelled and timer.when() <= end]
            if not due:
                break
            first = min(due, key=FakeTimer.when)
            self.now = max(self.now, first.when())
            first.cancel()
            first.callback()
        self.now = end


class FakeClient:
    """The client's stream: what we sent it."""

    def __init__(self, protocol: str = "HTTP/2", peer: Workload | None = ALICE) -> None:
        self.info = ConnectionInfo(
            direction="inbound", protocol=protocol, remote="127.0.0.1:40000", local="127.0.0.1:18500", peer=peer
        )
        self.sink: Any = None
        self.heads: list[tuple[int, dict[bytes, bytes]]] = []
        self.body = b""
        self.trailers: Headers | None = None
        self.ended = False
        self.credited = 0
        self.reset_code: int | None = None
        self.has_stopped = False
        self.is_full = False

    def receive(self, data: bytes, end: bool) -> None:
        """A piece of the request's body comes; as a driver does, it is dropped where nobody reads."""
        if self.sink is not None:
            self.sink.data_received(data, len(data), end)
        else:
            self.credit(len(data))

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        assert not self.ended
        self.heads.append((status, dict(headers)))
        self.ended = end

    def send_data(self, data: bytes, end: bool) -> bool:
        assert self.heads
        assert not self.ended
        self.body += data
        self.ended = end
        return not self.is_full

    def send_trailers(self, headers: Headers) -> bool:
        assert not self.ended
        self.trailers = headers
        self.ended = True
        return not self.is_full

    def credit(self, size: int) -> None:
        self.credited += size

    def stop_receiving(self) -> None:
        self.has_stopped = True

    def reset(self, code: int) -> None:
        self.reset_code = code

    @property
    def status(self) -> int:
        return self.heads[-1][0]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self.heads[-1][1]


class FakeServer:
    """A stream to the model server: what we asked of it."""

    address = "127.0.0.1:8500"

    def __init__(self) -> None:
        self.info = ConnectionInfo(direction="upstream", protocol="HTTP/2", remote=self.address, local="")
        self.sink: Any = None
        self.head: RequestHead | None = None
        self.body = b""
        self.ended = False
        self.credited = 0
        self.reset_code: int | None = None
        self.has_stopped = False
        self.is_full = False

    def send_request(self, head: RequestHead) -> None:
        assert self.head is None
        self.head = head
        self.ended = head.end

    def send_data(self, data: bytes, end: bool) -> bool:
        assert not self.ended
        self.body += data
        self.ended = end
        return not self.is_full

    def send_trailers(self, headers: Headers) -> None:
        self.ended = True

    def credit(self, size: int) -> None:
        self.credited += size

    def stop_sending(self) -> None:
        self.has_stopped = True

    def reset(self, code: int) -> None:
        self.reset_code = code

    def respond(self, body: bytes = b"{}", status: int = 200, headers: Headers = ()) -> None:
        self.sink.head_received(ResponseHead(0, status, headers, end=False, length=len(body)))
        self.sink.data_received(body, len(body), True)

    def fail_grpc(self, status: bytes = b"14") -> None:
        """Trailers only."""
        headers = ((b"content-type", b"application/grpc"), (b"grpc-status", status))
        self.sink.head_received(ResponseHead(0, 200, headers, end=True))

    def respond_grpc(self, body: bytes = b"answer", status: bytes = b"0") -> None:
        self.sink.head_received(ResponseHead(0, 200, ((b"content-type", b"application/grpc"),), end=False))
        self.sink.data_received(body, len(body), False)
        self.sink.trailers_received(((b"grpc-status", status),))


class FakeEndpoint:
    """Gives streams at once, later, or not at all, and writes down how calls went."""

    is_sidecar = False
    address = "127.0.0.1:8500"

    def __init__(self, key: str, cluster: FakeCluster) -> None:
        self.key = key
        self.rest = self.grpc = self
        self.is_ready = True
        self.waiting: list[Any] = []
        self.streams: list[FakeServer] = []
        self.error: ConnectError | None = None
        self.errors: list[ConnectError] = []
        """Raised one after the other, before `error`."""
        self.reports: list[str] = []
        self._cluster = cluster

    # What its pool does

    def acquire(self, taker: Any) -> None:
        if self.errors:
            taker.acquire_failed(self.errors.pop(0))
        elif self.error is not None:
            taker.acquire_failed(self.error)
        elif self.is_ready:
            self._give(taker)
        else:
            self.waiting.append(taker)

    def give(self, taker: Any) -> None:
        """A stream for one that has waited: as the pool does, nothing that goes wrong is let out."""
        try:
            self._give(taker)
        except Exception as error:
            taker.crashed(error)

    def _give(self, taker: Any) -> None:
        stream = self._cluster.server_type()
        self.streams.append(stream)
        self._cluster.streams.append(stream)
        taker.acquired(stream)

    def withdraw(self, taker: Any) -> None:
        if taker in self.waiting:
            self.waiting.remove(taker)

    # What is known of it

    def begin(self, model: str, now: float) -> int:
        self.reports.append(f"begin {model}")
        return 0

    def succeeded(self, model: str, seconds: float, now: float, token: int) -> None:
        assert seconds >= 0
        self.reports.append("succeeded")

    def failed(self, model: str, failure: Failure, now: float, token: int) -> None:
        self.reports.append(failure.value)

    def cancelled(self, model: str, now: float, token: int) -> None:
        self.reports.append("cancelled")


class FakeCluster:
    """One endpoint, or several, of which the first that was not tried gets the call."""

    key: Any = None

    def __init__(self, endpoints: int = 1) -> None:
        self.server_type: type[FakeServer] = FakeServer
        self.streams: list[FakeServer] = []
        self.all = [FakeEndpoint(f"endpoint-{number}", self) for number in range(endpoints)]
        self.endpoints = {endpoint.key: endpoint for endpoint in self.all}
        self.picked: list[tuple[str, int | None]] = []
        self.nobody: NoEndpoint | None = None
        self.out: set[str] = set()
        """Keys of endpoints that may not be called."""
        self.latencies: dict[str, Latency] = {}

    def pick(self, is_grpc: bool, model: str, now: float, key: int | None, tried: Any) -> FakeEndpoint:
        if self.nobody is not None:
            raise self.nobody
        self.picked.append((model, key))
        present = [endpoint for endpoint in self.all if endpoint.key not in self.out]
        if not present:
            raise NoEndpoint("nobody may be called")
        return next((endpoint for endpoint in present if endpoint not in tried), present[0])

    def allows(self, is_grpc: bool, model: str, now: float, tried: Any = ()) -> bool:
        return any(endpoint.key not in self.out and endpoint not in tried for endpoint in self.all)

    def pick_clean(self, is_grpc: bool, model: str, now: float) -> FakeEndpoint | None:
        return next((endpoint for endpoint in self.all if endpoint.key not in self.out), None)

    def latency(self, model: str) -> Latency:
        return self.latencies.setdefault(model, Latency())

    # Of the first endpoint, for the many tests that need no other

    @property
    def waiting(self) -> list[Any]:
        return self.all[0].waiting

    @property
    def reports(self) -> list[str]:
        return self.all[0].reports

    @property
    def is_ready(self) -> bool:
        return self.all[0].is_ready

    @is_ready.setter
    def is_ready(self, is_ready: bool) -> None:
        self.all[0].is_ready = is_ready

    @property
    def error(self) -> ConnectError | None:
        return self.all[0].error

    @error.setter
    def error(self, error: ConnectError | None) -> None:
        self.all[0].error = error

    def give(self, taker: Any) -> None:
        self.all[0].give(taker)

    def close(self) -> None:
        pass


class FakePolicy:
    """Permits every model whose name begins with `open`."""

    def __init__(self) -> None:
        self.asked: list[tuple[Caller, Call]] = []

    def decide(self, caller: Caller, call: Call) -> Permit:
        self.asked.append((caller, call))
        if all(model.name.startswith("open") for model in call.models):
            return Permit("binding", ("watched",))
        raise Refusal(Reason.PERMISSION_DENIED, "not permitted", rule="default-deny")


class FakeVerifier:
    """Knows the token `good`; others raise what is given."""

    def __init__(self) -> None:
        self.token = Token("corp", "alice", {}, NOW + 60)
        self.raises: Exception | None = None

    def verify(self, authorization: bytes, now: float) -> Token:
        if self.raises is not None:
            raise self.raises
        if authorization != b"Bearer good":
            raise Refusal(Reason.UNAUTHENTICATED, "bad token", challenge="Bearer")
        return self.token


class FakeTracer:
    def carry(self, parent: bytes, states: Sequence[bytes]) -> tuple[TraceContext, bytes] | None:
        if parent == b"invalid":
            return None
        return TraceContext(b"t" * 32, b"p" * 16, b"s" * 16, False, b",".join(states)), b"ours"


class FakeTraffic:
    """What was counted."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def retried(self, exchange: Exchange, failure: Failure) -> None:
        self.events.append(("retried", failure.value))

    def retry_skipped(self, exchange: Exchange, failure: Failure, skip: Skip) -> None:
        self.events.append(("skipped", failure.value, skip.value))

    def hedged(self, exchange: Exchange) -> None:
        self.events.append(("hedged",))

    def fell_back(self, exchange: Exchange) -> None:
        self.events.append(("fell back",))

    def mirrored(self, route: str, result: str) -> None:
        self.events.append(("mirrored", result))


def route(server: str = "main", *, retry: RetryRule = INBOUND_RETRIES, **fields: Any) -> Route:
    """A route that sends calls to `server`, and does not try again what may have reached it."""
    return Route(fields.pop("name", "route"), server, retry=retry, **fields)


class World:
    """A pipeline and everything around it."""

    server_type = FakeServer

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.cluster = FakeCluster()
        self.other = FakeCluster()
        self.policy = FakePolicy()
        self.verifier = FakeVerifier()
        self.finished: list[Exchange] = []
        self.limits_hit: list[str] = []
        self.traffic = FakeTraffic()
        self.chance: list[float] = []
        """What is drawn next; 0.5 when there is none left."""
        self.refreshes: list[tuple[str, Callable[[], None]]] = []
        self.reaper = Reaper(self.loop)  # type: ignore[arg-type]
        self.snapshot = self.make_snapshot()
        self.pipeline = Pipeline(
            loop=self.loop,  # type: ignore[arg-type]
            now=self.loop.time,
            wall_clock=lambda: NOW,
            reaper=self.reaper,
            snapshot=self.snapshot,
            observer=lambda exchange: self.finished.append(exchange),
            tracer=FakeTracer(),
            refresh_keys=lambda issuer, then: self.refreshes.append((issuer, then)),
            on_limit=self.limits_hit.append,
            traffic=self.traffic,
            draw=lambda: self.chance.pop(0) if self.chance else 0.5,
            cpu_time=self.loop.time,
        )

    def make_snapshot(self, **changes: Any) -> Snapshot:
        parts: dict[str, Any] = {
            "verifier": self.verifier,
            "policy": self.policy,
            "routes": Routes(
                route(),
                [
                    ("open-elsewhere", (), route("other")),
                    ("open-quick", (), route(timeout=2.0)),
                ],
            ),
            "clusters": {"main": self.cluster, "other": self.other},
            "limits": BodyLimits(scan_buffer=1_000, scan_buffer_total=1_500),
            "forwards_identity": False,
            "forwards_token": False,
        }
        return Snapshot(**{**parts, **changes})

    def use(self, **changes: Any) -> None:
        self.pipeline.snapshot = self.make_snapshot(**changes)

    def serve(self, endpoints: int = 1, *, retries: Retries | None = None, **fields: Any) -> FakeCluster:
        """One route for all calls, to so many endpoints."""
        self.cluster = FakeCluster(endpoints)
        if retries is not None:
            fields["retry"] = RetryRule(retries)
        self.use(routes=Routes(route(**fields)))
        return self.cluster

    def wait(self, seconds: float) -> None:
        """Time passes, and whoever is late is told."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.advance(min(PERIOD, end - self.loop.now))
            self.reaper.sweep(self.loop.now)

    def assert_let_go(self) -> None:
        """Every exchange is over, and nothing of them is left; every endpoint heard once how each try ended."""
        pipeline = self.pipeline
        assert pipeline.live == set()
        assert (pipeline.scan_buffer.total, pipeline.replay_bytes, pipeline.response_buffer.total) == (0, 0, 0)
        assert (len(pipeline.scan_buffer), len(pipeline.response_buffer)) == (0, 0)
        assert (pipeline.mirrors.in_flight, pipeline.mirrors.live) == ({}, set())
        assert all((each.in_flight, each.waiting) == (0, 0) for _, _, each in pipeline.admissions.rows())
        assert [timer for timer in self.loop.timers if not timer.is_cancelled] == []
        for endpoint in self.cluster.all + self.other.all:
            began = sum(report.startswith("begin") for report in endpoint.reports)
            assert len(endpoint.reports) == 2 * began, endpoint.reports
            assert endpoint.waiting == []

    def rest(
        self,
        target: bytes = b"/v1/models/open:predict",
        *,
        method: bytes = b"POST",
        headers: Headers = (),
        body: bytes | None = b"{}",
        length: int | None = None,
        client: FakeClient | None = None,
        expects_continue: bool = False,
        trace: bytes | None = None,
    ) -> FakeClient:
        """Send a REST request; `body` None leaves the body to the test."""
        client = client or FakeClient("HTTP/1.1")
        end = method == b"GET"
        if body is not None and not end:
            length = len(body)
        self.pipeline.serve(
            client, RequestHead(1, method, b"host", target, headers, end, length, expects_continue, trace)
        )
        if body is not None and not end:
            client.receive(body, True)
        return client

    def grpc(
        self,
        message: bytes | None,
        *,
        method: bytes = b"/tensorflow.serving.PredictionService/Predict",
        headers: Headers = (),
        client: FakeClient | None = None,
    ) -> FakeClient:
        """Send a gRPC request of one message; None leaves the body to the test."""
        client = client or FakeClient()
        headers = ((b"content-type", b"application/grpc"), *headers)
        self.pipeline.serve(client, RequestHead(1, b"POST", b"host", method, headers, end=False))
        if message is not None:
            body = framed(message)
            client.receive(body, True)
        return client


def framed(message: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def spec(name: bytes) -> bytes:
    """`model_spec { name: ... }`, field 1 of a PredictRequest."""
    inner = b"\x0a" + bytes([len(name)]) + name
    return b"\x0a" + bytes([len(inner)]) + inner


def tensor(size: int) -> bytes:
    """Field 2 of a PredictRequest, `size` bytes of it."""
    return b"\x12" + varint(size) + b"\x01" * size


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def wire() -> Any:
    """The helpers that make messages, under one name."""

    class Wire:
        pass

    Wire.framed = staticmethod(framed)  # type: ignore[attr-defined]
    Wire.spec = staticmethod(spec)  # type: ignore[attr-defined]
    Wire.tensor = staticmethod(tensor)  # type: ignore[attr-defined]
    Wire.client = FakeClient  # type: ignore[attr-defined]
    return Wire
