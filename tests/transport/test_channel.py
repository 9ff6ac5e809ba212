"""Channels over real sockets: one connection, its events, its end; HTTP/1.1 over TLS to aiohttp."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.transport import channel as module
from meshproxy.transport.channel import Channel, ChannelEvent, H1Channel, H2Channel, Target, own_connections
from meshproxy.transport.client import ClientError, ClientFailure, Response, exchange
from meshproxy.transport.connector import PeerSecurity, named_server
from meshproxy.transport.listener import PeerRejected

CONNECTED, GOING_AWAY, LOST = ChannelEvent.CONNECTED, ChannelEvent.GOING_AWAY, ChannelEvent.LOST


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("models:8500", "models:8500"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("[::1]:65535", "[::1]:65535"),
        ("unix:/run/agent.sock", "unix:/run/agent.sock"),
        ("unix:///run/agent.sock", "unix:/run/agent.sock"),
    ],
)
def test_targets(text: str, address: str) -> None:
    assert Target.parse(text) == Target(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models",
        "models:",
        ":80",
        "models:0",
        "models:65536",
        "models:x",
        "a b:1",
        "::1:80",
        "http://models:80",
        "models:80\n",
        "unix:",
        "unix:run",
        "unix://host/run",
        "unix:////run",
        "unix:/a\0b",
        "/run/agent.sock",
    ],
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ValueError, match=r"is (not|neither)"):
        Target.parse(text)


class World:
    """What a channel needs, and what it said."""

    def __init__(self) -> None:
        self.shared = own_connections()
        self.reaper = self.shared.reaper
        self.events: asyncio.Queue[ChannelEvent] = asyncio.Queue()

    def h1(self, target: Target, **options: Any) -> H1Channel:
        return H1Channel(self.shared, target, on_event=self.events.put_nowait, **options)

    def h2(self, target: Target, **options: Any) -> H2Channel:
        return H2Channel(self.shared, target, on_event=self.events.put_nowait, **options)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    while len(made.reaper):  # connections that are about to be gone
        await asyncio.sleep(0)


async def get(channel: Channel[Any], target: bytes = b"/", timeout: float = 10.0) -> Response:
    return await exchange(
        channel, RequestHead(0, b"GET", b"", target, (), end=True), timeout=timeout, max_body_bytes=1_000
    )


class Server:
    """An HTTP/2 server whose codecs the test has in hand. Answers `/` at once and nothing else."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections: list[tuple[H2Connection, asyncio.StreamWriter]] = []
        self.waiting: asyncio.Queue[int] = asyncio.Queue()
        """Streams of other requests."""
        self.ended = asyncio.Event()
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        codec = H2Connection(Role.SERVER, self.limits, 0.0)
        self.connections.append((codec, writer))
        try:
            while data := await reader.read(65_536):
                for event in codec.receive(data, 0.0):
                    if isinstance(event, RequestHead) and event.target == b"/":
                        codec.send_response(event.stream, 200, (), True)
                    elif isinstance(event, RequestHead):
                        self.waiting.put_nowait(event.stream)
                writer.write(codec.take_output())
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.ended.set()

    def do(self, action: Callable[[H2Connection], Any]) -> None:
        codec, writer = self.connections[-1]
        action(codec)
        writer.write(codec.take_output())


@asynccontextmanager
async def h2_server(limits: Limits | None = None) -> AsyncIterator[Server]:
    server = Server(limits or Limits())
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield server
    listening.close()
    for _, writer in server.connections:
        writer.transport.abort()
    await listening.wait_closed()


async def test_one_connection_for_all_streams(world: World) -> None:
    async with h2_server() as server, world.h2(Target.parse(server.address)) as channel:
        responses = await asyncio.gather(*(get(channel) for _ in range(20)))
        assert [response.status for response in responses] == [200] * 20
        assert len(server.connections) == 1
        assert world.events.get_nowait() is CONNECTED
    await server.ended.wait()
    assert await world.events.get() is LOST


async def test_streams_beyond_what_the_server_allows_wait(world: World) -> None:
    async with h2_server(Limits(streams=2)) as server, world.h2(Target(server.address)) as channel:
        slow = [asyncio.create_task(get(channel, b"/slow")) for _ in range(2)]
        streams = [await server.waiting.get() for _ in slow]
        third = asyncio.create_task(get(channel))
        fourth = asyncio.create_task(get(channel, timeout=0.01))
        with pytest.raises(ClientError) as failed:
            await fourth
        assert failed.value.failure is ClientFailure.TIMEOUT
        assert not third.done()
        server.do(lambda codec: codec.send_response(streams[0], 200, (), True))
        assert (await third).status == 200
        server.do(lambda codec: codec.send_response(streams[1], 200, (), True))
        assert [(await task).status for task in slow] == [200, 200]
        assert len(server.connections) == 1


