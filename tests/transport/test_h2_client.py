"""What the client of HTTP/2 does on its own: servers that leave or are silent, certificates that expire."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.transport import h2
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h2_client import LIFE_PING, H2Client
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import PERIOD, Reaper
from meshproxy.transport.stream import HeadRefused
from tests.thorough import tries


def test_streams_that_a_leaving_server_never_saw_are_refused(wire: Any, make_sink: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    unseen = wire.ask(make_sink)
    wire.loop.ready.clear()
    wire.client_socket.take()
    wire.server.codec.go_away(final=True)
    wire.server.flush()
    wire.client.data_received(wire.server_socket.take())
    assert unseen.reset[0] == ErrorCode.REFUSED_STREAM


def test_a_leaving_server_is_out_of_the_pool_before_anybody_asks_again(wire: Any, served: Any, make_sink: Any) -> None:
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
    assert unseen.reset == (ErrorCode.REFUSED_STREAM, "the server is going away")
    assert seen.reset is None
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert seen.heads[0].status == 200


def test_a_server_that_leaves_in_anger_has_not_seen_the_later_streams_either(wire: Any, make_sink: Any) -> None:
    """GOAWAY with an error, as gRPC's `too_many_pings`."""
    seen, unseen = wire.ask(make_sink), wire.ask(make_sink)
    wire.loop.turn()
    wire.client_socket.take()
    goaway = b"\x00\x00\x16\x07\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x01" + b"\x00\x00\x00\x0b" + b"too_many_pings"
    wire.client.data_received(goaway)
    assert unseen.reset == (ErrorCode.REFUSED_STREAM, "the server is going away")
    assert seen.reset == (ErrorCode.CANCEL, "too_many_pings")
    assert wire.pool.is_retired
    assert wire.client_socket.ended == "closed"


def test_a_refused_stream_is_told_as_such(wire: Any, served: Any, make_sink: Any) -> None:
    asked, other = wire.ask(make_sink), wire.ask(make_sink)
    wire.settle()
    served.requests[0].stream.reset(ErrorCode.REFUSED_STREAM)
    wire.settle()
    assert asked.reset == (ErrorCode.REFUSED_STREAM, "the peer reset the stream")
    assert other.reset is None
    assert wire.client.can_open


def test_one_that_is_given_up_as_it_opens_writes_nothing(
    wire: Any, shared: ConnectionContext, info: ConnectionInfo, caplog: pytest.LogCaptureFixture
) -> None:
    """If `create_connection` is cancelled then, uvloop has closed its transport without a word, which raises."""

    def refuse(_: bytes) -> None:
        raise RuntimeError("the handler is closed")

    client = H2Client(shared, info, wire.pool)
    wire.client_socket.write, wire.client_socket.is_closing = refuse, lambda: False
    client.attach(wire.client_socket)
    client.give_up()
    assert caplog.records == []


@pytest.mark.parametrize(("tls_version", "scheme"), [("", b"http"), ("TLSv1.3", b"https")])
def test_the_scheme_is_that_of_the_connection(
    shared: ConnectionContext,
    loop: Any,
    info: ConnectionInfo,
    served: Any,
    make_wire: Any,
    make_transport: Any,
    make_sink: Any,
    tls_version: str,
    scheme: bytes,
) -> None:
    wire = make_wire(shared, loop, info, served, [make_transport(), make_transport()])
    wire.settle()
    info.tls_version = tls_version
    wire.client = H2Client(shared, info, wire.pool)
    wire.client.attach(wire.client_socket)
    loop.turn()
    wire.client_socket.take()
    wire.ask(make_sink)
    loop.turn()
    frame = wire.client_socket.take()
    assert frame[3] == 1  # HEADERS
    head = list(hpack.Decoder().decode(frame[9 : 9 + int.from_bytes(frame[:3])], raw=True))
    assert (b":scheme", scheme) in head


