from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.target import Target, client_tls, open_rest, rest_request

SERVER_ID = "spiffe://dev.example/ns/serving/sa/models"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    authority = DevelopmentCA.create("dev.example")
    authority.write(tmp_path)
    authority.issue(SERVER_ID).write(tmp_path, "server")
    authority.issue("spiffe://dev.example/ns/pricing/sa/quoter").write(tmp_path, "client")
    return tmp_path


@asynccontextmanager
async def answering(files: Path) -> AsyncIterator[int]:
    """A server that wants a client certificate and answers every request with 200."""

    handlers: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "server.pem", files / "server-key.pem")
    context.load_verify_locations(files / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await asyncio.gather(*(handler for handler in handlers if handler is not None))
        server.close()
        await server.wait_closed()


async def test_requests_go_over_mtls_to_the_server_that_was_meant(files: Path) -> None:
    async with answering(files) as port:
        tls = client_tls(files / "ca.pem", files / "client.pem", files / "client-key.pem", checks_name=False)
        target = Target("127.0.0.1", port, tls, server_id=SERVER_ID)
        driver = Driver()
        connections = await open_rest(target, rest_request(target, "/v1/models/m:predict", b"{}"), 2, driver)
        run = await driver.run_closed(connections, 10, at_most=6)
        for connection in connections:
            connection.transport.close()
        await asyncio.sleep(0)
        assert (run.done, run.errors.total()) == (6, 0)


async def test_another_server_is_not_spoken_to(files: Path) -> None:
    async with answering(files) as port:
        tls = client_tls(files / "ca.pem", files / "client.pem", files / "client-key.pem", checks_name=False)
        target = Target("127.0.0.1", port, tls, server_id="spiffe://dev.example/ns/other/sa/models")
        with pytest.raises(ConnectionError, match=f"has the SPIFFE id {SERVER_ID}, not"):
            await open_rest(target, b"", 1, Driver())


async def test_a_certificate_without_the_name_is_refused_unless_an_id_is_asked_for(files: Path) -> None:
    async with answering(files) as port:
        tls = client_tls(files / "ca.pem", files / "client.pem", files / "client-key.pem", checks_name=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            await open_rest(Target("127.0.0.1", port, tls), b"", 1, Driver())


def test_a_request_names_its_target_and_carries_the_token() -> None:
    target = Target("10.0.0.1", 18_500, None, "models.example", "abc")
    request = rest_request(target, "/v1/models/m:predict", b"{}")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/models/m:predict HTTP/1.1\r\nhost: models.example:18500\r\n")
    assert b"\r\nauthorization: Bearer abc" in head
    assert b"\r\ncontent-length: 2" in head
    assert body == b"{}"
