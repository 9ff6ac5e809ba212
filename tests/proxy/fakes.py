"""Fakes of what stands around the classes of `meshproxy.proxy`: no sockets, time is a number, and what is called is
recorded. `test_fakes.py` compares each with the class or protocol that it stands for.

A fake has the public names of that class which the proxy uses, and beside them names for tests, which `FOR_TESTS`
lists.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVarTuple, Unpack, cast

from meshproxy.codec.events import Headers, RequestHead, ResponseHead
from meshproxy.codec.headers import FRAMING
from meshproxy.config.servers import Key
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call
from meshproxy.policy.decide import Permit
from meshproxy.proxy.attempt import AnswerSink, Attempt
from meshproxy.proxy.context import ProxyContext
from meshproxy.proxy.exchange import AttemptRecord, Exchange, ResponseFlags, TraceContext
from meshproxy.proxy.request import Request
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import INBOUND_RETRIES, Skip
from meshproxy.routing.routes import Route, Routes
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.reaper import Reaper
from meshproxy.transport.stream import Downstream, RequestSink, ResponseSink, Upstream
from meshproxy.upstream.cluster import Cluster, NoEndpoint
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.latency import Latency

if TYPE_CHECKING:
    import asyncio

    from meshproxy.transport.client import StreamWaiter

Ts = TypeVarTuple("Ts")

ALICE = Workload("spiffe://dev.example/ns/a/sa/alice", "dev.example", "a", "alice", 2_000_000_000.0)
NOW = 1_700_000_000.0
"""Seconds since the epoch."""


class FakeTimer:
    """An `asyncio.TimerHandle`."""

    FOR_TESTS: ClassVar = frozenset({"callback", "is_cancelled"})

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self._when = when
        self.callback = callback
        self.is_cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """An event loop whose time moves in `advance` only."""

    FOR_TESTS: ClassVar = frozenset({"advance", "now", "pending", "real", "soon", "timers", "turn"})

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[FakeTimer] = []
        self.soon: list[Callable[[], object]] = []
        """What is to be called in the next iteration."""

    @property
    def real(self) -> asyncio.AbstractEventLoop:
        """Typed as the class that it stands for."""
        return cast("asyncio.AbstractEventLoop", self)

    @property
    def pending(self) -> list[FakeTimer]:
        """Timers that have neither fired nor been cancelled."""
        return [timer for timer in self.timers if not timer.is_cancelled]

    def time(self) -> float:
        return self.now

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> FakeTimer:
        self.soon.append(lambda: callback(*args))
        return FakeTimer(self.now, self.soon[-1])

    def turn(self) -> None:
        """One iteration."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> FakeTimer:
        timer = FakeTimer(when, lambda: callback(*args))
        self.timers.append(timer)
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> FakeTimer:
        return self.call_at(self.now + delay, callback, *args)

    def advance(self, seconds: float) -> None:
        """Time passes; each timer fires at its own time."""
        end = self.now + seconds
        while due := [timer for timer in self.pending if timer.when() <= end]:
            first = min(due, key=FakeTimer.when)
            self.now = max(self.now, first.when())
            first.cancel()
            first.callback()
        self.now = end