async def test_a_server_that_goes_away(world: World) -> None:
    """What is open ends in peace, what comes next has a connection of its own."""
    async with h2_server() as server, world.h2(Target(server.address)) as channel:
        slow = asyncio.create_task(get(channel, b"/slow"))
        stream = await server.waiting.get()
        server.do(lambda codec: codec.go_away(final=False))
        assert [await world.events.get() for _ in range(2)] == [CONNECTED, GOING_AWAY]
        old = server.connections[0]
        assert (await get(channel)).status == 200
        assert await world.events.get() is CONNECTED
        assert len(server.connections) == 2
        old[0].send_response(stream, 200, (), True)
        old[1].write(old[0].take_output())
        assert (await slow).status == 200
        await server.ended.wait()
        assert world.events.empty()


async def test_a_connection_that_is_lost(world: World) -> None:
    async with h2_server() as server, world.h2(Target(server.address)) as channel:
        slow = asyncio.create_task(get(channel, b"/slow"))
        await server.waiting.get()
        server.connections[0][1].transport.abort()
        with pytest.raises(ClientError) as failed:
            await slow
        assert failed.value.failure is ClientFailure.RESET
        assert [await world.events.get() for _ in range(2)] == [CONNECTED, LOST]
        assert (await get(channel)).status == 200
        assert await world.events.get() is CONNECTED


@pytest.mark.parametrize("version", ["h1", "h2"])
async def test_an_idle_connection_is_closed(world: World, version: str) -> None:
    async def serve(request: web.BaseRequest) -> web.Response:
        return web.Response()

    async with h2_server() as server, aiohttp_server(serve) as address:
        make = getattr(world, version)
        async with make(Target(address if version == "h1" else server.address), idle_timeout=60.0) as channel:
            await get(channel)
            now = world.shared.loop.time()
            world.reaper.sweep(now + 59.0)
            assert list(world.events._queue) == [CONNECTED]  # type: ignore[attr-defined]
            world.reaper.sweep(now + 61.0)
            assert [await world.events.get() for _ in range(2)] == [CONNECTED, LOST]
            await get(channel)
            assert await world.events.get() is CONNECTED


async def test_closing_fails_what_is_open_and_what_comes(world: World) -> None:
    async with h2_server(Limits(streams=1)) as server:
        channel = world.h2(Target(server.address))
        slow = asyncio.create_task(get(channel, b"/slow"))
        await server.waiting.get()
        behind = asyncio.create_task(get(channel))
        await asyncio.sleep(0)
        await channel.close()
        await server.ended.wait()
        failures = []
        for task in (slow, behind, asyncio.create_task(get(channel))):
            with pytest.raises(ClientError) as failed:
                await task
            failures.append(failed.value.failure)
        assert failures == [ClientFailure.RESET, ClientFailure.CONNECT, ClientFailure.CONNECT]
        assert not channel._live
        await channel.close()


async def test_aborting_does_not_wait(world: World) -> None:
    async with h2_server() as server:
        channel = world.h2(Target(server.address))
        slow = asyncio.create_task(get(channel, b"/slow"))
        await server.waiting.get()
        channel.abort()
        with pytest.raises(ClientError) as failed:
            await slow
        assert failed.value.failure is ClientFailure.RESET
        with pytest.raises(ClientError, match="is closed"):
            await get(channel)
        await server.ended.wait()


