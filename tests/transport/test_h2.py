"""Conversations of the HTTP/2 drivers: our client and our server on two ends of a wire without sockets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.frames import PING
from meshproxy.codec.limits import Limits
from meshproxy.transport.connection import Driving, Times
from meshproxy.transport.facts import ConnectionFacts
from meshproxy.transport.h2 import (
    CANCEL,
    LIFE_PING,
    NO_ERROR,
    REFUSED_STREAM,
    H2Client,
    H2Server,
    H2Stream,
)
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import PERIOD, Reaper
from meshproxy.transport.stream import HeadRefused


class Pool:
    def __init__(self) -> None:
        self.freed_streams = 0
        self.is_retired = False
        self.is_gone = False
        self.on_retired: Callable[[], None] = lambda: None

    def freed(self, connection: H2Client) -> None:
        self.freed_streams += 1

    def retired(self, connection: H2Client) -> None:
        self.is_retired = True
        self.on_retired()

    def closed(self, connection: H2Client) -> None:
        self.is_gone = True


class Wire:
    """Two drivers and the bytes between them."""

    def __init__(self, driving: Driving, loop: Any, facts: ConnectionFacts, served: Any, transports: list[Any]) -> None:
        self.loop = loop
        self.pool = Pool()
        self.server = H2Server(driving, facts, served.serve, served.reject)
        self.client = H2Client(driving, facts, self.pool)
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
        self.loop.now += seconds
        self.client.driving.reaper.sweep(self.loop.now)
        self.loop.turn()

    def pings(self) -> int:
        """How many have reached the server."""
        return self.server.codec.statistics.frames_received[PING]

    def ask(self, sink_type: Callable[..., Any], end: bool = True, length: int | None = None) -> Any:
        stream: H2Stream = self.client.open()
        sink = sink_type(stream)
        stream.sink = sink
        stream.send_request(RequestHead(0, b"POST", b"x", b"/p", ((b"a", b"b"),), end, length))
        return sink


@pytest.fixture
def wire(driving: Driving, loop: Any, facts: ConnectionFacts, served: Any, make_transport: Callable[[], Any]) -> Wire:
    wire = Wire(driving, loop, facts, served, [make_transport(), make_transport()])
    wire.settle()
    return wire


def test_an_exchange(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    asked.stream.send_data(b"body", end=True)
    wire.settle()
    (request,) = served.requests
    assert (request.head.target, request.head.headers, request.body) == (b"/p", ((b"a", b"b"),), b"body")
    assert request.ended
    request.stream.send_response(200, ((b"c", b"d"),), end=False)
    request.stream.send_data(b"answer", end=False)
    request.stream.send_trailers(((b"grpc-status", b"0"),))
    wire.settle()
    assert asked.heads[0].status == 200
    assert (asked.body, asked.trailers) == (b"answer", ((b"grpc-status", b"0"),))
    assert wire.server.is_idle
    assert wire.client.streams == {}
    assert wire.pool.freed_streams == 1


def test_streams_do_not_wait_for_each_other(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = [wire.ask(make_sink) for _ in range(3)]
    wire.settle()
    for request in reversed(served.requests):
        request.stream.send_response(200, (), end=True)
    wire.settle()
    assert [sink.heads[0].status for sink in asked] == [200, 200, 200]


@pytest.mark.parametrize("answers", [False, True], ids=["a request", "a response"])
def test_a_reader_that_gives_no_credit_holds_the_writer(
    wire: Wire, served: Any, make_sink: Any, driving: Driving, answers: bool
) -> None:
    window = driving.limits.stream_window
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    (request,) = served.requests
    if answers:
        request.stream.send_response(200, (), end=False)
        wire.settle()
    writer, reader = (request, asked) if answers else (asked, request)
    reader.holds = True
    # The client's window is HTTP/2's own until our SETTINGS are known, which `settle` has seen to.
    assert not writer.stream.send_data(b"x" * (window + 5), end=True)
    wire.settle()
    assert len(reader.body) == window
    assert writer.drains == 0
    assert not reader.ended
    reader.stream.credit(reader.owed)
    wire.settle()
    assert len(reader.body) == window + 5
    assert reader.ended
    assert writer.drains == 1


def test_a_held_answer_keeps_its_stream(wire: Wire, served: Any, make_sink: Any, driving: Driving) -> None:
    asked = wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    asked.holds = True
    request.stream.send_response(200, (), end=False)
    request.stream.send_data(b"x" * (driving.limits.stream_window + 1), end=False)
    request.stream.send_trailers(((b"a", b"b"),))
    wire.settle()
    assert not wire.server.is_idle
    asked.stream.credit(asked.owed)
    wire.settle()
    assert wire.server.is_idle
    assert (request.drains, asked.trailers) == (1, ((b"a", b"b"),))


def test_a_full_socket_holds_the_writer(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    wire.client.pause_writing()
    assert not asked.stream.send_data(b"x", end=False)
    assert asked.drains == 0
    wire.client.resume_writing()
    assert asked.drains == 1
    wire.settle()
    assert served.requests[0].body == b"x"


def test_a_reset_reaches_the_other_end(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    asked.stream.reset(CANCEL)
    wire.settle()
    assert served.requests[0].reset[0] == CANCEL
    assert asked.reset is None
    assert wire.server.is_idle

    other = wire.ask(make_sink)
    wire.settle()
    served.requests[1].stream.reset(CANCEL)
    wire.settle()
    assert other.reset[0] == CANCEL


def test_an_early_answer_stops_the_request(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(403, (), end=True)
    stream.stop_receiving()
    wire.settle()
    assert asked.heads[0].status == 403
    assert wire.server.is_idle
    assert wire.client.streams == {}
    assert asked.reset == (NO_ERROR, "the peer reset the stream")  # behind the answer: it says to send no more


def test_a_lost_socket_ends_every_stream(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = [wire.ask(make_sink), wire.ask(make_sink)]
    wire.settle()
    wire.client.connection_lost(ConnectionResetError("reset by peer"))
    wire.server.eof_received()
    assert [sink.reset for sink in asked] == [(CANCEL, "reset by peer")] * 2
    assert [request.reset[0] for request in served.requests] == [CANCEL] * 2
    assert wire.pool.is_gone


def test_draining_lets_everything_finish(wire: Wire, served: Any, make_sink: Any) -> None:
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


def test_streams_that_a_leaving_server_never_saw_are_refused(wire: Wire, make_sink: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    unseen = wire.ask(make_sink)
    wire.loop.ready.clear()
    wire.client_socket.take()
    wire.server.codec.go_away(final=True)
    wire.server.flush()
    wire.client.data_received(wire.server_socket.take())
    assert unseen.reset[0] == REFUSED_STREAM


def test_a_leaving_server_is_out_of_the_pool_before_anybody_asks_again(wire: Wire, served: Any, make_sink: Any) -> None:
    seen = wire.ask(make_sink)
    wire.settle()
    unseen = wire.ask(make_sink)
    wire.loop.turn()
    wire.client_socket.take()
    told: list[object] = []
    wire.pool.on_retired = lambda: told.append(unseen.reset)
    wire.server.codec.go_away(final=True)
    wire.server.flush()
    wire.client.data_received(wire.server_socket.take())
    assert told == [None]
    assert not wire.client.can_open
    assert unseen.reset == (REFUSED_STREAM, "the server is going away")
    assert seen.reset is None
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert seen.heads[0].status == 200


def test_a_server_that_leaves_in_anger_has_not_seen_the_later_streams_either(wire: Wire, make_sink: Any) -> None:
    """GOAWAY with an error, as gRPC's `too_many_pings`."""
    seen, unseen = wire.ask(make_sink), wire.ask(make_sink)
    wire.loop.turn()
    wire.client_socket.take()
    goaway = b"\x00\x00\x16\x07\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x01" + b"\x00\x00\x00\x0b" + b"too_many_pings"
    wire.client.data_received(goaway)
    assert unseen.reset == (REFUSED_STREAM, "the server is going away")
    assert seen.reset == (CANCEL, "too_many_pings")
    assert wire.pool.is_retired
    assert wire.client_socket.ended == "closed"


