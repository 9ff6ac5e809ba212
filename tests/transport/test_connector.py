"""Real sockets of this machine: a server of asyncio's at the other end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.transport.connection import Driving, Times
from meshproxy.transport.connector import ConnectError, connect_h1, connect_h2
from meshproxy.transport.h2 import H2Client
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper


class Owner:
    """A pool that is told when connections come back and when they are gone."""

    def __init__(self) -> None:
        self.free: list[Any] = []
        self.gone = asyncio.Event()

    def released(self, connection: Any) -> None:
        self.free.append(connection)

    def freed(self, connection: Any) -> None: ...
    def retired(self, connection: Any) -> None: ...

    def closed(self, connection: Any) -> None:
        self.gone.set()


class Answer:
    """A sink that waits for the end of the answer."""

    def __init__(self, stream: Any) -> None:
        stream.sink = self
        self.stream = stream
        self.status = 0
        self.body = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def head_received(self, head: Any) -> None:
        self.status = head.status
        if head.end:
            self.over.set_result(None)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self.body += data
        self.stream.credit(flow)
        if end:
            self.over.set_result(None)

    def trailers_received(self, headers: Any) -> None:
        self.over.set_result(None)

    def rejected(self, rejected: Any) -> None:
        self.over.set_exception(AssertionError("a client is not refused by its codec"))

    def reset_received(self, code: int, reason: str) -> None:
        self.over.set_exception(ConnectionError(reason))

    def drained(self) -> None: ...


@pytest.fixture
async def running() -> Driving:
    loop = asyncio.get_running_loop()
    outbox, reaper = Outbox(loop), Reaper(loop)
    return Driving(loop=loop, outbox=outbox, reaper=reaper, limits=Limits(), times=Times(), on_limit=lambda name: None)


async def serve_h1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"GET /a HTTP/1.1\r\nhost: x\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    assert await reader.read() == b""
    writer.close()


async def serve_h2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    codec = H2Connection(Role.SERVER, Limits(), 0.0)
    while data := await reader.read(65_536):
        for event in codec.receive(data, 0.0):
            if isinstance(event, RequestHead):
                codec.send_response(event.stream, 200, (), end=False)
                codec.send_data(event.stream, b"hi", end=True)
        writer.write(codec.take_output())
    writer.close()


@asynccontextmanager
async def serving(handler: Any, path: Path | None = None) -> AsyncIterator[str]:
    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(handler, path)
        address = str(path)
    else:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield address
    finally:
        server.close()


async def exchange(connection: Any) -> Answer:
    answer = Answer(connection.open() if isinstance(connection, H2Client) else connection)
    answer.stream.send_request(RequestHead(0, b"GET", b"x", b"/a", (), end=True))
    await answer.over
    return answer


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("is_unix", [False, True], ids=["TCP", "UNIX socket"])
async def test_an_exchange_over_a_connection(running: Driving, version: str, is_unix: bool, tmp_path: Path) -> None:
    owner = Owner()
    connect, handler = (connect_h1, serve_h1) if version == "HTTP/1.1" else (connect_h2, serve_h2)
    async with serving(handler, tmp_path / "socket" if is_unix else None) as address:
        connection = await connect(running, address, owner, 5.0)
        facts = connection.facts
        assert (facts.direction, facts.protocol, facts.remote) == ("upstream", version, address)
        assert len(running.reaper) == 1
        answer = await exchange(connection)
        assert (answer.status, answer.body) == (200, b"hi")
        connection.close()
        await owner.gone.wait()
    assert len(running.reaper) == 0


async def test_small_pieces_are_not_kept_back(running: Driving) -> None:
    owner = Owner()
    async with serving(serve_h1) as address:
        connection = await connect_h1(running, address, owner, 5.0)
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await exchange(connection)
        connection.close()
        await owner.gone.wait()


@contextmanager
def listening_to_nobody() -> Iterator[str]:
    """A port whose queue is full: who knocks is not answered."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_a_server_that_does_not_accept_is_given_up(running: Driving, connect: Any) -> None:
    with listening_to_nobody() as address, pytest.raises(ConnectError) as caught:
        await connect(running, address, Owner(), 0.1)
    assert str(caught.value) == f"{address} did not accept a connection within 0.1 s"
    assert len(running.reaper) == 0


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_a_server_that_is_not_there_is_named(running: Driving, connect: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectError) as caught:
        await connect(running, address, Owner(), 5.0)
    assert str(caught.value).startswith(f"{address} cannot be reached: ")
    assert "refused" in str(caught.value)
    path = str(tmp_path / "nobody")
    with pytest.raises(ConnectError, match=f"^{path} cannot be reached: No such file"):
        await connect(running, path, Owner(), 5.0)
    assert len(running.reaper) == 0


class Dialling:
    """A loop that only says whom it was asked to call."""

    def __init__(self) -> None:
        self.called: tuple[str, int] | None = None

    def time(self) -> float:
        return 0.0

    async def create_connection(self, factory: Any, host: str, port: int) -> None:
        self.called = (host, port)
        raise OSError(113, "No route to host")


@pytest.mark.parametrize(
    ("address", "host"),
    [("[::1]:8500", "::1"), ("models.example:8500", "models.example"), ("10.0.0.1:8500", "10.0.0.1")],
)
async def test_addresses(running: Driving, address: str, host: str) -> None:
    dialling = running.loop = Dialling()  # type: ignore[assignment]
    with pytest.raises(ConnectError, match="No route to host"):
        await connect_h1(running, address, Owner(), 1.0)
    assert dialling.called == (host, 8500)
