"""A network without sockets: a loop whose time is a number, and transports that remember what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Headers, RequestHead, ResponseHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.frames import PING
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h2_client import H2Client, H2ClientStream
from meshproxy.transport.h2_server import H2Server
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from tests.processor_time import reads_take_no_time  # noqa: F401 - a fixture of every test here


class FakeLoop:
    """Time stands still, callbacks wait for `turn`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ready: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.later: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self.ready.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        self.later.append((self.now + delay, callback, args))

    def passes(self, seconds: float) -> None:
        """Time passes, and timers expire."""
        self.now += seconds
        due = [timer for timer in self.later if timer[0] <= self.now]
        self.later = [timer for timer in self.later if timer[0] > self.now]
        for _, callback, args in due:
            callback(*args)

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for callback, args in ready:
            callback(*args)


class FakeTransport:
    """A connected socket: what was written, whether it is read, how it ended."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_reading = True
        self.pauses = 0
        self.ended = ""
        self.wrote_eof = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        assert not self.ended, "written after the end"
        self.written.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def take(self) -> bytes:
        data = b"".join(self.written)
        self.written.clear()
        return data

    def pause_reading(self) -> None:
        self.is_reading = False
        self.pauses += 1

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.wrote_eof = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"


class Listening:
    """A sink that writes down what it is told. Credits everything unless `holds`."""

    def __init__(self, stream: Any, head: RequestHead | None = None) -> None:
        self.stream = stream
        self.head = head
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.owed = 0
        self.holds = False
        self.ended = False
        self.trailers: Headers | None = None
        self.reset: tuple[int, str] | None = None
        self.rejections: list[Any] = []
        self.drains = 0

    def head_received(self, head: ResponseHead) -> None:
        self.heads.append(head)
        self.ended = head.end

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        assert not self.ended
        self.body += data
        self.ended = end
        if self.holds:
            self.owed += flow
        else:
            self.stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        assert not self.ended
        self.trailers = headers
        self.ended = True

    def reset_received(self, code: int, reason: str) -> None:
        assert self.reset is None
        self.reset = (code, reason)

    def rejected(self, rejected: Any) -> None:
        self.rejections.append(rejected)

    def drained(self) -> None:
        self.drains += 1


class Served:
    """A `serve` and a `reject` that keep what they get."""

    def __init__(self) -> None:
        self.requests: list[Listening] = []
        self.rejected: list[Any] = []

    def serve(self, stream: Any, head: RequestHead) -> None:
        stream.sink = Listening(stream, head)
        self.requests.append(stream.sink)

    def reject(self, stream: Any, rejected: Any) -> None:
        stream.sink = Listening(stream)
        self.rejected.append(rejected)
        body = rejected.reason.encode()
        stream.send_response(rejected.status, (), end=False, length=len(body))
        stream.send_data(body, end=True)


class Pool:
    def __init__(self) -> None:
        self.freed_streams = 0
        self.is_retired = False
        self.is_gone = False
        self.on_retired: Callable[[], None] = lambda: None

    def stream_closed(self, connection: H2Client) -> None:
        self.freed_streams += 1

    def retired(self, connection: H2Client) -> None:
        self.is_retired = True
        self.on_retired()

    def closed(self, connection: H2Client) -> None:
        self.is_gone = True


class Wire:
    """Two drivers and the bytes between them."""

    def __init__(
        self, shared: ConnectionContext, loop: FakeLoop, info: ConnectionInfo, served: Served, transports: list[Any]
    ) -> None:
        self.loop = loop
        self.pool = Pool()
        self.server = H2Server(shared, info, served.serve, served.reject)
        self.client = H2Client(shared, info, self.pool)
        self.server_socket, self.client_socket = transports
        self.server.attach(self.server_socket)
        self.client.attach(self.client_socket)

    def settle(self) -> None:
        """Carry bytes to and fro until nothing moves."""
        moved = True
        while moved:
            while self.loop.ready:
                self.loop.turn()
            moved = False
            for source, sink in ((self.client_socket, self.server), (self.server_socket, self.client)):
                data = source.take()
                if data:
                    moved = True
                    sink.data_received(data)

    def sweep(self, seconds: float = 0.0) -> None:
        """Time passes, then the reaper looks. Nothing is carried to and fro."""
        self.loop.passes(seconds)
        self.client.shared.reaper.sweep(self.loop.now)
        self.loop.turn()

    def pings(self) -> int:
        """How many have reached the server."""
        return self.server.codec.frames_received[PING]

    def ask(self, sink_type: Callable[..., Any], end: bool = True, length: int | None = None) -> Any:
        stream: H2ClientStream = self.client.open()
        sink = sink_type(stream)
        stream.sink = sink
        stream.send_request(RequestHead(0, b"POST", b"x", b"/p", ((b"a", b"b"),), end, length))
        return sink


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def limits_hit() -> list[str]:
    return []


@pytest.fixture
def shared(loop: FakeLoop, limits_hit: list[str]) -> ConnectionContext:
    return ConnectionContext(
        loop=loop,  # type: ignore[arg-type]
        outbox=Outbox(loop),  # type: ignore[arg-type]
        reaper=Reaper(loop),  # type: ignore[arg-type]
        limits=Limits(),
        times=Times(),
        on_limit=limits_hit.append,
    )


@pytest.fixture
def info() -> ConnectionInfo:
    return ConnectionInfo(direction="inbound", protocol="", remote="127.0.0.1:40000", local="127.0.0.1:18500")


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def make_transport() -> Callable[[], FakeTransport]:
    return FakeTransport


@pytest.fixture
def make_sink() -> Callable[..., Listening]:
    return Listening


@pytest.fixture
def wire(
    shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Callable[[], Any]
) -> Wire:
    wire = Wire(shared, loop, info, served, [make_transport(), make_transport()])
    wire.settle()
    return wire


@pytest.fixture
def make_wire() -> type[Wire]:
    return Wire


class Owner:
    """A pool that does not care."""

    def stream_closed(self, connection: Any) -> None: ...
    def retired(self, connection: Any) -> None: ...
    def closed(self, connection: Any) -> None: ...


class MemoryServer:
    """A source of streams (`client.StreamSource`) over one HTTP/2 connection in memory. At its other end stands a
    server's codec, which the test drives; `run` carries bytes both ways until nothing moves any more."""

    def __init__(self, shared: ConnectionContext, limits: Limits) -> None:
        self.address = "10.0.0.1:8500"
        self.shared = shared
        self.codec = H2Connection(Role.SERVER, limits, 0.0)
        self.transport = FakeTransport()
        info = ConnectionInfo(direction="upstream", protocol="HTTP/2", remote=self.address, local="")
        self.client = H2Client(shared, info, Owner())
        self.client.attach(self.transport)  # type: ignore[arg-type]
        self.events: list[Any] = []
        self.withdrawn: list[Any] = []
        self.run()

    def acquire(self, taker: Any) -> None:
        taker.acquired(self.client.open())

    def withdraw(self, taker: Any) -> None:
        self.withdrawn.append(taker)

    def run(self) -> None:
        while True:
            self.shared.outbox.flush()
            sent = self.transport.take()
            self.events += self.codec.receive(sent, 0.0)
            came = self.codec.take_output()
            if came:
                self.client.data_received(came)
            if not sent and not came:
                return

    def take(self, kind: type) -> list[Any]:
        """The events of one kind since the last time."""
        found = [event for event in self.events if type(event) is kind]
        self.events = [event for event in self.events if type(event) is not kind]
        return found


@pytest.fixture
def make_server(shared: ConnectionContext) -> Callable[..., MemoryServer]:
    def make(limits: Limits | None = None) -> MemoryServer:
        return MemoryServer(shared, limits or Limits())

    return make