def test_a_refused_stream_is_told_as_such(wire: Wire, served: Any, make_sink: Any) -> None:
    asked, other = wire.ask(make_sink), wire.ask(make_sink)
    wire.settle()
    served.requests[0].stream.reset(REFUSED_STREAM)
    wire.settle()
    assert asked.reset == (REFUSED_STREAM, "the peer reset the stream")
    assert other.reset is None
    assert wire.client.can_open


@pytest.mark.parametrize(("tls_version", "scheme"), [("", b"http"), ("TLSv1.3", b"https")])
def test_the_scheme_is_that_of_the_connection(
    driving: Driving,
    loop: Any,
    facts: ConnectionFacts,
    served: Any,
    make_transport: Any,
    make_sink: Any,
    tls_version: str,
    scheme: bytes,
) -> None:
    wire = Wire(driving, loop, facts, served, [make_transport(), make_transport()])
    wire.settle()
    facts.tls_version = tls_version
    wire.client = H2Client(driving, facts, wire.pool)
    wire.client.attach(wire.client_socket)
    loop.turn()
    wire.client_socket.take()
    wire.ask(make_sink)
    loop.turn()
    frame = wire.client_socket.take()
    assert frame[3] == 1  # HEADERS
    head = hpack.Decoder().decode(frame[9 : 9 + int.from_bytes(frame[:3])], raw=True)
    assert (b":scheme", scheme) in list(head)


