"""Conversations of the HTTP/1.1 drivers, without sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.transport import connection as connection_module
from meshproxy.transport import h1
from meshproxy.transport.connection import BODY_BYTES, LARGE_READ, READ_BYTES, ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1 import LONG, H1Client, H1Server, ServerState
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

GET = b"GET /v1/models/m HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.fixture
def server(shared: ConnectionContext, info: ConnectionInfo, served: Any, transport: Any) -> H1Server:
    connection = H1Server(shared, info, served.serve, served.reject)
    connection.attach(transport)
    return connection


def respond(request: Any, body: bytes = b"hi") -> None:
    request.stream.send_response(200, (), end=False, length=len(body))
    request.stream.send_data(body, end=True)


VIEWED = BODY_BYTES // 2


def read(connection: Any, data: bytes) -> int:
    """As asyncio does. Returns the size of the buffer."""
    buffer = connection.get_buffer(-1)
    buffer[: len(data)] = data
    connection.buffer_updated(len(data))
    return len(buffer)


class Passing:
    """A sink that keeps what it gets, and passes for one that does not."""

    passes_on = True

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self.pieces.append(data)

    def reset_received(self, code: int, reason: str) -> None: ...


class TestViews:
    """What is read of bodies that nobody looks at."""

    LONG_POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"

    def test_a_body_that_is_passed_on_is_read_without_a_copy(self, server: H1Server, served: Any) -> None:
        assert read(server, self.LONG_POST % (3 * VIEWED)) == READ_BYTES
        sink: Any = Passing()
        server.sink = sink
        for piece in (b"a", b"b", b"c"):
            assert read(server, piece * VIEWED) == BODY_BYTES
        assert [type(piece) for piece in sink.pieces] == [memoryview] * 3
        assert b"".join(sink.pieces) == b"a" * VIEWED + b"b" * VIEWED + b"c" * VIEWED

    def test_short_reads_are_copied_since_a_view_holds_the_whole_buffer(self, server: H1Server, served: Any) -> None:
        read(server, self.LONG_POST % (3 * VIEWED))
        sink: Any = Passing()
        server.sink = sink
        assert read(server, b"a" * (VIEWED - 1)) == BODY_BYTES
        assert [type(piece) for piece in sink.pieces] == [bytes]

    def test_so_is_what_the_next_request_is_in(self, server: H1Server, served: Any) -> None:
        read(server, self.LONG_POST % VIEWED)
        sink: Any = Passing()
        server.sink = sink
        read(server, b"a" * VIEWED + GET)
        assert sink.pieces == [b"a" * VIEWED]
        assert type(sink.pieces[0]) is bytes

    @pytest.mark.parametrize("size", [2 * VIEWED, VIEWED - 1])
    def test_other_sinks_and_short_bodies_get_bytes(self, server: H1Server, served: Any, size: int) -> None:
        read(server, self.LONG_POST % size)
        if size < VIEWED:
            server.sink = Passing()  # type: ignore[assignment]
        assert read(server, b"a" * 100) == READ_BYTES
        body = served.requests[0].body if size >= VIEWED else server.sink.pieces[0]  # type: ignore[union-attr]
        assert (type(body), body) == (bytes, b"a" * 100)

    def test_a_read_that_found_nothing_leaves_no_trace(self, server: H1Server, served: Any) -> None:
        read(server, self.LONG_POST % (2 * VIEWED))
        request, server.sink = server.sink, Passing()  # type: ignore[assignment]
        server.get_buffer(-1)
        server.sink = request
        assert read(server, b"a" * READ_BYTES) == READ_BYTES
        assert served.requests[0].body == b"a" * READ_BYTES

    def test_a_chunked_body_gets_bytes(self, server: H1Server, served: Any) -> None:
        read(server, b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n20000\r\n")
        server.sink = Passing()  # type: ignore[assignment]
        assert read(server, b"a" * READ_BYTES) == READ_BYTES


class TestTurns:
    """After a read that took long others have their turns (`Reading`)."""

    CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"

    @pytest.fixture(autouse=True)
    def takes_long(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A microsecond for each byte of the body."""
        for module in (h1, connection_module):
            monkeypatch.setattr(
                module, "thread_time", lambda: 1.0 + sum(len(each.body) for each in served.requests) / 1e6
            )

    def chunk(self, size: int) -> bytes:
        return b"%x\r\n%b\r\n" % (size, b"a" * size)

    def test_no_more_is_read_before_others_had_theirs(
        self, server: H1Server, served: Any, shared: ConnectionContext, loop: Any, transport: Any
    ) -> None:
        read(server, self.CHUNKED)
        assert read(server, self.chunk(LARGE_READ)) == READ_BYTES
        assert not transport.is_reading
        assert len(shared.turns) == 1
        loop.turn()
        assert transport.is_reading
        assert len(server.get_buffer(-1)) < LARGE_READ

    def test_nor_before_what_was_read_is_taken(self, server: H1Server, served: Any, loop: Any, transport: Any) -> None:
        read(server, self.CHUNKED)
        served.requests[0].holds = True
        for _ in range(8):
            read(server, self.chunk(9_000))
        assert not transport.is_reading
        server.give_way()
        loop.turn()
        assert not transport.is_reading

    def test_nor_between_requests_of_a_client_that_does_not_read(
        self, server: H1Server, served: Any, loop: Any, transport: Any
    ) -> None:
        read(server, GET)
        server.pause_writing()
        respond(served.requests[0])
        server.give_way()
        loop.turn()
        assert not transport.is_reading
        server.resume_writing()
        assert transport.is_reading

    def test_a_body_that_is_passed_on_is_read_like_others_then(self, server: H1Server, served: Any) -> None:
        read(server, TestViews.LONG_POST % (5 * VIEWED))
        read(server, b"a" * LARGE_READ)
        server.sink = Passing()  # type: ignore[assignment]
        assert read(server, b"a") < READ_BYTES

    def test_a_connection_that_is_lost_has_no_turn(self, server: H1Server, loop: Any, transport: Any) -> None:
        server.give_way()
        server.connection_lost(None)
        loop.turn()
        assert not transport.is_reading


