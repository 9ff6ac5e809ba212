"""Conversations of the HTTP/2 drivers: our client and our server on two ends of a wire without sockets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.connection import SLICE_FRAMES, H2Connection
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.transport import h2
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h2 import MOST_UNREAD
from meshproxy.transport.h2_server import H2Server


def test_an_exchange(wire: Any, served: Any, make_sink: Any) -> None:
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


def test_a_large_piece_is_not_copied(wire: Any, served: Any, make_sink: Any) -> None:
    """Neither when it is framed nor when it is written; a small one is joined with the header of its frame."""
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    large = b"x" * 50_000
    asked.stream.send_data(large, end=False)
    wire.client.flush()
    assert wire.client.transport.written[-1] is large
    wire.settle()
    asked.stream.send_data(b"y" * 1_000, end=True)
    wire.client.flush()
    assert [len(piece) for piece in wire.client.transport.written] == [1_009]
    wire.settle()
    assert served.requests[0].body == large + b"y" * 1_000


def test_what_was_written_is_not_counted_as_unread(
    shared: ConnectionContext, info: ConnectionInfo, served: Any, make_transport: Any
) -> None:
    """PINGs whose answers are written, on a connection that always has something else to write when it reads."""
    shared.limits = Limits(control_burst=10**9, output_bytes=1_000)
    server = H2Server(shared, info, served.serve, served.reject)
    server.attach(make_transport())
    server.data_received(H2Connection(Role.CLIENT, Limits(), 0.0).take_output())
    server.codec.slice_frames = SLICE_FRAMES
    for _ in range(10):
        server.flush()
        server.codec.ping(bytes(8))
        server.data_received(frames.ping(bytes(8), ack=False) * 30)
    assert not server.is_closing
    server.data_received(frames.ping(bytes(8), ack=False) * 30)
    assert server.is_closing, "these were not"


def test_streams_do_not_wait_for_each_other(wire: Any, served: Any, make_sink: Any) -> None:
    asked = [wire.ask(make_sink) for _ in range(3)]
    wire.settle()
    for request in reversed(served.requests):
        request.stream.send_response(200, (), end=True)
    wire.settle()
    assert [sink.heads[0].status for sink in asked] == [200, 200, 200]


@pytest.mark.parametrize("answers", [False, True], ids=["a request", "a response"])
def test_a_reader_that_gives_no_credit_holds_the_writer(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext, answers: bool
) -> None:
    window = shared.limits.stream_window
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


def test_a_held_answer_keeps_its_stream(wire: Any, served: Any, make_sink: Any, shared: ConnectionContext) -> None:
    asked = wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    asked.holds = True
    request.stream.send_response(200, (), end=False)
    request.stream.send_data(b"x" * (shared.limits.stream_window + 1), end=False)
    request.stream.send_trailers(((b"a", b"b"),))
    wire.settle()
    assert not wire.server.is_idle
    asked.stream.credit(asked.owed)
    wire.settle()
    assert wire.server.is_idle
    assert (request.drains, asked.trailers) == (1, ((b"a", b"b"),))


def test_what_a_client_has_not_read(wire: Any, served: Any, make_sink: Any, shared: Any) -> None:
    asked = wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    asked.holds = True
    request.stream.send_response(200, (), end=False)
    assert not request.stream.send_data(b"x" * (shared.limits.stream_window + 5), end=True)
    wire.server.transport.unsent = 70
    assert request.stream.unread == 5  # the socket is full because of others
    wire.settle()
    asked.stream.credit(asked.owed)
    wire.settle()
    assert request.stream.unread == 70
    assert asked.ended


def test_a_full_socket_holds_the_writer(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    wire.client.pause_writing()
    assert not asked.stream.send_data(b"x", end=False)
    assert asked.drains == 0
    wire.client.resume_writing()
    assert asked.drains == 1
    wire.settle()
    assert served.requests[0].body == b"x"


def test_a_reset_reaches_the_other_end(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    asked.stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert served.requests[0].reset[0] == ErrorCode.CANCEL
    assert asked.reset is None
    assert wire.server.is_idle

    other = wire.ask(make_sink)
    wire.settle()
    served.requests[1].stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert other.reset[0] == ErrorCode.CANCEL


def test_an_early_answer_stops_the_request(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(403, (), end=True)
    stream.stop_receiving()
    wire.settle()
    assert asked.heads[0].status == 403
    assert wire.server.is_idle
    assert wire.client.streams == {}
    assert asked.reset == (
        ErrorCode.NO_ERROR,
        "the peer reset the stream",
    )  # behind the answer: it says to send no more


def test_a_lost_socket_ends_every_stream(wire: Any, served: Any, make_sink: Any) -> None:
    asked = [wire.ask(make_sink), wire.ask(make_sink)]
    wire.settle()
    wire.client.connection_lost(ConnectionResetError("reset by peer"))
    wire.server.eof_received()
    assert [sink.reset for sink in asked] == [(ErrorCode.CANCEL, "reset by peer")] * 2
    assert [request.reset[0] for request in served.requests] == [ErrorCode.CANCEL] * 2
    assert wire.pool.is_gone


def test_nonsense_ends_the_connection(wire: Any, served: Any, make_sink: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.data_received(b"\x00\x00\x04\x06\x00\x00\x00\x00\x00abcd")
    assert served.requests[0].reset is not None
    assert wire.server_socket.ended == "closed"
    assert b"\x07" in wire.server_socket.take()  # GOAWAY


def test_what_is_owed_when_a_stream_ends_is_forgiven(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext
) -> None:
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
            request.stream.reset(ErrorCode.CANCEL)
        else:
            asked.stream.reset(ErrorCode.CANCEL)
        wire.settle()


def test_a_client_that_never_reads_is_left(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext, limits_hit: list[str]
) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.pause_writing()
    wire.server_socket.unsent = MOST_UNREAD + 1
    served.requests[0].stream.send_response(200, (), end=True)
    wire.loop.turn()
    assert limits_hit == ["unread_bytes"]
    assert wire.server_socket.ended == "aborted"


def test_what_is_written_at_once_may_be_limited(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext
) -> None:
    written: list[int] = []
    write = wire.server_socket.write

    def watched(data: bytes) -> None:
        written.append(len(data))
        write(data)

    wire.server_socket.write = watched
    shared.write_bytes = 1_000
    asked = wire.ask(make_sink)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(200, (), end=False)
    stream.send_data(bytes(4_500), end=True)
    wire.settle()
    assert max(written) == 1_000
    assert sum(written) > 4_500
    assert len(asked.body) == 4_500


def test_commands_on_a_dead_stream_do_nothing(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    asked.stream.reset(ErrorCode.CANCEL)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(200, (), end=False)
    stream.send_data(b"x", end=False)
    stream.send_trailers(())
    stream.credit(1)
    stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert asked.heads == []
    assert not wire.client_socket.ended


FIRST = h2.REQUESTS.first - 3
"""Requests of the first slice: SETTINGS, its acknowledgement and WINDOW_UPDATE come before them."""


class TestTurns:
    """A read with more than is processed at once: the rest waits while others are served."""

    @pytest.fixture(autouse=True)
    def reads_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(h2, "MOST_PENDING", 0)
        monkeypatch.setattr(h2, "MOST_PENDING_OF_ALL", 0)

    @pytest.fixture(autouse=True)
    def costs(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, float]:
        """Seconds of processor time that a request takes, by its target."""
        costs: dict[bytes, float] = {}
        monkeypatch.setattr(h2, "MUCH", 1_000)
        monkeypatch.setattr(
            h2, "thread_time", lambda: sum(costs.get(request.head.target, 0.0) for request in served.requests)
        )
        return costs

    def flood(self, wire: Any, count: int, *more: bytes) -> bytes:
        """Requests for `/`, and then for these targets."""
        codec = H2Connection(Role.CLIENT, Limits(), 0.0)
        codec.receive(frames.settings([]) + frames.SETTINGS_ACK, 0.0)
        for target in [b"/"] * count + list(more):
            codec.send_request(b"GET", b"http", b"x", target, (), end=True)
        return codec.take_output()

    def server(self, shared: ConnectionContext, info: ConnectionInfo, served: Any, socket: Any) -> H2Server:
        server = H2Server(shared, info, served.serve, served.reject)
        server.attach(socket)
        return server

    def test_reading_stops_until_all_is_processed(
        self, wire: Any, shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
    ) -> None:
        socket = make_transport()
        server = self.server(shared, info, served, socket)
        server.data_received(self.flood(wire, 200))
        assert len(served.requests) == FIRST
        assert not socket.is_reading
        assert not server.is_idle
        counts = []
        while not socket.is_reading:
            loop.turn()
            counts.append(len(served.requests))
        assert [count for count in counts if count] == sorted(counts)
        assert (max(b - a for a, b in zip([FIRST, *counts], counts, strict=False)), counts[-1]) == (SLICE_FRAMES, 200)
        assert socket.pauses == 1

    def test_a_read_that_took_long_is_followed_by_those_of_others(
        self, shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
    ) -> None:
        socket = make_transport()
        server = self.server(shared, info, served, socket)
        server.give_way()
        assert not socket.is_reading
        loop.turn()
        assert socket.is_reading
        assert len(shared.turns) == 0

    def test_reading_goes_on_when_all_is_processed_even_so(
        self, wire: Any, shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
    ) -> None:
        socket = make_transport()
        server = self.server(shared, info, served, socket)
        server.data_received(self.flood(wire, 200))
        server.give_way()
        while not socket.is_reading:
            loop.turn()
        assert len(served.requests) == 200

    def test_two_connections_take_turns(
        self, wire: Any, shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
    ) -> None:
        sockets = [make_transport(), make_transport()]
        for socket in sockets:
            self.server(shared, info, served, socket).data_received(self.flood(wire, 500))
        while not all(socket.is_reading for socket in sockets):
            before = len(served.requests)
            loop.turn()
            assert len(served.requests) <= before + SLICE_FRAMES
        assert len(served.requests) == 1_000

    @pytest.mark.parametrize(("cost", "slices"), [(0.00001, 32), (0.0003, 5), (0.0012, 1), (0.02, 1)])
    def test_what_costs_much_has_smaller_slices(
        self,
        wire: Any,
        shared: ConnectionContext,
        loop: Any,
        info: ConnectionInfo,
        served: Any,
        make_transport: Any,
        costs: dict[bytes, float],
        cost: float,
        slices: int,
    ) -> None:
        """One slice, at most, is longer than it should be."""
        costs[b"/"] = cost
        socket = make_transport()
        self.server(shared, info, served, socket).data_received(self.flood(wire, 300))
        counts = [len(served.requests)]
        while not socket.is_reading:
            loop.turn()
            counts.append(len(served.requests))
        assert counts[0] == FIRST
        assert max(b - a for a, b in pairwise(counts)) == slices
        assert counts[-1] == 300

    def test_they_grow_again_with_what_costs_little(
        self,
        wire: Any,
        shared: ConnectionContext,
        loop: Any,
        info: ConnectionInfo,
        served: Any,
        make_transport: Any,
        costs: dict[bytes, float],
    ) -> None:
        costs[b"/"] = 0.01
        socket = make_transport()
        self.server(shared, info, served, socket).data_received(self.flood(wire, 40, *[b"/cheap"] * 200))
        counts = [len(served.requests)]
        while not socket.is_reading:
            loop.turn()
            counts.append(len(served.requests))
        steps = [step for step in (b - a for a, b in pairwise(counts)) if step]
        assert steps[:41] == [1] * 36 + [2, 4, 8, 16, SLICE_FRAMES]

    def test_a_small_read_is_not_weighed(
        self,
        wire: Any,
        shared: ConnectionContext,
        info: ConnectionInfo,
        served: Any,
        make_transport: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Looking at the clock costs as much as a tenth of a request."""
        monkeypatch.setattr(h2, "thread_time", None)
        self.server(shared, info, served, make_transport()).data_received(self.flood(wire, 5))
        assert len(served.requests) == 5

    def test_a_read_that_comes_nevertheless_waits_too(
        self, wire: Any, shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
    ) -> None:
        socket = make_transport()
        server = self.server(shared, info, served, socket)
        flood = self.flood(wire, 200)
        server.data_received(flood[:-3])
        server.data_received(flood[-3:])
        assert len(served.requests) == FIRST
        while not socket.is_reading:
            loop.turn()
        assert len(served.requests) == 200

    def test_a_connection_that_is_lost_has_no_more_turns(
        self, wire: Any, shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
    ) -> None:
        server = self.server(shared, info, served, make_transport())
        server.data_received(self.flood(wire, 200))
        server.connection_lost(None)
        for _ in range(3):
            loop.turn()
        assert len(served.requests) == FIRST
        assert len(shared.turns) == 0

    def test_a_slice_may_take_longer_while_requests_are_shed(
        self,
        wire: Any,
        shared: ConnectionContext,
        loop: Any,
        info: ConnectionInfo,
        served: Any,
        make_transport: Any,
        costs: dict[bytes, float],
    ) -> None:
        """The more are refused at once, the less each takes. Here one takes a hundredth of a slice."""
        shared.overload.is_shedding = True
        costs[b"/"] = h2.SHED_REQUESTS.seconds / 100
        socket = make_transport()
        self.server(shared, info, served, socket).data_received(self.flood(wire, 1_000))
        counts = [len(served.requests)]
        while not socket.is_reading:
            loop.turn()
            counts.append(len(served.requests))
        assert [b - a for a, b in pairwise(counts)][:6] == [16, 32, 64, 64, 64, 64]

    def test_a_defect_ends_the_connection(
        self,
        wire: Any,
        shared: ConnectionContext,
        loop: Any,
        info: ConnectionInfo,
        served: Any,
        make_transport: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        socket = make_transport()
        server = self.server(shared, info, served, socket)
        server.data_received(self.flood(wire, 200))

        def defect(stream: Any, head: RequestHead) -> None:
            raise RuntimeError("a defect")

        server._serve = defect
        loop.turn()
        loop.turn()
        assert socket.ended == "aborted"
        assert "internal error in an HTTP/2 connection" in caplog.text


def test_what_is_dropped_is_not_counted_as_waiting(
    shared: ConnectionContext, info: ConnectionInfo, served: Any, make_transport: Any
) -> None:
    """Long before the transport is closed, if the peer reads slowly."""
    server = H2Server(shared, info, served.serve, served.reject)
    server.attach(make_transport())
    server.data_received(TestTurns().flood(None, 200))
    server.data_received(frames.ping(b"12345678", ack=False))
    assert shared.pending > 0
    server.receive_eof()
    assert shared.pending == 0


def test_one_connection_reads_ahead_less_than_all_may(
    shared: ConnectionContext, info: ConnectionInfo, served: Any, make_transport: Any
) -> None:
    socket = make_transport()
    server = H2Server(shared, info, served.serve, served.reject)
    server.attach(socket)
    server.data_received(TestTurns().flood(None, 200))
    read = frames.frame(frames.UNKNOWN, 0, 0, bytes(90_000))
    while socket.is_reading:
        assert server.codec.pending <= h2.MOST_PENDING_OF_ONE
        server.data_received(read)
    assert h2.MOST_PENDING_OF_ONE < server.codec.pending <= h2.MOST_PENDING_OF_ONE + len(read)


def test_reading_goes_on_while_little_waits_and_resets_in_it_are_seen(
    shared: ConnectionContext, loop: Any, info: ConnectionInfo, served: Any, make_transport: Any
) -> None:
    socket = make_transport()
    server = H2Server(shared, info, served.serve, served.reject)
    server.attach(socket)
    flood = TestTurns().flood(None, 200)
    server.data_received(flood)
    assert server.codec.has_more
    assert socket.is_reading
    server.data_received(frames.rst_stream(399, ErrorCode.CANCEL)[:5])
    server.data_received(frames.rst_stream(399, ErrorCode.CANCEL)[5:] + frames.rst_stream(1, ErrorCode.CANCEL))
    assert server.codec.statistics.resets_waiting == 2
    more = frames.frame(frames.UNKNOWN, 0, 0, b"x" * 16_000) * (h2.MOST_PENDING // 16_000 + 1)
    server.data_received(more)
    assert socket.is_reading
    assert shared.pending == server.codec.pending > len(more)
    shared.pending += h2.MOST_PENDING_OF_ALL  # of other connections
    server.data_received(more)
    assert not socket.is_reading
    while server.codec.has_more:
        loop.turn()
    assert socket.is_reading
    assert shared.pending == h2.MOST_PENDING_OF_ALL
    assert server.codec.statistics.resets_waiting == 2
    assert server.codec.statistics.resets_received == 2
    assert {1, 399} & server.streams.keys() == set()