class TestWhetherTheServerLives:
    def test_one_that_is_half_open_is_found_within_ten_seconds(self, wire: Wire, make_sink: Any) -> None:
        asked = [wire.ask(make_sink), wire.ask(make_sink)]
        wire.settle()
        began = wire.loop.now
        while not wire.client_socket.ended:
            wire.sweep(PERIOD)
        assert wire.loop.now - began < 10.0
        assert wire.client_socket.ended == "aborted"
        reason = "the server did not answer a PING within 4 s"
        assert [sink.reset for sink in asked] == [(CANCEL, reason)] * 2
        assert wire.client_socket.take().count(LIFE_PING) == 1
        assert not wire.client.can_open

    def test_one_that_was_idle_before_is_found_sooner(self, wire: Wire, make_sink: Any) -> None:
        wire.sweep(60.0)
        asked = wire.ask(make_sink)
        wire.sweep(PERIOD)
        wire.sweep(4.1)
        assert asked.reset is not None

    def test_one_that_answers_lives(self, wire: Wire, served: Any, make_sink: Any) -> None:
        asked = wire.ask(make_sink)
        wire.settle()
        wire.sweep(5.1)
        wire.settle()
        assert wire.pings() == 1
        wire.sweep(4.1)
        served.requests[0].stream.send_response(200, (), end=True)
        wire.settle()
        assert asked.heads[0].status == 200
        assert wire.client_socket.ended == ""

    def test_one_that_sends_anything_else_lives(self, wire: Wire, served: Any, make_sink: Any) -> None:
        asked = wire.ask(make_sink)
        wire.settle()
        wire.sweep(5.1)
        wire.client_socket.take()  # the PING is lost
        wire.loop.now += 3.0
        served.requests[0].stream.send_response(200, (), end=False)
        wire.settle()
        wire.sweep(1.1)
        assert asked.reset is None
        assert wire.client.can_open
        wire.sweep(4.0)
        assert wire.client_socket.take().count(LIFE_PING) == 1

    def test_nothing_is_asked_while_it_talks_or_nothing_is_under_way(
        self, wire: Wire, served: Any, make_sink: Any
    ) -> None:
        asked = wire.ask(make_sink)
        wire.settle()
        (request,) = served.requests
        request.stream.send_response(200, (), end=False)
        for _ in range(20):
            wire.sweep(4.0)
            request.stream.send_data(b"x", end=False)
            wire.settle()
        request.stream.send_data(b"x", end=True)
        wire.settle()
        assert asked.ended
        wire.sweep(60.0)
        wire.settle()
        assert wire.pings() == 0

    def test_a_model_may_think_for_long(self, wire: Wire, served: Any, make_sink: Any) -> None:
        """After 5 s, 10 s more, and then every 5 minutes and a little."""
        asked = wire.ask(make_sink)
        wire.settle()
        times = []
        began = wire.loop.now
        while wire.loop.now < began + 1_000:
            before = wire.pings()
            wire.sweep(PERIOD)
            wire.settle()
            if wire.pings() > before:
                times.append(wire.loop.now - began)
        assert [round(after - before) for before, after in pairwise([0.0, *times])] == [5, 10, 310, 310, 310]
        served.requests[0].stream.send_response(200, (), end=True)
        wire.settle()
        assert asked.heads[0].status == 200

    def test_while_it_is_in_doubt_it_gets_no_more(self, wire: Wire, make_sink: Any) -> None:
        wire.ask(make_sink)
        wire.settle()
        wire.sweep(5.1)
        assert not wire.client.can_open
        freed = wire.pool.freed_streams
        wire.settle()
        assert wire.client.can_open
        assert wire.pool.freed_streams == freed + 1  # whoever waits may have it

    def test_one_that_reads_slowly_is_not_broken_off(self, wire: Wire, make_sink: Any) -> None:
        asked = wire.ask(make_sink, end=False)
        wire.settle()
        wire.client.pause_writing()
        wire.client_socket.unsent = 100_000
        for _ in range(20):
            wire.sweep(3.9)
            wire.client_socket.unsent -= 1_000
        assert asked.reset is None
        for _ in range(5):
            wire.sweep(3.9)
        assert asked.reset is not None

    def test_without_streams_it_is_closed_when_it_does_not_answer(self, wire: Wire, make_sink: Any) -> None:
        asked = wire.ask(make_sink)
        wire.settle()
        wire.sweep(5.1)
        asked.stream.reset(CANCEL)
        wire.client.rest(60.0)  # as the pool does
        wire.sweep(3.9)
        assert wire.client_socket.ended == ""
        wire.sweep(0.2)
        assert wire.client_socket.ended == "closed"

    def test_times_are_configured(self, wire: Wire, driving: Driving, make_sink: Any) -> None:
        driving.times = Times(ping_after=1.0, ping_timeout=0.5)
        asked = wire.ask(make_sink)
        wire.settle()
        wire.sweep(1.1)
        wire.sweep(0.6)
        assert asked.reset == (CANCEL, "the server did not answer a PING within 0.5 s")