class TestServer:
    def test_an_exchange_is_one_write(self, server: H1Server, served: Any, transport: Any, loop: Any) -> None:
        server.data_received(POST + b"body")
        (request,) = served.requests
        assert (request.head.target, request.body, request.ended) == (b"/v1/models/m:predict", b"body", True)
        respond(request)
        loop.turn()
        assert len(transport.written) == 1
        assert transport.take() == OK
        assert server.is_idle

    def test_a_connection_carries_one_request_after_another(
        self, server: H1Server, served: Any, transport: Any
    ) -> None:
        for _ in range(3):
            server.data_received(GET)
            respond(served.requests[-1])
        assert len(served.requests) == 3
        assert not transport.ended

    def test_pipelined_requests_wait_for_their_turn(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.data_received(GET * 3)
        assert len(served.requests) == 1
        assert not transport.is_reading
        for count in (2, 3):
            respond(served.requests[-1])
            loop.turn()
            assert len(served.requests) == count
        respond(served.requests[-1])
        loop.turn()
        assert transport.is_reading
        assert transport.take() == OK * 3

    def test_a_body_that_is_not_taken_stops_the_reading(
        self, server: H1Server, served: Any, transport: Any, shared: ConnectionContext
    ) -> None:
        window = shared.limits.stream_window // 4
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        (request,) = served.requests
        request.holds = True
        server.data_received(b"a" * (window - 1))
        assert transport.is_reading
        server.data_received(b"b")
        assert not transport.is_reading
        request.stream.credit(window // 2)
        assert not transport.is_reading
        request.stream.credit(1)
        assert transport.is_reading

    def test_a_piece_that_is_taken_at_once_does_not_stop_the_reading(
        self, server: H1Server, served: Any, transport: Any
    ) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        server.data_received(b"a" * READ_BYTES)
        assert served.requests[0].body == b"a" * READ_BYTES
        assert transport.pauses == 0

    def test_a_piece_that_closes_the_connection_is_not_waited_for(
        self, server: H1Server, served: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        (request,) = served.requests
        monkeypatch.setattr(request, "data_received", lambda data, flow, end: request.stream.reset(8))
        server.data_received(b"a" * READ_BYTES)
        assert transport.ended == "aborted"
        assert transport.pauses == 0  # a transport that is closed raises when it is paused

    def test_a_slow_reader_holds_the_writer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        (request,) = served.requests
        request.stream.send_response(200, (), end=False, length=4)
        assert request.stream.send_data(b"a", end=False)
        server.pause_writing()
        assert not request.stream.send_data(b"b", end=False)
        assert request.drains == 0
        transport.unsent = 1
        assert request.stream.unread == 1
        server.resume_writing()
        assert request.drains == 1
        assert request.stream.send_data(b"cd", end=True)

    def test_connection_close_closes_after_the_answer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        respond(served.requests[0])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_draining_says_so_with_the_next_answer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.drain()
        server.data_received(GET)
        respond(served.requests[0])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_a_response_that_has_begun_leaves_the_announcement_to_the_next(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        """Its client cannot know that the connection is about to be closed."""
        server.data_received(GET)
        served.requests[0].stream.send_response(200, (), end=False, length=2)
        server.drain()
        served.requests[0].stream.send_data(b"hi", end=True)
        loop.turn()
        assert (transport.take(), transport.ended) == (OK, "")
        assert not server.is_announced
        server.data_received(GET)
        respond(served.requests[1])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_what_was_pipelined_is_answered_before(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.data_received(GET + GET)
        server.drain()
        respond(served.requests[0])
        loop.turn()
        assert transport.take() == OK
        respond(served.requests[1])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_a_head_that_is_being_received_when_draining_keeps_its_time_limit(
        self, server: H1Server, served: Any, transport: Any, shared: ConnectionContext, loop: Any
    ) -> None:
        server.drain()
        server.data_received(GET[:10])
        assert not server.is_idle
        shared.reaper.sweep(loop.now + shared.times.head + 0.1)
        assert b" 408 " in transport.take()

    def test_a_delay_lets_the_client_stay_a_while(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.drain(1.0)
        for seconds in (0.0, 0.5, 1.0):
            loop.now += seconds
            server.data_received(GET)
            respond(served.requests[-1])
            loop.turn()
            assert transport.take() == OK
        server.data_received(GET)
        respond(served.requests[-1])
        assert b"connection: close" in transport.take()

    def test_a_response_may_close_the_connection(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        served.requests[0].stream.close_connection()
        respond(served.requests[0])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_an_early_answer_lingers_until_the_body_has_come(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.data_received(POST + b"bo")
        respond(served.requests[0])
        loop.turn()
        assert transport.take() == OK
        assert not transport.ended
        server.data_received(b"dy" + GET)
        loop.turn()
        assert len(served.requests) == 2
        assert served.requests[0].body == b"bo"

    def test_lingering_ends(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(POST)
        respond(served.requests[0])
        loop.turn()
        shared.reaper.sweep(loop.now + shared.times.linger + 0.1)
        assert transport.ended == "closed"

    def test_a_client_that_sends_everything_first_has_time_to(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        times = shared.times
        server.data_received(POST.replace(b"4", b"999"))
        respond(served.requests[0])
        loop.turn()
        begun = loop.now
        while not transport.ended:
            assert loop.now <= begun + times.linger_most
            server.data_received(b"x")
            loop.now += 0.9 * times.linger
            shared.reaper.sweep(loop.now)
        assert loop.now > begun + times.linger_most - times.linger

    def test_what_comes_after_a_refusal_of_the_codec_keeps_it_open_as_well(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        """Such a client reads the response when it has sent the body."""
        server.data_received(b"GET / HTTP/1.1\nhost: x\n\n")
        for _ in range(3):
            loop.now += 0.9 * shared.times.linger
            server.data_received(b"x" * 1_000)
            shared.reaper.sweep(loop.now)
        assert not transport.ended

    def test_what_the_codec_refuses_is_answered_and_closed(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(b"GET / HTTP/1.1\nhost: x\n\n")
        assert served.requests == []
        (rejected,) = served.rejected
        assert rejected.status == 400
        assert transport.take().startswith(b"HTTP/1.1 400 ")
        assert transport.wrote_eof
        server.data_received(GET)
        assert served.requests == []
        for _ in range(2):
            loop.now += shared.times.linger + 0.1
            shared.reaper.sweep(loop.now)
        assert transport.ended

    def test_a_limit_is_reported_by_name(self, server: H1Server, limits_hit: list[str]) -> None:
        server.data_received(b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert limits_hit == ["target_bytes"]

    def test_a_broken_body_is_its_readers_to_answer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        server.data_received(b"zz\r\n")
        (request,) = served.requests
        assert [rejected.status for rejected in request.rejections] == [400]
        assert served.rejected == []
        request.stream.send_response(400, (), end=True)
        assert b"connection: close" in transport.take() or transport.wrote_eof

    def test_a_broken_body_behind_the_answer_is_nobodys(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        respond(served.requests[0])
        server.data_received(b"zz\r\n")
        assert served.rejected == []
        assert transport.ended != "aborted"

    def test_a_client_that_does_not_read_is_not_served_further(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.pause_writing()
        server.data_received(GET * 3)
        respond(served.requests[0])
        loop.turn()
        assert len(served.requests) == 1
        assert not transport.is_reading
        server.resume_writing()
        assert len(served.requests) == 2

    def test_a_client_that_leaves_ends_the_request_under_way(
        self, server: H1Server, served: Any, transport: Any
    ) -> None:
        server.data_received(POST)
        server.eof_received()
        assert served.requests[0].reset == (ErrorCode.CANCEL, "the client closed the connection")
        assert transport.ended
        server.connection_lost(None)
        assert served.requests[0].reset is not None

    def test_a_lost_socket_ends_the_request_under_way(self, server: H1Server, served: Any) -> None:
        server.data_received(POST)
        server.connection_lost(ConnectionResetError("reset by peer"))
        assert served.requests[0].reset == (ErrorCode.CANCEL, "reset by peer")

    def test_a_reset_breaks_the_connection(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        served.requests[0].stream.reset(ErrorCode.CANCEL)
        assert transport.ended == "aborted"
        assert served.requests[0].reset is None

    def test_commands_after_the_end_do_nothing(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        server.connection_lost(None)
        stream = served.requests[0].stream
        stream.send_response(200, (), end=False)
        assert stream.send_data(b"x", end=True)
        stream.send_trailers(())
        stream.credit(1)
        stream.reset(ErrorCode.CANCEL)
        assert transport.written == []

    def test_a_head_that_dribbles_is_answered_with_408(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext, limits_hit: list[str]
    ) -> None:
        server.data_received(b"GET / HT")
        loop.now += shared.times.head - 1
        server.data_received(b"TP/1.1\r\n")
        shared.reaper.sweep(loop.now)
        assert not transport.ended
        shared.reaper.sweep(loop.now + 1.1)
        assert served.rejected[0].status == 408
        assert limits_hit == ["head_time"]
        assert transport.ended == "closed"

    def test_an_idle_connection_is_closed(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(GET)
        respond(served.requests[0])
        shared.reaper.sweep(loop.now + shared.times.idle - 1)
        assert not transport.ended
        shared.reaper.sweep(loop.now + shared.times.idle + 1)
        assert transport.ended == "closed"
        assert served.rejected == []

    def test_a_connection_at_rest_gives_its_buffer_back_once(
        self,
        server: H1Server,
        served: Any,
        transport: Any,
        loop: Any,
        shared: ConnectionContext,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One that waits for its first request has used none; without TLS there is no buffer."""
        given_back: list[object] = []
        monkeypatch.setattr(h1, "give_back", given_back.append)
        server.info.tls_version = "TLSv1.3"
        shared.reaper.sweep(loop.now + shared.times.rest + 1)
        assert given_back == []
        for count in (1, 2):
            server.data_received(GET)
            respond(served.requests[-1])
            shared.reaper.sweep(loop.now + shared.times.rest - 1)
            assert len(given_back) == count - 1
            shared.reaper.sweep(loop.now + shared.times.rest + 1)
            shared.reaper.sweep(loop.now + shared.times.idle - 1)
            assert given_back == [transport] * count
        server.info.tls_version = ""
        server.data_received(GET)
        respond(served.requests[-1])
        shared.reaper.sweep(loop.now + shared.times.rest + 1)
        assert len(given_back) == 2
        assert not transport.ended

    def test_a_client_that_does_not_read_cannot_keep_it_open(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(GET)
        respond(served.requests[0])
        server.pause_writing()
        shared.reaper.sweep(loop.now + shared.times.idle + 1)
        assert transport.ended == "aborted"


class Pool:
    def __init__(self) -> None:
        self.free: list[H1Client] = []
        self.lost = 0

    def released(self, connection: H1Client) -> None:
        self.free.append(connection)

    def closed(self, connection: H1Client) -> None:
        self.lost += 1


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def client(shared: ConnectionContext, info: ConnectionInfo, pool: Pool, transport: Any) -> H1Client:
    connection = H1Client(shared, info, pool)
    connection.attach(transport)
    return connection


class TestClient:
    @pytest.fixture
    def ask(self, client: H1Client, make_sink: Callable[..., Any]) -> Callable[..., Any]:
        def begin(method: bytes = b"GET", end: bool = True, length: int | None = None) -> Any:
            sink = make_sink(client)
            client.sink = sink
            client.send_request(RequestHead(0, method, b"x", b"/", (), end, length))
            return sink

        return begin

    def test_an_exchange(self, client: H1Client, ask: Any, transport: Any, pool: Pool, loop: Any) -> None:
        for _ in range(2):
            sink = ask()
            loop.turn()
            assert transport.take() == b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
            client.data_received(OK)
            assert (sink.heads[0].status, sink.body, sink.ended) == (200, b"hi", True)
        assert pool.free == [client, client]

    def test_it_is_free_before_its_last_piece_is_handed_on(self, client: H1Client, ask: Any, pool: Pool) -> None:
        sink = ask()
        seen = []
        sink.data_received = lambda data, flow, end: seen.append((data, end, list(pool.free)))
        client.data_received(OK)
        assert seen == [(b"hi", True, [client])]

    def test_interim_heads_come_before_the_final_one(self, client: H1Client, ask: Any) -> None:
        sink = ask()
        client.data_received(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
        assert [head.status for head in sink.heads] == [103, 200]
        assert sink.body == b"hi"

    def test_an_answer_before_the_server_has_read_the_request_closes(
        self, client: H1Client, ask: Any, transport: Any, pool: Pool
    ) -> None:
        """The next request would wait behind what the server perhaps never reads."""
        for length, is_reused in ((LONG, True), (LONG + 1, False)):
            transport.unsent = 0
            pool.free.clear()
            sink = ask(b"POST", end=False, length=length)
            client.send_data(b"x" * length, end=True)
            transport.unsent = 100
            client.data_received(OK)
            assert sink.ended
            assert bool(pool.free) is is_reused
        assert transport.ended == "closed"

    def test_an_answer_before_the_requests_end_closes(
        self, client: H1Client, ask: Any, transport: Any, pool: Pool
    ) -> None:
        sink = ask(b"POST", end=False, length=10)
        client.send_data(b"abc", end=False)
        client.data_received(OK)
        assert sink.ended
        assert pool.free == []
        assert transport.ended == "closed"

    def test_the_servers_close_is_the_end_of_some_bodies(self, client: H1Client, ask: Any, pool: Pool) -> None:
        sink = ask()
        client.data_received(b"HTTP/1.0 200 OK\r\n\r\nabc")
        assert not sink.ended
        client.eof_received()
        assert (sink.body, sink.ended, sink.reset) == (b"abc", True, None)
        assert pool.free == []

    @pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200 OK\r\n", OK[:-1]])
    def test_the_servers_close_is_never_the_end_of_others(self, client: H1Client, ask: Any, received: bytes) -> None:
        sink = ask()
        client.data_received(received)
        client.eof_received()
        assert not sink.ended
        assert sink.reset is not None
        assert sink.reset[0] == ErrorCode.CANCEL

    def test_what_is_owed_is_forgiven_when_it_is_free_again(
        self, client: H1Client, ask: Any, transport: Any, pool: Pool, shared: ConnectionContext
    ) -> None:
        window = shared.limits.stream_window // 4
        sink = ask()
        sink.holds = True
        client.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (window + 1))
        client.data_received(b"x" * window)
        assert not transport.is_reading
        client.data_received(b"x")
        assert pool.free == [client]
        assert transport.is_reading

    def test_nonsense_breaks_the_exchange_and_the_connection(
        self, client: H1Client, ask: Any, transport: Any, pool: Pool
    ) -> None:
        sink = ask()
        client.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")
        assert sink.reset is not None
        assert sink.reset[0] == ErrorCode.PROTOCOL_ERROR
        assert transport.ended == "aborted"
        assert pool.free == []

    def test_an_answer_that_nobody_asked_for_ends_the_connection(
        self, client: H1Client, transport: Any, pool: Pool
    ) -> None:
        client.data_received(OK)
        assert transport.ended == "aborted"

    def test_bytes_behind_the_answer_end_the_connection(self, client: H1Client, ask: Any, pool: Pool) -> None:
        ask()
        client.data_received(OK + b"x")
        assert client.is_closing
        assert client not in pool.free

    def test_giving_up_closes(self, client: H1Client, ask: Any, transport: Any, pool: Pool) -> None:
        sink = ask()
        client.reset(ErrorCode.CANCEL)
        assert transport.ended == "aborted"
        client.connection_lost(None)
        assert sink.reset is None
        assert pool.lost == 1

    def test_an_idle_connection_is_closed_when_its_time_has_come(
        self, client: H1Client, ask: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        ask()
        client.data_received(OK)
        client.deadline = loop.now + 5
        shared.reaper.sweep(loop.now + 6)
        assert transport.ended == "closed"

    @pytest.fixture
    def path(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """For how long the server's host has acknowledged nothing, and who asked."""
        path = SimpleNamespace(silence=0.0, asked=[])

        def look(transport: Any) -> float:
            path.asked.append(transport)
            return float(path.silence)

        monkeypatch.setattr(h1, "unheard", look)
        return path

    def test_a_request_whose_host_acknowledges_nothing_is_given_up(
        self,
        client: H1Client,
        ask: Any,
        transport: Any,
        loop: Any,
        shared: ConnectionContext,
        pool: Pool,
        path: Any,
    ) -> None:
        sink = ask()
        for later, silence in ((0.2, 1000.0), (8.9, 1000.0), (0.2, 5.0), (3.9, 9.0)):  # 1000: since an earlier request
            loop.now += later
            path.silence = silence
            shared.reaper.sweep(loop.now)
            assert not transport.ended
        assert path.asked == [transport]
        loop.now += 0.2
        shared.reaper.sweep(loop.now)
        assert transport.ended == "aborted"
        assert sink.reset == (ErrorCode.CANCEL, "the server's host acknowledged nothing for 9 s")
        assert pool.lost == 1

    def test_each_request_is_watched_by_itself(
        self, client: H1Client, ask: Any, transport: Any, loop: Any, shared: ConnectionContext, path: Any
    ) -> None:
        path.silence = 1000.0
        for _ in range(9):
            ask()
            shared.reaper.sweep(loop.now)
            loop.now += 5.0
            shared.reaper.sweep(loop.now)
            client.data_received(OK)
            client.deadline = loop.now + 60.0
            loop.now += 20.0
            shared.reaper.sweep(loop.now)
        assert not transport.ended
        assert path.asked == []


WIRE = [
    *[GET] * 3,
    *[POST.replace(b"4", b"99") + b"b" * 99] * 3,
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nbad\r\n\r\n",
]
TIME_LIMITS = (Times().head, Times().idle, Times().linger)


class ServerMachine(RuleBasedStateMachine):
    """A client that sends requests in any pieces, a service that answers when it likes, sockets that fill, and time."""

    def __init__(self, loop: Any, transport: Any, served: Any) -> None:
        super().__init__()
        self.loop, self.transport, self.served = loop, transport, served
        shared = ConnectionContext(
            loop=loop,
            outbox=Outbox(loop),
            reaper=Reaper(loop),
            limits=Limits(),
            times=Times(),
            on_limit=lambda name: None,
        )
        info = ConnectionInfo(direction="inbound", protocol="HTTP/1.1", remote="127.0.0.1:1", local="127.0.0.1:2")
        self.server = H1Server(shared, info, served.serve, served.reject)
        self.server.attach(transport)
        self.to_send = b""
        self.answered = 0
        self.last_state, self.last_deadline = ServerState.IDLE, 0.0

    def is_open(self) -> bool:
        return not self.transport.ended

    def is_asked(self) -> bool:
        return self.is_open() and self.answered < len(self.served.requests)

    @precondition(lambda self: self.is_open() and self.transport.is_reading)
    @rule(request=st.sampled_from(WIRE), size=st.sampled_from([1, 10, 80, 1_000]))
    def bytes_arrive(self, request: bytes, size: int) -> None:
        if len(self.to_send) < size:
            self.to_send += request
        data, self.to_send = self.to_send[:size], self.to_send[size:]
        self.server.data_received(data)

    @precondition(is_asked)
    @rule(how=st.sampled_from(["whole", "whole", "whole", "in parts", "in parts", "aborted"]))
    def it_is_answered(self, how: str) -> None:
        stream = self.served.requests[self.answered].stream
        if how == "whole":
            stream.send_response(200, (), end=True)
        elif how == "in parts":
            stream.send_response(200, (), end=False)
            stream.send_data(b"part", end=False)
            assert self.server._state is ServerState.SERVING
            stream.send_data(b"", end=True)
        else:
            stream.reset(8)
        self.answered += 1

    @precondition(lambda self: self.is_open() and not self.server.is_paused)
    @rule()
    def the_socket_is_full(self) -> None:
        self.server.pause_writing()

    @precondition(lambda self: self.is_open() and self.server.is_paused)
    @rule()
    def the_socket_takes_more(self) -> None:
        self.server.resume_writing()

    @precondition(lambda self: self.loop.ready)
    @rule()
    def the_loop_turns(self) -> None:
        self.loop.turn()

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 3.0, 80.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.server.shared.reaper.sweep(self.loop.now)

    @precondition(lambda self: self.answered > 2)
    @rule()
    def the_process_drains(self) -> None:
        self.server.drain()

    @invariant()
    def what_waits_has_a_time_limit_and_what_is_served_has_none(self) -> None:
        if not self.is_open():
            return
        state, deadline = self.server._state, self.server.deadline
        assert (state is ServerState.SERVING) == self.is_asked()
        if state is ServerState.SERVING:
            assert deadline == 0.0
        elif not self.server.is_closing:
            assert 0.0 < deadline <= self.loop.now + max(TIME_LIMITS)

    @invariant()
    def what_arrives_does_not_extend_a_time_limit(self) -> None:
        state = self.server._state if self.is_open() else ServerState.IDLE
        if state is self.last_state and state is ServerState.HEAD:
            assert self.server.deadline == self.last_deadline
        if state is ServerState.LINGERING:
            assert self.server.deadline <= self.server._lingers_until
        self.last_state, self.last_deadline = state, self.server.deadline

    @invariant()
    def the_rest_of_a_request_is_dropped_until_it_ends(self) -> None:
        if self.is_open() and self.server._state is ServerState.LINGERING:
            assert not self.server._codec.is_over

    @invariant()
    def requests_are_served_one_at_a_time(self) -> None:
        assert len(self.served.requests) <= self.answered + 1
        assert len(self.served.rejected) <= 1


def test_the_states_of_a_clients_connection(loop: Any, served: Any, make_transport: Any) -> None:
    class Machine(ServerMachine):
        def __init__(self) -> None:
            super().__init__(type(loop)(), make_transport(), type(served)())

    run_state_machine_as_test(Machine, settings=settings(max_examples=150, stateful_step_count=40))


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_response_is_read_although_the_request_can_no_longer_be_sent(
    info: ConnectionInfo, make_sink: Callable[..., Any], is_whole: bool
) -> None:
    """The server answers at once and closes, with part of the request unread: its kernel resets the connection."""
    loop = asyncio.get_running_loop()
    shared = ConnectionContext(
        loop=loop,
        outbox=Outbox(loop),
        reaper=Reaper(loop),
        limits=Limits(),
        times=Times(),
        on_limit=lambda name: None,
    )
    pool = Pool()
    client = H1Client(shared, info, pool)
    lost = asyncio.Event()
    client.on_lost = lambda connection: lost.set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport, _ = await loop.create_connection(lambda: client, *server.getsockname())
        accepted, _ = server.accept()
        sink = make_sink(client)
        client.sink = sink
        client.send_request(RequestHead(0, b"POST", b"x", b"/", (), False, 1 << 30))
        client.send_data(b"x", end=False)
        client.flush()
        transport.pause_reading()  # a write finds the reset before a read does
        with accepted:
            assert accepted.recv(1)
            accepted.sendall(
                b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\n" + b"large"[: 5 if is_whole else 2]
            )
        async with asyncio.timeout(60):
            while not lost.is_set():
                client.send_data(b"x" * 65_536, end=False)
                client.flush()
                await asyncio.sleep(0)
    assert [head.status for head in sink.heads] == [413]
    assert (sink.body, sink.ended) == ((b"large", True) if is_whole else (b"la", False))
    assert (sink.reset is None) is is_whole
    assert pool.free == []
    assert pool.lost == 1
