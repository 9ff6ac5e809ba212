"""Conversations of the HTTP/1.1 drivers, without sockets: how they read."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.transport import connection as connection_module
from meshproxy.transport import h1
from meshproxy.transport.connection import BODY_BYTES, LARGE_READ, READ_BYTES, ConnectionContext
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_server import H1Server

GET = b"GET /v1/models/m HTTP/1.1\r\nhost: x\r\n\r\n"


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