class Grpc:
    """How gRPC servers count PINGs (grpc-core ping_abuse_policy.cc): what they send of a message forgives."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._strikes = 0

    def sent(self) -> None:
        self._last = float("-inf")
        self._strikes = 0

    def pinged(self, now: float) -> None:
        if self._last + 300.0 > now:
            self._strikes += 1
            assert self._strikes <= 2, "too_many_pings"
        self._last = now


STEPS = st.lists(st.one_of(st.floats(0.1, 700.0), st.sampled_from(["message", "call", "cancel"])), max_size=30)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_grpc_server_is_pinged_too_often(
    loop: Any, served: Any, make_transport: Any, make_sink: Any, steps: list[Any]
) -> None:
    """Whatever is asked and answered when, also where a message and a PING cross each other on the way."""
    loop, served = type(loop)(), type(served)()
    driving = Driving(
        loop=loop,
        outbox=Outbox(loop),
        reaper=Reaper(loop),
        limits=Limits(),
        times=Times(),
        on_limit=lambda name: None,
    )
    facts = ConnectionFacts(direction="", protocol="", remote="", local="")
    wire = Wire(driving, loop, facts, served, [make_transport(), make_transport()])
    wire.settle()
    server = Grpc()
    pings = 0

    def settle() -> None:
        nonlocal pings
        wire.settle()
        if wire.pings() > pings:
            pings = wire.pings()
            server.pinged(loop.now)

    wire.ask(make_sink)
    settle()
    served.requests[0].stream.send_response(200, (), end=False)
    server.sent()
    settle()
    for step in steps:
        if step == "message":
            served.requests[0].stream.send_data(b"x", end=False)
            server.sent()  # and is on its way, while a PING may begin its own
        elif step == "call":
            wire.ask(make_sink)
        elif step == "cancel":
            wire.ask(make_sink).stream.reset(CANCEL)
        else:
            end = loop.now + step
            while 0.0 < wire.client.deadline < end:
                wire.sweep(max(0.0, wire.client.deadline - loop.now) + 0.01)
                settle()
            loop.now = max(loop.now, end)
    assert wire.client_socket.ended == ""


def test_a_certificate_that_expires_ends_new_streams_only(wire: Wire, served: Any, make_sink: Any) -> None:
    wire.client.good_until = wire.loop.now + 20.0
    asked = wire.ask(make_sink)
    wire.settle()
    wire.sweep(19.9)
    wire.settle()
    assert wire.client.can_open
    assert not wire.pool.is_retired
    wire.loop.now += 0.1
    assert not wire.client.can_open
    assert not wire.client.is_barren
    wire.sweep(PERIOD)
    assert wire.pool.is_retired
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert asked.heads[0].status == 200
    assert not wire.client.can_open


def test_a_certificate_that_expires_ends_an_idle_connection(wire: Wire) -> None:
    wire.client.good_until = wire.loop.now + 20.0
    wire.client.rest(60.0)
    wire.sweep(19.9)
    assert wire.client_socket.ended == ""
    wire.sweep(0.2)
    assert wire.client_socket.ended == "closed"


def test_a_server_that_allows_no_streams_is_barren_and_not_full(wire: Wire, served: Any, make_sink: Any) -> None:
    def allow(streams: int) -> None:
        wire.client.data_received(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03" + streams.to_bytes(4))

    allow(0)
    assert (wire.client.can_open, wire.client.is_barren) == (False, True)
    allow(1)
    assert (wire.client.can_open, wire.client.is_barren) == (True, False)
    wire.ask(make_sink)
    assert (wire.client.can_open, wire.client.is_barren) == (False, False)


def test_a_refused_head_is_answered(wire: Wire, served: Any, make_sink: Any, limits_hit: list[str]) -> None:
    stream = wire.client.open()
    stream.sink = asked = make_sink(stream)
    stream.send_request(RequestHead(0, b"GET", b"x", b"/" + b"a" * 9_000, (), end=True))
    wire.settle()
    assert asked.heads[0].status == 414
    assert served.rejected[0].limit == "target_bytes"
    assert limits_hit == ["target_bytes"]


def test_nonsense_ends_the_connection(wire: Wire, served: Any, make_sink: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.data_received(b"\x00\x00\x04\x06\x00\x00\x00\x00\x00abcd")
    assert served.requests[0].reset is not None
    assert wire.server_socket.ended == "closed"
    assert b"\x07" in wire.server_socket.take()  # GOAWAY


def test_what_is_owed_when_a_stream_ends_is_forgiven(wire: Wire, served: Any, make_sink: Any, driving: Driving) -> None:
    """Or the connection's window would shrink with every call that is broken off."""
    for ends in ("answer", "reset", "cancel") * 10:
        asked = wire.ask(make_sink, end=False)
        wire.settle()
        request = served.requests[-1]
        request.holds = True
        asked.stream.send_data(b"x" * 200_000, end=ends == "answer")
        wire.settle()
        assert len(request.body) == 200_000, ends
        if ends == "answer":
            request.stream.send_response(200, (), end=True)
        elif ends == "reset":
            request.stream.reset(CANCEL)
        else:
            asked.stream.reset(CANCEL)
        wire.settle()


