"""What a client's connection does: requests, refusals, leaving, idle."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from types import SimpleNamespace
from typing import Any

import hpack
import pytest

from meshproxy.codec.events import RequestHead, ResponseHead
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import END_HEADERS, END_STREAM, HEADERS
from meshproxy.codec.h2.patience import Patience
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.transport.connection import REST_SECONDS, ConnectionContext
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h2_server import ENDED_AT_ONCE, PAUSE, PINGED_PERIODS, QUIET, UNREAD_BUDGET, H2Server

POST = ((":method", "POST"), (":scheme", "http"), (":path", "/p"), (":authority", "a"))
AT_REST = 8_192
"""Bytes; TLS takes 30 KB more, and uvloop a few."""


def test_a_request_whose_client_has_left_is_not_served(wire: Any, served: Any, make_sink: Any) -> None:
    """The reset was read together with the request, as happens when there is too much to do."""
    left, other = wire.ask(make_sink, end=False), wire.ask(make_sink)
    left.stream.send_data(b"body", end=False)
    left.stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert len(served.requests) == 1
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert other.heads[0].status == 200
    assert wire.server.is_idle


LATEST = 2**31 - 1
"""The last stream of a GOAWAY that announces another one (RFC 9113 section 6.8)."""


def goaways(output: bytes) -> list[int]:
    """The last stream of each GOAWAY in the output of a server."""
    found = []
    while output:
        size, kind = int.from_bytes(output[:3]), output[3]
        if kind == frames.GOAWAY:
            found.append(int.from_bytes(output[9:13]))
        output = output[9 + size :]
    return found


class Leaving:
    """A server that is shut down, and a client that was not our own: it keeps sending."""

    def __init__(self, wire: Any, served: Any) -> None:
        self.wire = wire
        self.served = served
        self.codec = H2Connection(Role.CLIENT, Limits(), 0.0)
        self.told: list[int] = []
        """The last stream of each GOAWAY, in order."""
        self.answered: list[int] = []
        wire.server_socket.take()

    def settle(self) -> None:
        """Everything that was written arrives."""
        while True:
            while self.wire.loop.ready:
                self.wire.loop.turn()
            output = self.wire.server_socket.take()
            self.told += goaways(output)
            for event in self.codec.receive(output, 0.0):
                if isinstance(event, ResponseHead):
                    self.answered.append(event.stream)
            sent = self.codec.take_output()
            if not sent and not output:
                return
            if sent:
                self.wire.server.data_received(sent)

    def ask(self) -> int:
        number = self.codec.send_request(b"GET", b"http", b"x", b"/", (), end=True)
        self.settle()
        return number

    def answer(self) -> None:
        """The oldest request."""
        self.served.requests.pop(0).stream.send_response(200, (), end=True)
        self.settle()

    def passes(self, seconds: float) -> None:
        self.wire.sweep(seconds)
        self.settle()


@pytest.fixture
def leaving(shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any) -> Leaving:
    server = H2Server(shared, info, served.serve, served.reject)
    socket = make_transport()
    server.attach(socket)
    client = Leaving(SimpleNamespace(server=server, server_socket=socket, loop=loop, sweep=None), served)

    def sweep(seconds: float) -> None:
        loop.passes(seconds)
        shared.reaper.sweep(loop.now)

    client.wire.sweep = sweep
    server.data_received(client.codec.take_output())
    client.settle()
    return client


def raw_request(number: int, *fields: tuple[bytes, bytes]) -> bytes:
    """HEADERS that end a GET."""
    block = hpack.Encoder().encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/p"), *fields])
    return len(block).to_bytes(3, "big") + b"\x01\x05" + number.to_bytes(4, "big") + block


class TestDrain:
    def test_between_two_requests_the_client_is_asked_at_once(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.answer()
        leaving.wire.server.drain()
        assert not leaving.told
        leaving.settle()
        assert leaving.told == [LATEST, 1]  # the second after the round trip of the PING
        assert leaving.wire.server.is_announced

    def test_nothing_is_said_before_the_first_request(self, leaving: Leaving) -> None:
        leaving.wire.server.drain()
        leaving.passes(5.0)
        assert leaving.told == []
        assert not leaving.wire.server.is_announced
        leaving.ask()
        assert leaving.told in ([], [LATEST, 1])
        leaving.answer()
        leaving.passes(0.25)
        assert (leaving.told, leaving.answered) == ([LATEST, 1], [1])

    def test_goaway_waits_until_no_stream_is_open(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.wire.server.drain(patience=2.0)
        leaving.passes(1.0)
        assert leaving.told == []
        leaving.answer()
        assert leaving.told == []  # not in one read with the response
        leaving.passes(0.25)
        assert leaving.told == [LATEST, 1]

    def test_a_client_is_asked_in_the_pause_after_a_response(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.answer()
        leaving.passes(QUIET / 2)
        leaving.wire.server.drain(patience=2.0)
        leaving.passes(PAUSE)
        assert leaving.told == [], "the next request may be on its way"
        leaving.ask()
        leaving.answer()
        leaving.wire.loop.passes(PAUSE / 2)
        leaving.ask()
        leaving.wire.loop.passes(PAUSE)
        assert leaving.told == []
        leaving.answer()
        leaving.wire.loop.passes(PAUSE)
        leaving.settle()
        assert leaving.told == [LATEST, 5]

    def test_a_client_that_has_paused_for_longer_is_asked_by_the_sweep(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.answer()
        leaving.wire.server.drain(patience=2.0)
        leaving.passes(QUIET - 0.01)
        assert leaving.told == []
        leaving.passes(0.02)
        assert leaving.told == [LATEST, 1]

    @pytest.mark.parametrize("occasion", ["a request", "the sweep"])
    def test_but_not_for_ever(self, leaving: Leaving, occasion: str) -> None:
        leaving.ask()
        leaving.wire.server.drain(patience=2.0)
        if occasion == "a request":
            leaving.wire.loop.now += 2.1
            assert leaving.ask() == 3
            assert leaving.told == [LATEST, 3]  # it is served
            leaving.answer()
        else:
            leaving.passes(2.1)
            assert leaving.told == [LATEST, 1]
        leaving.answer()
        assert leaving.answered[-1] == (3 if occasion == "a request" else 1)

    def test_a_delay_lets_the_client_stay_a_while(self, leaving: Leaving) -> None:
        leaving.wire.server.drain(delay=1.0, patience=2.0)
        for _ in range(3):
            leaving.ask()
            leaving.answer()
            leaving.passes(0.25)
        assert leaving.told == []
        leaving.passes(0.5)
        assert leaving.told == [LATEST, 5]

    def test_a_later_drain_is_quicker_and_none_asks_twice(self, leaving: Leaving) -> None:
        leaving.wire.server.drain(delay=10.0, patience=2.0)
        leaving.ask()
        leaving.wire.server.drain()
        leaving.settle()
        assert leaving.told == [LATEST, 1]
        leaving.wire.server.drain()
        leaving.wire.server.announce()
        leaving.settle()
        assert leaving.told == [LATEST, 1]

    def test_what_was_sent_before_the_last_stream_was_named_is_served_and_nothing_later(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.answer()
        leaving.wire.server.drain()
        leaving.codec.send_request(b"GET", b"http", b"x", b"/", (), end=True)  # crosses GOAWAY and PING
        leaving.wire.server.data_received(leaving.codec.take_output())
        leaving.settle()
        assert leaving.told == [LATEST, 3]
        assert len(leaving.served.requests) == 1
        leaving.wire.server.data_received(frames.frame(HEADERS, END_STREAM | END_HEADERS, 5, b"\x82"))
        assert len(leaving.served.requests) == 1

    def test_the_connection_is_closed_when_its_last_stream_has_ended(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.wire.server.drain()
        leaving.passes(60.0)
        leaving.answer()
        leaving.passes(1.0)
        assert not leaving.wire.server_socket.ended
        leaving.passes(1.5)
        assert leaving.wire.server_socket.ended == "closed"
        assert leaving.told == [LATEST, 1]

    def test_a_slow_reader_of_the_last_response_is_not_cut(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.wire.server.drain(patience=2.0)
        leaving.answer()
        leaving.wire.server.pause_writing()
        leaving.wire.server_socket.unsent = 60_000
        leaving.passes(0.25)
        assert leaving.told == [LATEST, 1]
        for _ in range(3):
            leaving.passes(2.25)
            assert leaving.wire.server_socket.ended != "aborted"
            leaving.wire.server_socket.unsent -= 10_000

    def test_closing_names_the_last_stream(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.answer()
        leaving.wire.server.close()
        assert goaways(leaving.wire.server_socket.take()) == [1]
        assert leaving.wire.server_socket.ended == "closed"

    def test_a_response_may_close_the_connection(self, leaving: Leaving) -> None:
        leaving.ask()
        leaving.ask()
        stream = leaving.served.requests.pop(0).stream
        stream.close_connection()
        stream.send_response(401, (), end=True)
        leaving.settle()
        assert leaving.answered == [1]
        assert leaving.told == [LATEST, 3]
        leaving.answer()
        assert leaving.answered == [1, 3]


def test_our_client_leaves_when_it_is_asked(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink)
    wire.settle()
    wire.server.drain()
    wire.settle()
    assert wire.pool.is_retired
    assert not wire.client.can_open
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert asked.heads[0].status == 200
    assert wire.client_socket.ended == "closed"


def test_a_refused_head_is_answered(wire: Any, served: Any, make_sink: Any, limits_hit: list[str]) -> None:
    stream = wire.client.open()
    stream.sink = asked = make_sink(stream)
    stream.send_request(RequestHead(0, b"GET", b"x", b"/" + b"a" * 9_000, (), end=True))
    wire.settle()
    assert asked.heads[0].status == 414
    assert served.rejected[0].limit == "target_bytes"
    assert limits_hit == ["target_bytes"]


def test_a_client_that_takes_no_heads_hurts_nobody_else(wire: Any, served: Any, make_sink: Any) -> None:
    wire.server.codec.receive(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x01", 0.0)
    wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    request.stream.send_response(200, ((b"a", b"b"),), end=False)
    assert request.reset is not None
    request.stream.send_data(b"x", end=True)
    assert wire.server.streams == {}


def test_a_body_over_the_limit_is_its_readers_to_answer(
    shared: ConnectionContext,
    loop: Any,
    info: ConnectionInfo,
    served: Any,
    make_wire: Any,
    make_transport: Any,
    make_sink: Any,
) -> None:
    shared.limits = Limits(body_bytes=10)
    wire = make_wire(shared, loop, info, served, [make_transport(), make_transport()])
    wire.settle()
    asked = wire.ask(make_sink, end=False)
    asked.stream.send_data(b"x" * 11, end=False)
    wire.settle()
    (request,) = served.requests
    assert [rejected.status for rejected in request.rejections] == [413]
    assert served.rejected == []
    request.stream.send_response(413, (), end=True)
    wire.settle()
    assert asked.heads[0].status == 413
    assert wire.server.is_idle


def test_an_idle_connection_is_closed(wire: Any, shared: ConnectionContext, loop: Any) -> None:
    shared.reaper.sweep(loop.now + shared.times.idle + 1)
    assert wire.server_socket.ended == "closed"


def test_a_connection_at_rest_serves(wire: Any, served: Any, make_sink: Any, shared: ConnectionContext) -> None:
    for _ in range(3):
        asked = wire.ask(make_sink)
        wire.settle()
        served.requests[-1].stream.send_response(200, ((b"a", b"b"),), end=True)
        wire.settle()
        assert asked.heads[0].headers == ((b"a", b"b"),)
        wire.sweep(REST_SECONDS + 1)
        assert not wire.server_socket.ended
    wire.sweep(shared.times.idle - 2 * REST_SECONDS)
    assert not wire.server_socket.ended
    wire.sweep(2 * REST_SECONDS)
    assert wire.server_socket.ended == "closed"


@pytest.mark.parametrize("remembers", [True, False])
def test_heads_are_kept_for_clients_that_repeat_them(
    shared: ConnectionContext, served: Any, wire: Any, remembers: bool
) -> None:
    shared.remembers_heads = remembers
    info = ConnectionInfo(direction="inbound", protocol="HTTP/2", remote="", local="")
    server = H2Server(shared, info, served.serve, served.reject)
    server.attach(wire.server_socket)
    server.data_received(frames.PREFACE + frames.settings([]) + frames.SETTINGS_ACK)
    encoder = hpack.Encoder()
    for number in (1, 3, 5):
        server.data_received(frames.header_frames(number, encoder.encode(POST), True, frames.DEFAULT_FRAME_BYTES))
    first, second, third = (request.head.headers for request in served.requests)
    assert first == second == third
    assert bool(server.codec._reader._requests) == remembers


@pytest.mark.parametrize("calls", [1, 40])
def test_what_a_connection_at_rest_holds(wire: Any, served: Any, shared: ConnectionContext, calls: int) -> None:
    """Bytes of our objects for each connection, after calls with thirty fields that no other call had."""
    encoder = hpack.Encoder()
    heads = []
    for call in range(calls):
        block = encoder.encode([*POST, *((f"x-field-{field}", f"value {field} of call {call}") for field in range(30))])
        heads.append(frames.header_frames(2 * call + 1, block, True, frames.DEFAULT_FRAME_BYTES))

    def connect() -> H2Server:
        info = ConnectionInfo(direction="inbound", protocol="HTTP/2", remote="", local="")
        server = H2Server(shared, info, served.serve, served.reject)
        server.attach(wire.server_socket)
        server.data_received(frames.PREFACE + frames.settings([]) + frames.SETTINGS_ACK)
        for call, head in enumerate(heads):
            server.data_received(head)
            served.requests.pop().stream.send_response(200, ((b"x-answer", b"%d" % call),), end=True)
            server.flush()
        return server

    servers = [connect()]
    wire.sweep(REST_SECONDS + 1)  # what the interpreter keeps of code that runs, if it is measured
    gc.collect()
    tracemalloc.start(1)
    try:
        servers += [connect() for _ in range(8)]
        wire.server_socket.take()
        awake = tracemalloc.get_traced_memory()[0] / 8
        wire.sweep(REST_SECONDS + 1)
        gc.collect()
        resting = tracemalloc.get_traced_memory()[0] / 8
    finally:
        tracemalloc.stop()
    assert awake > AT_REST + 2_048, "the calls were not worth remembering"
    assert resting < AT_REST


def test_a_busy_connection_is_not(wire: Any, served: Any, make_sink: Any, shared: ConnectionContext, loop: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    shared.reaper.sweep(loop.now + shared.times.idle + 1)
    assert not wire.server_socket.ended
    assert not wire.client_socket.ended


def test_a_malformed_head_is_reported_once_and_its_line_is_suppressed_for_a_while(
    wire: Any, served: Any, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.settle()
    with caplog.at_level(logging.INFO):
        for number in (1, 3):
            wire.server.data_received(raw_request(number, (b":authority", b"a"), (b"connection", b"close")))
        assert [(rejected.is_reset, rejected.status) for rejected in served.rejected] == [(True, 400)] * 2
        loop.now += 10.0
        wire.server.data_received(raw_request(5))
        wire.server.data_received(raw_request(7, (b":authority", b"a"), (b"connection", b"close")))
    line = (
        "reset an HTTP/2 stream from 127.0.0.1:40000: the client broke the protocol (%s): correct or update the client"
    )
    suppressed = " (lines suppressed before: 1)"
    assert caplog.messages == [
        line % "connection is not allowed here",
        line % "neither :authority nor host" + suppressed,
        line % "connection is not allowed here",
    ]
    loop.turn()
    assert wire.server_socket.take().count(b"\x00\x00\x04\x03\x00\x00\x00\x00") == 4  # RST_STREAM
    assert wire.server.is_idle
    assert wire.server.codec.statistics.heads_malformed == 4


def test_a_violation_that_ends_the_connection_is_reported(
    wire: Any, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.settle()
    with caplog.at_level(logging.INFO):
        wire.server.data_received(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00")  # DATA on stream 0
    (record,) = caplog.records
    assert "closed the HTTP/2 connection from 127.0.0.1:40000" in record.getMessage()
    assert "DATA on stream 0" in record.getMessage()
    assert wire.server.codec.statistics.connections_failed == 1


def test_a_client_that_does_not_read_gets_no_further_streams_until_it_does(
    wire: Any, served: Any, make_sink: Any, limits_hit: list[str]
) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.pause_writing()
    wire.server_socket.unsent = UNREAD_BUDGET + 1
    refused = wire.ask(make_sink)
    wire.settle()
    assert refused.reset == (ErrorCode.REFUSED_STREAM, "the peer reset the stream")
    assert limits_hit == ["unread_bytes"]
    wire.server_socket.unsent = 0
    wire.server.resume_writing()
    wire.ask(make_sink)
    wire.settle()
    assert len(served.requests) == 2


class Neither:
    """A lane that carries nothing."""

    def carry(self, *_: Any) -> bool:
        return False

    def follow(self, request: Any) -> None: ...


def test_refusals_that_are_not_read_are_counted_as_other_responses_are(
    shared: ConnectionContext, leaving: Leaving, limits_hit: list[str]
) -> None:
    """Also those of requests that come whole, which an express lane would be asked about."""
    codec, server = leaving.codec, leaving.wire.server
    leaving.ask()
    server.streams[1].open_lane(Neither)
    leaving.answer()
    server.codec.patience = Patience(0, 0.0)
    shared.overload.is_shedding = True

    def refused() -> str:
        for _ in range(2):  # the first one shows the shape of the second
            number = codec.send_request(b"POST", b"http", b"x", b"/", (), end=False)
            codec.send_data(number, b"x", True)
            server.data_received(codec.take_output())
            server.flush()
            event = codec.receive(leaving.wire.server_socket.take(), 0.0)[-1]
        return type(event).__name__

    assert refused() == "ResponseHead"
    server.pause_writing()
    leaving.wire.server_socket.unsent = UNREAD_BUDGET + 1
    assert refused() == "Reset"
    assert limits_hit.count("unread_bytes") == 2
    leaving.wire.server_socket.unsent = 0
    server.resume_writing()
    assert refused() == "ResponseHead"


def test_a_pause_of_a_client_among_32_large_responses_refuses_nothing(wire: Any, served: Any, make_sink: Any) -> None:
    wire.settle()
    wire.server.pause_writing()
    wire.server_socket.unsent = 32 * 131_072  # two reads of each, as much as waits until their senders pause
    wire.ask(make_sink)
    wire.settle()
    assert len(served.requests) == 1


def test_as_many_streams_as_envoy_takes(wire: Any, served: Any, make_sink: Any) -> None:
    wire.settle()
    asked = [wire.ask(make_sink) for _ in range(1_024)]
    wire.settle()
    assert len(served.requests) == 1_024
    for sink in asked:
        sink.stream.reset(ErrorCode.CANCEL)  # all at once, which is no attack
    wire.settle()
    assert not wire.server.is_closing
    assert wire.server.is_idle


class TestPing:
    """A client that keeps its channel alive without calls."""

    def passes(self, leaving: Leaving, shared: ConnectionContext, *, pings: bool) -> bool:
        """A bit more than the idle time limit passes. Returns whether the connection is still open."""
        if pings:
            leaving.codec.ping(b"pingpong")
            leaving.settle()
        leaving.passes(shared.times.idle + 1)
        return not leaving.wire.server_socket.ended

    @pytest.mark.parametrize("has_asked", [False, True])
    def test_it_keeps_an_idle_connection_for_a_while(
        self, leaving: Leaving, shared: ConnectionContext, has_asked: bool
    ) -> None:
        if has_asked:
            leaving.ask()
            leaving.answer()
        stays = [self.passes(leaving, shared, pings=True) for _ in range(PINGED_PERIODS)]
        assert stays == [True] * (PINGED_PERIODS - 1) + [False]

    def test_one_that_stops_is_closed(self, leaving: Leaving, shared: ConnectionContext) -> None:
        assert self.passes(leaving, shared, pings=True)
        assert not self.passes(leaving, shared, pings=False)

    def test_a_request_begins_it_anew(self, leaving: Leaving, shared: ConnectionContext) -> None:
        for _ in range(3):
            assert all(self.passes(leaving, shared, pings=True) for _ in range(PINGED_PERIODS - 1))
            leaving.ask()
            leaving.answer()


def test_who_is_refused_everything_is_not_forgotten_as_one_that_rests(
    shared: ConnectionContext, leaving: Leaving
) -> None:
    patience = leaving.wire.server.codec.patience = Patience(0, 0.0)
    leaving.ask()
    leaving.answer()
    shared.overload.is_shedding = True
    leaving.wire.sweep(2 * REST_SECONDS)
    assert leaving.wire.server.codec.patience is patience
    shared.overload.is_shedding = False
    leaving.wire.sweep(REST_SECONDS + 1)
    assert leaving.wire.server.codec.patience is None


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(("content_type", "status"), [(b"application/grpc", 200), (b"application/json", 503)])
def test_what_is_shed_is_answered_and_not_served(
    shared: ConnectionContext, leaving: Leaving, limits_hit: list[str], content_type: bytes, status: int, ended: bool
) -> None:
    shared.overload.responses = ((b"grpc-status", b"8"),), ((b"retry-after", b"1"),)
    shared.overload.is_shedding = True
    codec, server = leaving.codec, leaving.wire.server
    leaving.ask()
    assert len(leaving.served.requests) == 1, "a client that waits is served"
    leaving.answer()
    server.codec.patience = Patience(0, 0.0)  # one that does not
    number = codec.send_request(b"POST", b"http", b"x", b"/", ((b"content-type", content_type),), end=ended)
    server.data_received(codec.take_output())
    server.flush()
    events = codec.receive(leaving.wire.server_socket.take(), 0.0)
    head = events[0]
    assert isinstance(head, ResponseHead)
    assert (head.status, head.headers, head.end) == (status, shared.overload.responses[status == 503], True)
    # A client that is still sending need not go on (RFC 9113 section 8.1).
    assert [type(event).__name__ for event in events[1:]] == ([] if ended else ["Reset"])
    assert leaving.served.requests == []
    assert limits_hit == ["overload"]
    assert server.is_idle
    if not ended:
        server.data_received(frames.frame(frames.DATA, END_STREAM, number, b"late"))
    shared.overload.is_shedding = False
    leaving.ask()
    assert len(leaving.served.requests) == 1


def test_requests_end_in_turns_with_their_connection(
    wire: Any, shared: ConnectionContext, loop: Any, served: Any, make_sink: Any
) -> None:
    count = 3 * ENDED_AT_ONCE + 1
    asked = [wire.ask(make_sink) for _ in range(count)]
    wire.settle()
    assert len(served.requests) == count
    wire.server.connection_lost(None)
    ended = [sum(request.reset is not None for request in served.requests)]
    served.requests[-1].stream.send_response(200, (), end=True)  # goes nowhere
    while len(shared.turns):
        loop.turn()
        ended.append(sum(request.reset is not None for request in served.requests))
    assert ended == [ENDED_AT_ONCE, 2 * ENDED_AT_ONCE, 3 * ENDED_AT_ONCE, count - 1]
    assert {request.reset[0] for request in served.requests[:-1]} == {ErrorCode.CANCEL}
    assert wire.server_socket.take() == b""
    assert not any(each.heads for each in asked)


def test_nothing_waits_for_the_socket_of_a_connection_that_has_ended(
    wire: Any, shared: ConnectionContext, loop: Any, served: Any, make_sink: Any
) -> None:
    for _ in range(ENDED_AT_ONCE + 1):
        wire.ask(make_sink)
    wire.settle()
    wire.server.pause_writing()
    wire.server.connection_lost(None)
    served.requests[-1].stream.send_response(200, (), end=False)
    served.requests[-1].stream.send_data(b"late", end=True)
    while len(shared.turns):
        loop.turn()
    assert served.requests[-1].reset is not None
    assert wire.server.waiting == []