async def test_closing_while_connecting(world: World) -> None:
    accepted = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    channel = world.h2(Target(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    task = asyncio.create_task(get(channel))
    await accepted.wait()
    await channel.close()
    with pytest.raises(ClientError, match="is closed"):
        await task
    server.close()
    await server.wait_closed()
    assert world.events.empty()


async def test_a_peer_that_never_finishes_its_tls_is_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing over TLS waits for the peer's close_notify; not for ever."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    authority = DevelopmentCA.create("issuer.example")
    ca_file = authority.write(tmp_path)
    context = server_context(authority, tmp_path)
    done = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await done.wait()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    target = Target(f"localhost:{port}", named_server(lambda: ssl.create_default_context(cafile=str(ca_file))))
    async with asyncio.timeout(60):
        async with world.h1(target) as channel:
            assert (await get(channel)).status == 200
        assert not channel._live
    done.set()
    for writer in writers:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("version", ["h1", "h2"])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/at.all"])
async def test_no_listener(world: World, version: str, address: str) -> None:
    async with getattr(world, version)(Target(address)) as channel:
        with pytest.raises(ClientError, match=r"cannot be reached: (Connection refused|No such file)") as failed:
            await get(channel)
    assert failed.value.failure is ClientFailure.CONNECT


async def test_a_bug_while_connecting_fails_those_that_wait(world: World) -> None:
    def broken() -> ssl.SSLContext:
        raise KeyError("context")

    async with world.h2(Target("127.0.0.1:1", PeerSecurity(broken, lambda tls: None))) as channel:  # type: ignore[arg-type,return-value]
        with pytest.raises(ClientError, match="KeyError"):
            await get(channel)


# HTTP/1.1 and aiohttp

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def aiohttp_server(
    handler: Handler, *, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.UnixSite(runner, path) if path is not None else web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    yield f"unix:{path}" if path is not None else f"localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def authority() -> DevelopmentCA:
    return DevelopmentCA.create("issuer.example")


async def echo(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    return web.Response(body=body or request.path_qs.encode(), headers={"x-host": request.host})


def server_context(authority: DevelopmentCA, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(dns=["localhost"]).write(folder, "server"))
    return context


async def test_exchanges_with_aiohttp_over_tls(world: World, authority: DevelopmentCA, tmp_path: Path) -> None:
    ca_file = str(authority.write(tmp_path))
    security = named_server(lambda: ssl.create_default_context(cafile=ca_file))
    async with aiohttp_server(echo, tls=server_context(authority, tmp_path)) as address:
        async with world.h1(Target.parse(address, security)) as channel:
            # One connection: they wait for each other.
            responses = await asyncio.gather(*(get(channel, b"/%d" % number) for number in range(5)))
            assert [response.body for response in responses] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
            assert dict(responses[0].headers)[b"x-host"] == address.encode()
            body = bytes(range(256)) * 2_000
            head = RequestHead(0, b"POST", b"elsewhere.example", b"/", (), end=False, length=len(body))
            response = await exchange(channel, head, body, timeout=10, max_body_bytes=len(body))
            assert response.body == body
            assert dict(response.headers)[b"x-host"] == b"elsewhere.example"
            assert channel._current is not None
            assert channel._current.info.tls_version == "TLSv1.3"
        assert [await world.events.get() for _ in range(2)] == [CONNECTED, LOST]


async def test_exchanges_with_aiohttp_over_a_unix_socket(world: World, tmp_path: Path) -> None:
    async with aiohttp_server(echo, path=tmp_path / "s") as address, world.h1(Target(address)) as channel:
        response = await get(channel, b"/a?b")
        assert (response.body, dict(response.headers)[b"x-host"]) == (b"/a?b", b"localhost")


async def test_a_server_that_closes_after_each_response(world: World) -> None:
    async def once(request: web.BaseRequest) -> web.Response:
        response = web.Response(text="hi")
        response.force_close()
        return response

    async with aiohttp_server(once) as address, world.h1(Target(address)) as channel:
        assert [(await get(channel)).body for _ in range(3)] == [b"hi"] * 3


async def test_servers_that_tls_does_not_trust(world: World, authority: DevelopmentCA, tmp_path: Path) -> None:
    ca_file = str(authority.write(tmp_path))

    def reject(tls: ssl.SSLObject) -> Any:
        assert tls.getpeercert(binary_form=True)
        raise PeerRejected("it is somebody else")

    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=ca_file)

    cases = [
        (named_server(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)), "is not issued by a trusted authority"),
        (PeerSecurity(trusting, reject), "has an unexpected identity: it is somebody else"),
    ]
    async with aiohttp_server(echo, tls=server_context(authority, tmp_path)) as address:
        for security, why in cases:
            async with world.h1(Target(address, security)) as channel:
                with pytest.raises(ClientError, match=why) as failed:
                    await get(channel)
            assert failed.value.failure is ClientFailure.TLS
        async with world.h1(Target(f"127.0.0.1:{address.partition(':')[2]}", named_server(trusting))) as channel:
            with pytest.raises(ClientError, match="IP address mismatch"):
                await get(channel)
    assert world.events.empty()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_without_tls(world: World, answer: bytes) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    target = Target(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", named_server(ssl.create_default_context))
    async with world.h1(target) as channel:
        with pytest.raises(ClientError) as failed:
            await get(channel)
    assert failed.value.failure is (ClientFailure.TLS if answer else ClientFailure.CONNECT)
    server.close()
    await server.wait_closed()


async def test_a_server_that_is_silent_in_the_handshake(world: World) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    target = Target(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", named_server(ssl.create_default_context))
    async with world.h1(target, connect_timeout=0.05) as channel:
        with pytest.raises(ClientError, match="did not accept a connection and complete the TLS") as failed:
            await get(channel)
    assert failed.value.failure is ClientFailure.TIMEOUT
    server.close()
    await server.wait_closed()
