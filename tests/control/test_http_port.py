"""A port of an aiohttp application, over loopback."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from meshproxy.config.values import Address
from meshproxy.control import http_port as module
from meshproxy.control.authority import Authority
from meshproxy.control.http_port import HttpPort
from meshproxy.control.webhook import _context
from tests.control.test_webhook import NAME, credentials
from tests.processes.waiting import until
from tests.transport.short_of_descriptors import refuse_accepts

ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
Handler = Callable[[web.Request], Awaitable[web.Response]]


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello\n")


@asynccontextmanager
async def serving(
    most: int, context: ssl.SSLContext | None = None, handler: Handler = hello
) -> AsyncIterator[tuple[HttpPort, list[str]]]:
    """A port, and the limits that clients have exceeded."""
    application = web.Application()
    application.add_routes([web.get("/", handler)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    exceeded: list[str] = []
    port = HttpPort("web", runner, Address("127.0.0.1", 0), most, exceeded.append, context)
    port.start()
    try:
        yield port, exceeded
    finally:
        port.stop()
        await runner.cleanup()


class Client:
    """One connection, from an address of this host."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: HttpPort, source: str = "127.0.0.1") -> Client:
        host, _, number = port.address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(number), local_addr=(source, 0)))

    async def ask(self) -> bytes:
        """The first line of an answer; empty if the connection is closed."""
        try:
            self._writer.write(ASK)
            answer = await self._reader.readuntil(b"hello\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            return b""
        return answer.partition(b"\r\n")[0]

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


OK = b"HTTP/1.1 200 OK"


async def test_the_client_with_most_connections_loses_its_oldest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(4) as (port, exceeded):
        probe = await Client.connect(port, "127.0.0.2")
        assert await probe.ask() == OK
        crowd = [await Client.connect(port) for _ in range(3)]
        await until(lambda: len(port) == 4)
        scrape = await Client.connect(port, "127.0.0.3")
        assert await scrape.ask() == OK
        assert await probe.ask() == OK
        assert [await each.ask() for each in crowd] == [b"", OK, OK]
        assert (len(port), exceeded) == (4, ["connections"])
        for each in (probe, scrape, *crowd):
            await each.close()
    [line] = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert line == "web: 4 connections are open: the oldest of 127.0.0.1, which has most, is closed"


async def test_one_that_gives_way_before_its_turn_is_closed() -> None:
    """All of these are accepted at once, so there was no turn in which the first could be set up."""
    async with serving(1) as (port, exceeded):
        host, _, number = port.address.rpartition(":")
        clients = [socket.create_connection((host, int(number))) for _ in range(3)]
        await until(lambda: len(exceeded) == 2)
        for client in clients[:2]:
            with client:
                client.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        assert len(port) == 1
        clients[2].close()


async def test_a_connection_that_has_ended_counts_no_more() -> None:
    async with serving(2) as (port, exceeded):
        for _ in range(5):
            client = await Client.connect(port)
            assert await client.ask() == OK
            await client.close()
            await until(lambda: len(port) == 0)
        assert exceeded == []


async def test_one_whose_handshake_goes_on_counts_and_gives_way() -> None:
    authority = Authority.create("m.example", time.time())
    context = _context(credentials(authority))
    trusts = ssl.create_default_context(cadata=authority.bundle_pem.decode())
    async with serving(2, context) as (port, exceeded):
        host, _, number = port.address.rpartition(":")
        silent = [await Client.connect(port) for _ in range(2)]
        await until(lambda: len(port) == 2)
        reader, writer = await asyncio.open_connection(host, int(number), ssl=trusts, server_hostname=NAME)
        writer.write(ASK)
        assert (await reader.readuntil(b"hello\n")).startswith(OK)
        assert await silent[0].ask() == b""
        assert (len(port), exceeded) == (2, ["connections"])
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        for each in silent:
            await each.close()
        await until(lambda: len(port) == 0)


async def test_a_handshake_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    context = _context(credentials(Authority.create("m.example", time.time())))
    async with serving(2, context) as (port, _):
        client = await Client.connect(port)
        assert await client.ask() == b""
        await client.close()
        await until(lambda: len(port) == 0)
    [line] = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert line.startswith("web: TLS handshake with 127.0.0.1:")
    assert line.endswith(" failed (not_tls): http request")


async def test_a_client_that_sends_no_head_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    async with serving(2) as (port, exceeded):
        host, _, number = port.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(number))
        writer.write(ASK[:-2])
        assert await reader.read() == b""
        assert (len(port), exceeded) == (0, [])
        writer.close()


async def test_a_shortage_of_descriptors_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_accepts(monkeypatch, errno.EMFILE, 1)
    async with serving(2) as (port, exceeded):
        client = await Client.connect(port)
        assert await client.ask() == OK
        await client.close()
        assert exceeded == ["descriptors"]