class FakeDownstream:
    """A client's stream (`stream.Downstream`): records what it is sent."""

    FOR_TESTS: ClassVar = frozenset(
        {
            "body",
            "closes_connection",
            "credited",
            "ended",
            "has_stopped",
            "headers",
            "heads",
            "is_full",
            "length",
            "receive",
            "reset_code",
            "status",
            "trailers",
        }
    )

    def __init__(self, protocol: str = "HTTP/2", peer: Workload | None = ALICE) -> None:
        self.info = ConnectionInfo(
            direction="inbound", protocol=protocol, remote="127.0.0.1:40000", local="127.0.0.1:18500", peer=peer
        )
        self.sink: RequestSink | None = None
        self.heads: list[tuple[int, dict[bytes, bytes]]] = []
        self.length: int | None = None
        """That the last head declares."""
        self.body = b""
        self.trailers: Headers | None = None
        self.ended = False
        self.credited = 0
        self.reset_code: int | None = None
        self.has_stopped = False
        self.closes_connection = False
        self.is_full = False
        """What is sent is buffered."""
        self.unread = 0

    def receive(self, data: bytes, end: bool) -> None:
        """A piece of the request's body comes; as in a driver, it is dropped where there is no sink."""
        if self.sink is not None:
            self.sink.data_received(data, len(data), end)
        else:
            self.credit(len(data))

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        assert not self.ended
        # The codecs write these themselves, and raise if they are given any.
        assert FRAMING.isdisjoint(name for name, _ in headers)
        self.heads.append((status, dict(headers)))
        self.length = length
        self.ended = end

    def send_data(self, data: bytes, end: bool) -> bool:
        assert self.heads
        assert not self.ended
        self.body += data
        self.ended = end
        return not self.is_full

    def send_trailers(self, headers: Headers) -> bool:
        assert self.heads
        assert not self.ended
        self.trailers = headers
        self.ended = True
        return not self.is_full

    def credit(self, size: int) -> None:
        self.credited += size

    def stop_receiving(self) -> None:
        self.has_stopped = True

    def close_connection(self) -> None:
        assert not self.heads
        self.closes_connection = True

    def reset(self, code: int) -> None:
        self.reset_code = code

    @property
    def status(self) -> int:
        """Of the last head."""
        return self.heads[-1][0]

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Of the last head."""
        return self.heads[-1][1]


class FakeUpstream:
    """A stream to a model server (`stream.Upstream`): records what it is sent."""

    FOR_TESTS: ClassVar = frozenset(
        {
            "body",
            "credited",
            "ended",
            "fail_grpc",
            "has_stopped",
            "head",
            "is_full",
            "reader",
            "refuses",
            "reset_code",
            "respond",
            "respond_grpc",
        }
    )

    def __init__(self, address: str = "127.0.0.1:8500") -> None:
        self.address = address
        self.info = ConnectionInfo(direction="upstream", protocol="HTTP/2", remote=address, local="")
        self.sink: ResponseSink | None = None
        self.head: RequestHead | None = None
        self.body = b""
        self.ended = False
        self.credited = 0
        self.reset_code: int | None = None
        self.has_stopped = False
        self.is_full = False
        """What is sent is buffered."""
        self.refuses: Exception | None = None
        """Raised by `send_request`."""

    def send_request(self, head: RequestHead) -> None:
        if self.refuses is not None:
            raise self.refuses
        assert self.head is None
        self.head = head
        self.ended = head.end

    def send_data(self, data: bytes, end: bool) -> bool:
        assert not self.ended
        self.body += data
        self.ended = end
        return not self.is_full

    def send_trailers(self, headers: Headers) -> bool:
        assert not self.ended
        self.ended = True
        return not self.is_full

    def credit(self, size: int) -> None:
        self.credited += size

    def stop_sending(self) -> None:
        self.has_stopped = True

    def reset(self, code: int) -> None:
        self.reset_code = code

    @property
    def reader(self) -> ResponseSink:
        """Whoever reads the answer now."""
        assert self.sink is not None
        return self.sink

    def respond(self, body: bytes = b"{}", status: int = 200, headers: Headers = ()) -> None:
        """A REST answer."""
        reader = self.reader
        reader.head_received(ResponseHead(0, status, headers, end=False, length=len(body)))
        reader.data_received(body, len(body), True)

    def fail_grpc(self, status: bytes = b"14") -> None:
        """A gRPC answer of trailers only."""
        headers = ((b"content-type", b"application/grpc"), (b"grpc-status", status))
        self.reader.head_received(ResponseHead(0, 200, headers, end=True))

    def respond_grpc(self, body: bytes = b"answer", status: bytes = b"0") -> None:
        """A gRPC answer of head, message and trailers."""
        reader = self.reader
        reader.head_received(ResponseHead(0, 200, ((b"content-type", b"application/grpc"),), end=False))
        reader.data_received(body, len(body), False)
        reader.trailers_received(((b"grpc-status", status),))


def full_upstream() -> FakeUpstream:
    """A stream that buffers all it is sent, from the start (`FakePool.make_stream`)."""
    stream = FakeUpstream()
    stream.is_full = True
    return stream


class FakePool:
    """Connections to one address (`client.StreamSource`): gives streams at once, later, or not at all."""

    FOR_TESTS: ClassVar = frozenset({"error", "errors", "give", "is_ready", "make_stream", "streams", "waiting"})

    def __init__(self, make_stream: Callable[[], FakeUpstream] = FakeUpstream) -> None:
        self.address = "127.0.0.1:8500"
        self.is_tls = False
        self.make_stream = make_stream
        self.is_ready = True
        """False: those that come wait until `give`."""
        self.waiting: list[StreamWaiter] = []
        self.streams: list[FakeUpstream] = []
        self.error: ConnectError | None = None
        """What those that come are told."""
        self.errors: list[ConnectError] = []
        """The same, one after the other, before `error`."""

    def acquire(self, waiter: StreamWaiter) -> None:
        if self.errors:
            waiter.acquire_failed(self.errors.pop(0))
        elif self.error is not None:
            waiter.acquire_failed(self.error)
        elif self.is_ready:
            self._hand_over(waiter)
        else:
            self.waiting.append(waiter)

    def withdraw(self, waiter: StreamWaiter) -> None:
        if waiter in self.waiting:
            self.waiting.remove(waiter)

    def give(self, waiter: StreamWaiter) -> None:
        """A stream for one that has waited: what it raises goes to its `crashed`, as in `Pool`."""
        try:
            self._hand_over(waiter)
        except Exception as error:
            waiter.crashed(error)

    def _hand_over(self, waiter: StreamWaiter) -> None:
        stream = self.make_stream()
        self.streams.append(stream)
        waiter.acquired(stream)


class FakeEndpoint:
    """An endpoint (`endpoint.Endpoint`) with one pool for REST and gRPC: records how calls went."""

    FOR_TESTS: ClassVar = frozenset({"pool", "real", "reports", "silences", "token"})

    def __init__(self, key: str = "endpoint-0", make_stream: Callable[[], FakeUpstream] = FakeUpstream) -> None:
        self.key = key
        self.is_sidecar = False
        self.pool = FakePool(make_stream)
        self.rest: FakePool | None = self.pool
        self.grpc: FakePool | None = self.pool
        self.token = 0
        """Of the next call."""
        self.reports: list[str] = []
        """For each call `begin` and how it went."""
        self.silences: list[float] = []
        """Of each call that was given up or failed."""

    @property
    def real(self) -> Endpoint:
        """Typed as the class that it stands for."""
        return cast("Endpoint", self)

    def begin(self, model: str, now: float) -> int:
        self.reports.append(f"begin {model}")
        return self.token

    def succeeded(self, model: str, seconds: float, now: float, token: int) -> None:
        assert seconds >= 0
        self._report("succeeded", token)

    def failed(
        self, model: str, failure: Failure, now: float, token: int, is_slow: bool = False, silence: float = 0.0
    ) -> None:
        self.silences.append(silence)
        self._report(failure.value, token)

    def cancelled(self, model: str, now: float, token: int, silence: float = 0.0) -> None:
        self.silences.append(silence)
        self._report("cancelled", token)

    def _report(self, what: str, token: int) -> None:
        assert token == self.token
        self.reports.append(what)


class FakeCluster:
    """The endpoints of a ModelServer (`cluster.Cluster`): the first that was not tried gets the call."""

    FOR_TESTS: ClassVar = frozenset(
        {
            "all",
            "doubted",
            "error",
            "give",
            "is_ready",
            "latencies",
            "make_stream",
            "no_endpoint",
            "out",
            "picked",
            "real",
            "reports",
            "streams",
            "unavailable",
            "waiting",
        }
    )

    def __init__(self, endpoints: int = 1, key: Key | None = None) -> None:
        self.key = key
        self.make_stream: Callable[[], FakeUpstream] = FakeUpstream
        self.streams: list[FakeUpstream] = []
        """Of all endpoints, in the order in which they were acquired."""
        self.all = [FakeEndpoint(f"endpoint-{number}", self._open) for number in range(endpoints)]
        self.endpoints = {endpoint.key: endpoint for endpoint in self.all}
        self.picked: list[tuple[str, int | None]] = []
        self.no_endpoint: NoEndpoint | None = None
        """Raised by `pick`."""
        self.unavailable: set[str] = set()
        """Models that no endpoint may be called for."""
        self.doubted: set[str] = set()
        """Models whose breakers are open: they are called if there is no fallback."""
        self.out: set[str] = set()
        """Keys of endpoints that may not be called."""
        self.latencies: dict[str, Latency] = {}

    @property
    def real(self) -> Cluster:
        """Typed as the class that it stands for."""
        return cast("Cluster", self)

    def pick(
        self,
        is_grpc: bool,
        model: str,
        now: float,
        key: int | None,
        tried: Sequence[Endpoint],
        has_fallback: bool = False,
    ) -> Endpoint:
        if self.no_endpoint is not None:
            raise self.no_endpoint
        if model in self.unavailable or (has_fallback and model in self.doubted):
            raise NoEndpoint(f"{model} is not available")
        self.picked.append((model, key))
        present = [endpoint.real for endpoint in self.all if endpoint.key not in self.out]
        if not present:
            raise NoEndpoint("no endpoint may be called")
        return next((endpoint for endpoint in present if endpoint not in tried), present[0])

    def allows(self, is_grpc: bool, model: str, now: float, tried: Sequence[Endpoint] = ()) -> bool:
        return any(endpoint.key not in self.out and endpoint.real not in tried for endpoint in self.all)

    def can_call(self, is_grpc: bool, model: str, now: float) -> bool:
        return self.allows(is_grpc, model, now)

    def skipped(self, is_grpc: bool, model: str, now: float) -> list[tuple[str, int]]:
        return [("circuit_open", len(self.out))] if self.out else []

    def pick_clean(self, is_grpc: bool, model: str, now: float) -> Endpoint | None:
        return next((endpoint.real for endpoint in self.all if endpoint.key not in self.out), None)

    def latency(self, model: str) -> Latency:
        return self.latencies.setdefault(model, Latency())

    def close(self) -> None:
        pass

    def _open(self) -> FakeUpstream:
        stream = self.make_stream()
        self.streams.append(stream)
        return stream

    # Of the first endpoint, for the many tests that need no other one

    @property
    def waiting(self) -> list[StreamWaiter]:
        """Those that wait for a stream."""
        return self.all[0].pool.waiting

    @property
    def reports(self) -> list[str]:
        """What the endpoint was told."""
        return self.all[0].reports

    @property
    def is_ready(self) -> bool:
        """Streams are given at once."""
        return self.all[0].pool.is_ready

    @is_ready.setter
    def is_ready(self, is_ready: bool) -> None:
        self.all[0].pool.is_ready = is_ready

    @property
    def error(self) -> ConnectError | None:
        """No stream can be had."""
        return self.all[0].pool.error

    @error.setter
    def error(self, error: ConnectError | None) -> None:
        self.all[0].pool.error = error

    def give(self, waiter: StreamWaiter) -> None:
        """A stream for one that has waited."""
        self.all[0].pool.give(waiter)


class FakePolicy:
    """Permits every model whose name begins with `open` (`ports.Decides`)."""

    FOR_TESTS: ClassVar = frozenset({"asked", "audits", "conditions", "parts", "permits", "told"})

    def __init__(self) -> None:
        self.asked: list[tuple[Caller, Call]] = []
        self.told: list[tuple[str, Headers | None]] = []
        self.headers: frozenset[bytes] = frozenset()
        self.audits: tuple[str, ...] = ("watched",)
        self.conditions: tuple[str, ...] = ()
        self.permits: Callable[[Call], bool] = lambda call: all(model.name.startswith("open") for model in call.models)
        self.parts: frozenset[str] = frozenset()
        """Names of parts of answers that callers may see."""

    def decide(self, caller: Caller, call: Call, remote: str, headers: Headers | None) -> Permit:
        self.asked.append((caller, call))
        self.told.append((remote, headers))
        if self.permits(call):
            return Permit("binding", self.audits, self.conditions)
        raise Refusal(Reason.PERMISSION_DENIED, "not permitted", rule="default-deny")

    def decide_partly(self, caller: Caller, call: Call, remote: str, headers: Headers | None) -> Permit | None:
        return Permit("part", (), ("only a part",)) if self.parts else None

    def may_see(self, caller: Caller, call: Call, name: str, remote: str, headers: Headers | None) -> bool:
        return name in self.parts


class FakeVerifier:
    """Knows the token `good` (`ports.Verifies`)."""

    FOR_TESTS: ClassVar = frozenset({"raises", "token"})

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
    """Continues every trace with the same ids, and begins some where it records (`ports.Tracer`)."""

    FOR_TESTS: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self.is_recording = False
        self.reads_b3 = False

    def begin(self, b3: Headers) -> tuple[TraceContext, bytes]:
        return TraceContext(b"n" * 32, b"", b"s" * 16, True), b"begun"

    def attempt(self, trace: TraceContext) -> tuple[bytes, bytes]:
        return b"a" * 16, b"attempt of " + trace.trace_id

    def carry(self, parent: bytes, states: Sequence[bytes]) -> tuple[TraceContext, bytes] | None:
        if parent == b"invalid":
            return None
        return self.go_on(parent, states)

    def go_on(self, parent: bytes, states: Sequence[bytes]) -> tuple[TraceContext, bytes]:
        return TraceContext(b"t" * 32, b"p" * 16, b"s" * 16, False, b",".join(states)), b"ours"


class FakeTraffic:
    """Records what is counted (`ports.Traffic`)."""

    FOR_TESTS: ClassVar = frozenset({"events"})

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

    def mirrored(self, direction: str, route: str, result: str) -> None:
        self.events.append(("mirrored", result))


class RecordedSink:
    """Takes an answer and records it (`attempt.AnswerSink`)."""

    FOR_TESTS: ClassVar = frozenset({"events", "is_full"})

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.is_full = False

    def send_body(self, data: bytes, flow: int, end: bool) -> bool:
        self.events.append(("body", data, flow, end))
        return not self.is_full

    def send_trailers(self, headers: Headers, status: int | None) -> None:
        self.events.append(("trailers", headers, status))


class RecordedListener:
    """Records what an attempt tells (`attempt.AttemptListener`). As `Retries` does, it cancels one that has failed."""

    FOR_TESTS: ClassVar = frozenset(
        {"errors", "events", "names", "raises", "records", "refusal", "sink", "states", "time_is_up"}
    )

    def __init__(self) -> None:
        self.request_ended = True
        self.events: list[tuple[object, ...]] = []
        self.states: list[object] = []
        """The state of the attempt at each event."""
        self.records: list[AttemptRecord] = []
        self.refusal: Refusal | None = None
        """What came with the last `failed`."""
        self.errors: list[Exception] = []
        """What `crashed` was told."""
        self.sink: AnswerSink | None = RecordedSink()
        """Who takes the answer; None: the attempt is cancelled instead."""
        self.raises: dict[str, Exception] = {}
        """Raised when an event of that name comes."""
        self.time_is_up = False
        """What `gave_up` says."""

    @property
    def names(self) -> list[object]:
        """The events without what came with them."""
        return [event[0] for event in self.events]

    def connected(self, attempt: Attempt, stream: Upstream) -> None:
        self._record(attempt, "connected")

    def failed(self, attempt: Attempt, failure: Failure, refusal: Refusal, flag: ResponseFlags | None) -> None:
        self.refusal = refusal
        self._record(attempt, "failed", failure, refusal.reason, flag)
        attempt.cancel()

    def interim(self, attempt: Attempt, head: ResponseHead) -> None:
        self._record(attempt, "interim", head.status)

    def answered(self, attempt: Attempt, head: ResponseHead, failure: Failure | None) -> AnswerSink | None:
        self._record(attempt, "answered", head.status, failure)
        if self.sink is None:
            attempt.cancel()
        return self.sink

    def failed_late(self, attempt: Attempt, failure: Failure) -> None:
        self._record(attempt, "failed_late", failure)

    def gave_up(self) -> bool:
        return self.time_is_up

    def broke(self, attempt: Attempt, failure: Failure, code: int) -> None:
        self._record(attempt, "broke", failure, code)

    def drained(self, attempt: Attempt) -> None:
        self._record(attempt, "drained")

    def reported(self, attempt: Attempt, record: AttemptRecord) -> None:
        self.records.append(record)

    def crashed(self, error: Exception) -> None:
        self.errors.append(error)

    def _record(self, attempt: Attempt, name: str, *what: object) -> None:
        self.events.append((name, *what))
        self.states.append(attempt.state)
        if name in self.raises:
            raise self.raises[name]


class Surroundings:
    """A real `ProxyContext` and snapshot around one class, and fakes around those."""

    def __init__(self, *, endpoints: int = 1, limits: BodyLimits | None = None) -> None:
        self.loop = FakeLoop()
        self.cluster = FakeCluster(endpoints)
        self.other = FakeCluster()
        self.policy = FakePolicy()
        self.traffic = FakeTraffic()
        self.finished: list[Exchange] = []
        self.limits_hit: list[str] = []
        self.draws: list[float] = []
        """What is drawn next; 0.5 when there is none left."""
        self.cpu_seconds = 0.0
        clusters: Mapping[str, Cluster] = {"main": self.cluster.real, "other": self.other.real}
        snapshot = Snapshot(
            verifier=None,
            policy=self.policy,
            routes=Routes(Route("route", "main", retry=INBOUND_RETRIES)),
            clusters=clusters,
            limits=limits or BodyLimits(),
            forwards_identity=False,
            forwards_token=False,
        )
        self.context = ProxyContext(
            loop=self.loop.real,
            now=self.loop.time,
            wall_clock=lambda: NOW,
            reaper=Reaper(self.loop.real),
            snapshot=snapshot,
            observer=lambda exchange: self.finished.append(exchange),
            tracer=FakeTracer(),
            refresh_keys=lambda issuer, then: None,
            on_limit=self.limits_hit.append,
            traffic=self.traffic,
            draw=lambda: self.draws.pop(0) if self.draws else 0.5,
            cpu_time=lambda: self.cpu_seconds,
        )

    def assert_nothing_left(self) -> None:
        """No exchange, byte, timer or waiting attempt is left, and endpoints heard once how each attempt went."""
        context = self.context
        assert context.live == set()
        assert (context.scan_buffer.total, context.replay_bytes, context.response_buffer.total) == (0, 0, 0)
        assert self.loop.pending == []
        for endpoint in self.cluster.all + self.other.all:
            began = sum(report.startswith("begin") for report in endpoint.reports)
            assert len(endpoint.reports) == 2 * began, endpoint.reports
            assert endpoint.pool.waiting == []


class RecordedRequest(Request):
    """A request alone: its hooks are recorded, and may call what a test puts there."""

    __slots__ = ("client", "hooks", "is_full", "on_abandon", "on_closed", "on_timed_out")

    def __init__(self, context: ProxyContext, client: FakeDownstream, head: RequestHead) -> None:
        stream: Downstream = client
        Request.__init__(self, context, stream, head)
        self.client = client
        self.hooks: list[str] = []
        self.is_full = False
        """The endpoint does not read what has come."""
        self.on_abandon: Callable[[], None] | None = None
        self.on_closed: Callable[[bool], None] | None = None
        self.on_timed_out: Callable[[], None] | None = None

    def abandon(self) -> None:
        self.hooks.append("abandon")
        if self.on_abandon is not None:
            self.on_abandon()

    def response_buffered(self) -> None:
        self.hooks.append("response_buffered")

    def resume(self) -> None:
        self.hooks.append("resume")

    def timed_out(self) -> None:
        self.hooks.append("timed_out")
        if self.on_timed_out is not None:
            self.on_timed_out()

    def check_progress(self, now: float) -> None:
        self.hooks.append("check_progress")

    def closed(self, is_whole: bool) -> None:
        self.hooks.append(f"closed whole={is_whole}")
        if self.on_closed is not None:
            self.on_closed(is_whole)

    def request_sent(self, takes_more: bool) -> None:
        self.hooks.append(f"request_sent takes_more={takes_more}")

    def upstream_drained(self) -> None:
        self.hooks.append("upstream_drained")

    def waits_for_client(self) -> bool:
        return not self.request_ended and not self.is_full

    def fall_back(self) -> bool:
        return True

    def rewrite(self, data: bytes, end: bool) -> bytes:
        return data
