"""What a stream promises, whichever version carries it: every conversation here is held over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_client import H1Client
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.h2_client import H2Client
from meshproxy.transport.h2_server import H2Server

WINDOW = 262_144


class Owner:
    """A pool that keeps its one connection."""

    def __init__(self) -> None:
        self.is_gone = False

    def released(self, connection: H1Client) -> None: ...
    def stream_closed(self, connection: H2Client) -> None: ...
    def retired(self, connection: H2Client) -> None: ...

    def closed(self, connection: Any) -> None:
        self.is_gone = True


class Pair:
    """Our client and our server on two ends of a wire that delivers nothing to a socket that is not read."""

    def __init__(
        self, version: str, shared: ConnectionContext, loop: Any, served: Any, make_transport: Callable[[], Any]
    ) -> None:
        self.version = version
        self.loop = loop
        self.served = served
        self.owner = Owner()
        info = ConnectionInfo(direction="inbound", protocol=version, remote="127.0.0.1:1", local="127.0.0.1:2")
        is_h1 = version == "HTTP/1.1"
        self.server = (H1Server if is_h1 else H2Server)(shared, info, served.serve, served.reject)
        self.client = (H1Client if is_h1 else H2Client)(shared, info, self.owner)
        self.server_socket, self.client_socket = make_transport(), make_transport()
        self.server.attach(self.server_socket)
        self.client.attach(self.client_socket)
        self.settle()

    def settle(self) -> None:
        """Carry bytes to and fro until nothing moves, and tell of what ended."""
        moved = True
        while moved:
            while self.loop.ready:
                self.loop.turn()
            moved = False
            for near, driver, far, other in (
                (self.client_socket, self.client, self.server_socket, self.server),
                (self.server_socket, self.server, self.client_socket, self.client),
            ):
                if far.is_reading and not far.ended and (data := near.take()):
                    moved = True
                    other.data_received(data)
                if near.ended and not getattr(near, "is_lost", False):
                    moved = near.is_lost = True
                    driver.connection_lost(None)
                    if not far.ended:
                        other.eof_received()

    def ask(self, make_sink: Callable[..., Any], end: bool = True, length: int | None = None) -> Any:
        stream = self.client if isinstance(self.client, H1Client) else self.client.open()
        sink = make_sink(stream)
        stream.sink = sink
        stream.send_request(RequestHead(0, b"POST", b"x", b"/p", ((b"a", b"b"),), end, length))
        return sink


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def pair(
    request: pytest.FixtureRequest, shared: ConnectionContext, loop: Any, served: Any, make_transport: Callable[[], Any]
) -> Pair:
    assert shared.limits.stream_window == WINDOW
    return Pair(request.param, shared, loop, served, make_transport)


def answer(request: Any, body: bytes = b"hi") -> None:
    request.stream.send_response(200, (), end=False, length=len(body))
    request.stream.send_data(body, end=True)


def test_both_messages_arrive_whole(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink, end=False)
    asked.stream.send_data(b"one ", end=False)
    pair.settle()
    asked.stream.send_data(b"two", end=True)
    pair.settle()
    (request,) = pair.served.requests
    assert (request.head.method, request.head.target, request.head.headers) == (b"POST", b"/p", ((b"a", b"b"),))
    assert (request.body, request.ended) == (b"one two", True)
    request.stream.send_response(103, ((b"link", b"x"),), end=False)
    request.stream.send_response(200, ((b"c", b"d"),), end=False)
    request.stream.send_data(b"three ", end=False)
    request.stream.send_data(b"four", end=False)
    request.stream.send_trailers(((b"e", b"f"),))
    pair.settle()
    assert [(head.status, head.headers) for head in asked.heads] == [(103, ((b"link", b"x"),)), (200, ((b"c", b"d"),))]
    assert (asked.body, asked.ended, asked.trailers) == (b"three four", True, ((b"e", b"f"),))
    assert pair.server.is_idle


def test_messages_without_a_body_end_with_their_heads(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink)
    pair.settle()
    assert pair.served.requests[0].head.end
    pair.served.requests[0].stream.send_response(200, (), end=True)
    pair.settle()
    assert asked.heads[0].end
    assert pair.server.is_idle


@pytest.mark.parametrize("who", ["request", "response"])
def test_who_gives_no_credit_gets_a_window_and_no_more(pair: Pair, make_sink: Any, who: str) -> None:
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    (request,) = pair.served.requests
    if who == "response":
        asked.stream.send_data(b"", end=True)
        request.stream.send_response(200, (), end=False)
    pair.settle()
    writer, reader = (asked, request) if who == "request" else (request, asked)
    reader.holds = True
    for _ in range(8):
        writer.stream.send_data(b"x" * (WINDOW // 4), end=False)
        pair.settle()
    assert WINDOW // 4 <= len(reader.body) <= WINDOW * 1.25  # HTTP/1.1 stops with the piece that fills its own
    seen = len(reader.body)
    reader.stream.credit(reader.owed)
    reader.owed = 0
    pair.settle()
    assert len(reader.body) > seen


def test_who_reads_nothing_is_waited_for(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    assert asked.stream.send_data(b"a", end=False)
    pair.client.pause_writing()
    assert not asked.stream.send_data(b"b", end=False)
    assert asked.drains == 0
    pair.client.resume_writing()
    assert asked.drains == 1
    assert asked.stream.send_data(b"c", end=True)
    pair.settle()
    assert pair.served.requests[0].body == b"abc"


def test_what_nobody_reads_is_dropped_and_credited(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    (request,) = pair.served.requests
    request.stream.sink = None
    for _ in range(12):
        assert asked.stream.send_data(b"x" * (WINDOW // 2), end=False)
        pair.settle()
    assert asked.stream.send_data(b"", end=True)
    pair.settle()
    assert request.body == b""
    assert not pair.server_socket.ended


def test_a_credit_that_was_never_given_does_not_stop_the_next_exchange(pair: Pair, make_sink: Any) -> None:
    """Each side keeps a whole window of the other's at the end of every exchange: more than a connection's together."""
    body = b"x" * WINDOW
    for number in range(1, 11):
        asked = pair.ask(make_sink, end=False)
        asked.holds = True
        asked.stream.send_data(b"", end=False)
        pair.settle()
        assert len(pair.served.requests) == number, "the request did not arrive"
        request = pair.served.requests[-1]
        request.holds = True
        asked.stream.send_data(body, end=True)
        pair.settle()
        assert request.ended, f"the body of request {number} did not arrive"
        answer(request, body)
        pair.settle()
        assert asked.ended, f"the answer to request {number} did not arrive"


@pytest.mark.parametrize("breaks", ["reader", "writer"])
def test_a_credit_that_was_never_given_on_a_stream_that_broke_is_not_missed(
    shared: ConnectionContext, loop: Any, served: Any, make_transport: Any, make_sink: Any, breaks: str
) -> None:
    """On HTTP/1.1 a break ends the connection; on HTTP/2 others share it."""
    pair = Pair("HTTP/2", shared, loop, served, make_transport)
    body = b"x" * WINDOW
    for _ in range(10):
        asked = pair.ask(make_sink, end=False)
        pair.settle()
        request = served.requests[-1]
        request.holds = asked.holds = True
        request.stream.send_response(200, (), end=False)
        request.stream.send_data(body, end=False)
        asked.stream.send_data(body, end=False)
        pair.settle()
        (asked if breaks == "reader" else request).stream.reset(ErrorCode.CANCEL)
        pair.settle()
        assert (request if breaks == "reader" else asked).reset is not None
    asked = pair.ask(make_sink, end=False)
    asked.stream.send_data(body, end=True)
    pair.settle()
    assert served.requests[-1].ended
    answer(served.requests[-1], body)
    pair.settle()
    assert asked.ended


def test_a_late_credit_does_not_widen_the_window(pair: Pair, make_sink: Any) -> None:
    """Whoever held the end of one exchange lets go of it during the next."""
    for _ in range(2):
        asked = pair.ask(make_sink)
        pair.settle()
        asked.holds = True
        answer(pair.served.requests[-1], b"x" * WINDOW)
        pair.settle()
        assert asked.ended
    last = pair.ask(make_sink)
    pair.settle()
    last.holds = True
    asked.stream.credit(WINDOW)
    pair.served.requests[-1].stream.send_response(200, (), end=False)
    for _ in range(8):
        pair.served.requests[-1].stream.send_data(b"y" * (WINDOW // 4), end=False)
        pair.settle()
    assert len(last.body) <= WINDOW * 1.25


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_told_to_the_other_side_and_nobody_else(pair: Pair, make_sink: Any, side: str) -> None:
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    (request,) = pair.served.requests
    ours, theirs = (asked, request) if side == "client" else (request, asked)
    ours.stream.reset(ErrorCode.CANCEL)
    pair.settle()
    assert ours.reset is None
    assert theirs.reset is not None
    assert theirs.reset[0] == ErrorCode.CANCEL
    assert not theirs.ended


def test_commands_on_a_dead_stream_do_nothing(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    (request,) = pair.served.requests
    asked.stream.reset(ErrorCode.CANCEL)
    pair.settle()
    for stream in (asked.stream, request.stream):
        assert stream.send_data(b"x", end=False)
        stream.send_trailers(())
        stream.credit(10_000_000)
        stream.reset(ErrorCode.CANCEL)
    request.stream.send_response(200, (), end=False)
    request.stream.stop_receiving()
    asked.stream.stop_sending()
    pair.settle()
    assert asked.heads == []
    assert request.body == b""


def test_an_answer_before_the_requests_end_reaches_the_client(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink, end=False, length=10)
    asked.stream.send_data(b"abc", end=False)
    pair.settle()
    (request,) = pair.served.requests
    answer(request, b"no")
    request.stream.sink = None
    request.stream.stop_receiving()
    pair.settle()
    assert (asked.heads[0].status, asked.body, asked.ended) == (200, b"no", True)
    asked.stream.stop_sending()
    asked.stream.send_data(b"defghij", end=True)
    pair.settle()


@pytest.mark.parametrize("breaks", ["not at all", "malformed", "too large"])
def test_what_comes_behind_an_early_answer_cannot_break_anything(
    pair: Pair, make_sink: Any, breaks: str, limits_hit: list[str]
) -> None:
    """Neither an exception nor a second answer: the first one is on its way."""
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    answer(pair.served.requests[0])
    pair.served.requests[0].stream.sink = None
    if breaks != "not at all":
        # HTTP/1.1 in chunks; on HTTP/2 these bytes are no frame at all.
        garbage = b"zz\r\n" if breaks == "malformed" else b"5;" + b"e" * 5_000 + b"\r\nhello\r\n"
        pair.server.data_received(garbage)
    pair.settle()
    assert asked.ended
    assert pair.served.rejected == []
    assert len(pair.served.requests) == 1


def requests_in_bytes(version: str) -> Iterator[bytes]:
    """As many as anybody wants, whatever became of those before."""
    if version == "HTTP/1.1":
        while True:
            yield b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    codec = H2Connection(Role.CLIENT, Limits(), 0.0)
    codec.take_output()
    codec.send_request(b"GET", b"http", b"x", b"/", (), end=True)
    frame = codec.take_output()
    for number in count(1, 2):
        yield frame[:5] + number.to_bytes(4, "big") + frame[9:]


def test_a_client_that_asks_and_never_reads_is_not_served_on(pair: Pair) -> None:
    """Its answers, and what remembers them, would take our memory (CVE-2013-4450, CVE-2019-9517)."""
    pair.server.pause_writing()
    asking = requests_in_bytes(pair.version)
    for _ in range(1_000):
        if pair.server_socket.is_reading and not pair.server_socket.ended:
            pair.server.data_received(next(asking))
        for request in pair.served.requests:
            if request.stream.sink is request:
                answer(request)
                request.stream.sink = None
        while pair.loop.ready:
            pair.loop.turn()
    assert len(pair.served.requests) <= pair.server.shared.limits.streams


def test_what_breaks_a_rule_behind_an_answer_in_the_same_read_is_nobodys(
    shared: ConnectionContext, loop: Any, served: Any, make_transport: Any, make_sink: Any
) -> None:
    """Head and body come at once, the head is answered at once, and then the body turns out to be too long."""
    shared.limits = Limits(body_bytes=3)

    def refuse(stream: Any, head: RequestHead) -> None:
        served.serve(stream, head)
        stream.send_response(403, (), end=True)
        stream.sink = None
        stream.stop_receiving()

    pair = Pair("HTTP/2", shared, loop, SimpleNamespace(serve=refuse, reject=served.reject), make_transport)
    asked = pair.ask(make_sink, end=False)
    asked.stream.send_data(b"too long", end=True)
    pair.settle()
    assert asked.heads[0].status == 403
    assert len(served.requests) == 1
    assert served.rejected == []
    assert pair.server.is_idle


def test_a_lost_connection_ends_every_stream_once(pair: Pair, make_sink: Any) -> None:
    asked = pair.ask(make_sink, end=False)
    pair.settle()
    pair.client_socket.abort()
    pair.settle()
    (request,) = pair.served.requests
    assert asked.reset is not None
    assert request.reset is not None
    assert pair.owner.is_gone
    assert len(pair.client.shared.reaper) == 0