class TestWhetherTheServerLives:
    def test_one_that_is_half_open_is_found_within_ten_seconds(self, wire: Any, make_sink: Any) -> None:
        asked = [wire.ask(make_sink), wire.ask(make_sink)]
        wire.settle()
        began = wire.loop.now
        while not wire.client_socket.ended:
            wire.sweep(PERIOD)
        assert wire.loop.now - began < 10.0
        assert wire.client_socket.ended == "aborted"
        reason = "the server did not answer a PING within 4 s"
        assert [sink.reset for sink in asked] == [(ErrorCode.CANCEL, reason)] * 2
        assert wire.client_socket.take().count(LIFE_PING) == 1
        assert not wire.client.can_open

    def test_one_that_was_idle_before_is_found_sooner(self, wire: Any, make_sink: Any) -> None:
        wire.sweep(60.0)
        asked = wire.ask(make_sink)
        wire.sweep(PERIOD)
        wire.sweep(4.1)
        assert asked.reset is not None

    def test_one_that_answers_lives(self, wire: Any, served: Any, make_sink: Any) -> None:
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

    def test_one_that_sends_anything_else_lives(self, wire: Any, served: Any, make_sink: Any) -> None:
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
        self, wire: Any, served: Any, make_sink: Any
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

    def test_a_model_may_think_for_long(self, wire: Any, served: Any, make_sink: Any) -> None:
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

    def test_while_it_is_in_doubt_it_gets_no_more(self, wire: Any, make_sink: Any) -> None:
        wire.ask(make_sink)
        wire.settle()
        wire.sweep(5.1)
        assert not wire.client.can_open
        freed = wire.pool.freed_streams
        wire.settle()
        assert wire.client.can_open
        assert wire.pool.freed_streams == freed + 1  # whoever waits may have it

    def test_one_that_reads_slowly_is_not_broken_off(self, wire: Any, make_sink: Any) -> None:
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

    def test_without_streams_it_is_closed_when_it_does_not_answer(self, wire: Any, make_sink: Any) -> None:
        asked = wire.ask(make_sink)
        wire.settle()
        wire.sweep(5.1)
        asked.stream.reset(ErrorCode.CANCEL)
        wire.client.limit_idle_time(60.0)  # as the pool does
        wire.sweep(3.9)
        assert wire.client_socket.ended == ""
        wire.sweep(0.2)
        assert wire.client_socket.ended == "closed"

    def test_times_are_configured(self, wire: Any, shared: ConnectionContext, make_sink: Any) -> None:
        shared.times = Times(ping_after=1.0, ping_timeout=0.5)
        asked = wire.ask(make_sink)
        wire.settle()
        wire.sweep(1.1)
        wire.sweep(0.6)
        assert asked.reset == (ErrorCode.CANCEL, "the server did not answer a PING within 0.5 s")


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