def test_a_client_that_takes_no_heads_hurts_nobody_else(wire: Wire, served: Any, make_sink: Any) -> None:
    wire.server.codec.receive(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x01", 0.0)
    wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    request.stream.send_response(200, ((b"a", b"b"),), end=False)
    assert request.reset is not None
    request.stream.send_data(b"x", end=True)
    assert wire.server.streams == {}


def test_a_server_that_does_not_take_the_head_is_told_of(wire: Wire, make_sink: Any) -> None:
    wire.client.codec.receive(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x01", 0.0)
    with pytest.raises(HeadRefused):
        wire.ask(make_sink)
    assert wire.client.streams == {}


def test_a_client_that_never_reads_is_left(
    wire: Wire, served: Any, make_sink: Any, driving: Driving, limits_hit: list[str]
) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.pause_writing()
    wire.server_socket.unsent = driving.limits.streams * driving.limits.stream_window + 1
    served.requests[0].stream.send_response(200, (), end=True)
    wire.loop.turn()
    assert limits_hit == ["unread_bytes"]
    assert wire.server_socket.ended == "aborted"


def test_a_body_over_the_limit_is_its_readers_to_answer(
    driving: Driving, loop: Any, facts: ConnectionFacts, served: Any, make_transport: Any, make_sink: Any
) -> None:
    driving.limits = Limits(body_bytes=10)
    wire = Wire(driving, loop, facts, served, [make_transport(), make_transport()])
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


def test_an_idle_connection_is_closed(wire: Wire, driving: Driving, loop: Any) -> None:
    driving.reaper.sweep(loop.now + driving.times.idle + 1)
    assert wire.server_socket.ended == "closed"


def test_a_busy_connection_is_not(wire: Wire, served: Any, make_sink: Any, driving: Driving, loop: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    driving.reaper.sweep(loop.now + driving.times.idle + 1)
    assert not wire.server_socket.ended
    assert not wire.client_socket.ended


def test_commands_on_a_dead_stream_do_nothing(wire: Wire, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    asked.stream.reset(CANCEL)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(200, (), end=False)
    stream.send_data(b"x", end=False)
    stream.send_trailers(())
    stream.credit(1)
    stream.reset(CANCEL)
    wire.settle()
    assert asked.heads == []
    assert not wire.client_socket.ended
