"""Conversations of the HTTP/1.1 driver of a connection to a server, nearly all without sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.transport import h1_client
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_client import LONG, H1Client
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


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

        monkeypatch.setattr(h1_client, "unheard", look)
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