@settings(max_examples=tries(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_grpc_server_is_pinged_too_often(
    loop: Any, served: Any, make_wire: Any, make_transport: Any, make_sink: Any, steps: list[Any]
) -> None:
    """Whatever is asked and answered when, also where a message and a PING cross each other on the way."""
    loop, served = type(loop)(), type(served)()
    shared = ConnectionContext(
        loop=loop,
        outbox=Outbox(loop),
        reaper=Reaper(loop),
        limits=Limits(),
        times=Times(),
        on_limit=lambda name: None,
    )
    info = ConnectionInfo(direction="", protocol="", remote="", local="")
    wire = make_wire(shared, loop, info, served, [make_transport(), make_transport()])
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
            wire.ask(make_sink).stream.reset(ErrorCode.CANCEL)
        else:
            end = loop.now + step
            while 0.0 < wire.client.deadline < end:
                wire.sweep(max(0.0, wire.client.deadline - loop.now) + 0.01)
                settle()
            loop.now = max(loop.now, end)
    assert wire.client_socket.ended == ""


def test_a_certificate_that_expires_ends_new_streams_only(wire: Any, served: Any, make_sink: Any) -> None:
    wire.client.good_until = wire.loop.now + 20.0
    asked = wire.ask(make_sink)
    wire.settle()
    wire.sweep(19.9)
    wire.settle()
    assert wire.client.can_open
    assert not wire.pool.is_retired
    wire.loop.now += 0.1
    assert not wire.client.can_open
    assert not wire.client.refuses_streams
    wire.sweep(PERIOD)
    assert wire.pool.is_retired
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert asked.heads[0].status == 200
    assert not wire.client.can_open


def test_a_certificate_that_expires_ends_an_idle_connection(wire: Any) -> None:
    wire.client.good_until = wire.loop.now + 20.0
    wire.client.limit_idle_time(60.0)
    wire.sweep(19.9)
    assert wire.client_socket.ended == ""
    wire.sweep(0.2)
    assert wire.client_socket.ended == "closed"


def test_a_server_that_allows_no_streams_is_barren_and_not_full(wire: Any, served: Any, make_sink: Any) -> None:
    def allow(streams: int) -> None:
        wire.client.data_received(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03" + streams.to_bytes(4))

    allow(0)
    assert (wire.client.can_open, wire.client.refuses_streams) == (False, True)
    allow(1)
    assert (wire.client.can_open, wire.client.refuses_streams) == (True, False)
    wire.ask(make_sink)
    assert (wire.client.can_open, wire.client.refuses_streams) == (False, False)


def test_a_server_that_leaves_an_idle_connection_is_not_barren(wire: Any) -> None:
    """The pool would fail requests that wait for the connection that replaces this one."""
    told: list[tuple[bool, bool]] = []
    wire.pool.on_retired = lambda: told.append((wire.client.can_open, wire.client.refuses_streams))
    wire.server.codec.go_away(final=True)
    wire.server.flush()
    wire.settle()
    assert told[0] == (False, False)


def test_a_server_that_does_not_take_the_head_is_told_of(wire: Any, make_sink: Any) -> None:
    wire.client.codec.receive(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x01", 0.0)
    with pytest.raises(HeadRefused):
        wire.ask(make_sink)
    assert wire.client.streams == {}


class TestTurns:
    """Answers of a server that take longer than a turn: the rest waits while others are served."""

    @pytest.fixture
    def answers(
        self, wire: Any, served: Any, make_sink: Any, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., tuple[list[Any], bytes]]:
        """Who has asked, and one read with all of the answers. Each takes so much processor time."""

        def answers(count: int, cost: float) -> tuple[list[Any], bytes]:
            asked = [wire.ask(make_sink) for _ in range(count)]
            wire.settle()
            for number, request in enumerate(served.requests):
                request.stream.send_response(200, (), end=False)
                request.stream.send_data(b"%d" % number, end=True)
            wire.server.flush()
            monkeypatch.setattr(h2, "thread_time", lambda: self.answered(asked) * cost)
            return asked, wire.server_socket.take()

        return answers

    def answered(self, asked: list[Any]) -> int:
        assert all(sink.body == b"%d" % at for at, sink in enumerate(asked) if sink.ended)
        return sum(sink.ended for sink in asked)

    def settle(self, wire: Any, asked: list[Any]) -> list[int]:
        """How many have been answered after each iteration of the loop, until reading goes on."""
        counts = [self.answered(asked)]
        while not wire.client_socket.is_reading:
            wire.loop.turn()
            counts.append(self.answered(asked))
        return counts

    def test_ordinary_ones_do_not_wait(self, wire: Any, answers: Any) -> None:
        asked, read = answers(200, h2.ANSWERS.turn / 200)
        wire.client.data_received(read)
        assert self.answered(asked) == 200
        assert wire.client_socket.pauses == 0
        assert wire.client.codec.slice_frames == h2.ANSWERS.most  # each slice is weighed by itself

    def test_others_are_processed_in_turns_and_reading_stops_until_then(self, wire: Any, answers: Any) -> None:
        asked, read = answers(300, h2.ANSWERS.turn / 120)
        wire.client.data_received(read)
        assert not wire.client_socket.is_reading
        first, *later = [count for count, _ in groupby(self.settle(wire, asked))]
        assert first == h2.ANSWERS.first  # of two frames each: after the first slice there is time left
        assert later[-1] == 300
        assert len(later) == 2
        assert wire.client.shared.pending == 0

    def test_what_costs_much_has_smaller_slices(self, wire: Any, answers: Any) -> None:
        """A slice is over when its last answer is."""
        asked, read = answers(300, h2.ANSWERS.seconds / 8)
        wire.client.data_received(read)
        counts = [count for count, _ in groupby(self.settle(wire, asked))]
        assert counts[0] == h2.ANSWERS.first // 2
        assert max(after - before for before, after in pairwise(counts)) == 16  # two of 3 ms in a turn of 5

    def test_a_small_read_is_one_turn(self, wire: Any, answers: Any) -> None:
        asked, read = answers(100, h2.ANSWERS.turn / 100)
        assert len(read) < h2.MUCH
        assert wire.client.codec.slice_frames < 2 * 100
        wire.client.data_received(read)
        assert self.answered(asked) == 100
        assert wire.client_socket.pauses == 0

    def test_what_comes_nevertheless_waits_behind_it(self, wire: Any, answers: Any) -> None:
        """Over TLS data may come although no more is read."""
        asked, read = answers(300, h2.ANSWERS.turn / 50)
        half = len(read) // 2
        wire.client.data_received(read[:half])
        before = self.answered(asked)
        wire.client.data_received(read[half:])
        assert self.answered(asked) == before < 150
        assert self.settle(wire, asked)[-1] == 300

    @pytest.mark.parametrize("lost", [False, True])
    def test_what_had_come_before_the_end_is_not_lost(
        self, wire: Any, answers: Any, make_sink: Any, lost: bool
    ) -> None:
        asked, read = answers(300, h2.ANSWERS.turn / 50)
        late = wire.ask(make_sink)
        wire.client.data_received(read)
        assert self.answered(asked) < 300
        if lost:
            wire.client_socket.ended = "aborted"
            wire.client.connection_lost(ConnectionResetError("reset by peer"))
        else:
            wire.client.eof_received()
        assert self.answered(asked) == 300
        assert all(sink.reset is None for sink in asked)
        assert late.reset[0] == ErrorCode.CANCEL
        wire.client.connection_lost(None)
        assert len(wire.client.shared.turns) == 0
        assert wire.pool.is_gone

    def test_a_defect_on_the_way_to_the_end_does_not_keep_the_connection(
        self, wire: Any, answers: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, read = answers(300, h2.ANSWERS.turn / 50)
        wire.client.data_received(read)

        def defect(data: bytes, flow: int, end: bool) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(asked[-1], "data_received", defect)
        with pytest.raises(RuntimeError, match="a defect"):
            wire.client.connection_lost(None)
        assert wire.pool.is_gone

    def test_nothing_is_processed_that_comes_behind_our_own_end(self, wire: Any, answers: Any) -> None:
        asked, read = answers(300, h2.ANSWERS.turn / 50)
        wire.client.data_received(read)
        before = self.answered(asked)
        wire.client.abort()
        wire.client.connection_lost(None)
        assert self.answered(asked) == before
