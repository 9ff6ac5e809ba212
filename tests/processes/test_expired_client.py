"""Certificates of clients that expire soon: a real sidecar asks the clients to reconnect in time."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from meshproxy.codec.events import Event, GoneAway, ResponseHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.devtools.clients import SERVER_NAME, Certificate, tls_context
from meshproxy.devtools.local_mesh import CLIENT, TRUST_DOMAIN, LocalSidecar, local_replica

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

STATUS = b"/v1/models/half_plus_two"
LIFETIME = timedelta(seconds=6)
"""A fifth of it is left when the sidecar asks: enough for a client that a busy machine holds up."""
EACH = 0.1
"""Seconds between two requests."""


@pytest_asyncio.fixture(loop_scope="function")
async def running(tmp_path: Path) -> AsyncIterator[LocalSidecar]:
    async with local_replica(tmp_path / "mesh") as sidecar:
        yield sidecar


def expiring(running: LocalSidecar) -> Certificate:
    """The client's certificate, which expires soon."""
    mesh = running.mesh
    namespace, account = CLIENT
    end = datetime.now(UTC) + LIFETIME
    issued = mesh.ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}", not_after=end)
    return Certificate(running.client.bundle, *issued.write(mesh.directory, "expiring"))


async def connect(
    running: LocalSidecar, certificate: Certificate, protocol: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context: ssl.SSLContext = tls_context(certificate)
    context.set_alpn_protocols([protocol])
    return await asyncio.open_connection("127.0.0.1", running.port, ssl=context, server_hostname=SERVER_NAME)


async def test_http1_gets_connection_close_with_an_answer(running: LocalSidecar) -> None:
    end = time.time() + LIFETIME.total_seconds()
    reader, writer = await connect(running, expiring(running), "http/1.1")

    async def ask() -> bytes:
        writer.write(b"GET " + STATUS + b" HTTP/1.1\r\nhost: a\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        assert head.startswith(b"http/1.1 200 ")
        return head

    while b"\r\nconnection: close\r\n" not in await ask():
        await asyncio.sleep(EACH)
    assert time.time() < end
    assert await reader.read() == b""
    writer.close()
    assert await drained(running) == {"certificate-age": 1}


async def test_http1_is_closed_if_it_asks_nothing(running: LocalSidecar) -> None:
    reader, writer = await connect(running, expiring(running), "http/1.1")
    assert await reader.read() == b""
    writer.close()
    assert await drained(running) == {"certificate-age": 1, "certificate-expired": 1}


async def drained(running: LocalSidecar) -> dict[str, float]:
    """Inbound connections that were given up, by reason."""
    name = "meshproxy_connections_drained_total"
    page = await running.metrics()
    reasons = ("certificate-age", "certificate-expired")
    found = {reason: page.get(f'{name}{{direction="inbound",reason="{reason}"}}') for reason in reasons}
    return {reason: count for reason, count in found.items() if count is not None}


async def test_http2_gets_goaway_between_two_answers(running: LocalSidecar) -> None:
    end = time.time() + LIFETIME.total_seconds()
    reader, writer = await connect(running, expiring(running), "h2")
    codec = H2Connection(Role.CLIENT, Limits(), 0.0)
    events: list[Event] = []

    async def ask() -> int:
        events.clear()
        codec.send_request(b"GET", b"https", b"a", STATUS, (), end=True)
        writer.write(codec.take_output())
        while not any(getattr(event, "end", False) for event in events):
            await hear()
        return next(event.status for event in events if isinstance(event, ResponseHead))

    async def hear() -> None:
        data = await reader.read(65_536)
        assert data
        events.extend(codec.receive(data, 0.0))
        writer.write(codec.take_output())

    assert await ask() == 200
    while not any(isinstance(event, GoneAway) for event in events):
        await asyncio.sleep(EACH)
        assert await ask() == 200
    assert time.time() < end
    while len(told := [event.last_stream for event in events if isinstance(event, GoneAway)]) < 2:
        await hear()
    assert told[0] == 2**31 - 1
    assert told[1] < 1_000  # the last request, at the end of the round trip
    assert await reader.read() == b""  # closed by the sidecar
    writer.close()
    assert await drained(running) == {"certificate-age": 1}
