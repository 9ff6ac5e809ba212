"""How late time limits are, measured from outside a sidecar: figures, printed and held against docs/behaviour.md. They
need a quiet machine."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.local_mesh import Document, document, environment, local_mesh

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(120)]

REQUEST = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nhost: models\r\ncontent-length: 2\r\n\r\n{}"
ROUNDS = 12
MARGIN = 0.015
"""Seconds for two processes on a machine."""


def allowed(limit: float) -> float:
    return max(0.1 * limit, 0.025) + MARGIN


async def thinks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model server that reads a request and says nothing."""
    with suppress(ConnectionError):
        await reader.read()
    writer.close()


async def stops(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One that stops half way through its answer."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
    with suppress(ConnectionError):
        await reader.read()
    writer.close()


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    writer.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def sidecar(
    folder: Path, serve: Serve, *, mtls: Any = "disabled", limits: Document | None = None, route: Document | None = None
) -> AsyncIterator[int]:
    """The port of a sidecar before a server like this."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with local_mesh(folder / "mesh") as mesh:
            address = "{}:{}".format(*server.sockets[0].getsockname())
            documents = environment(address, mtls=mtls, mesh={"limits": limits or {}}, sidecar={"drainTimeout": 0})
            if route is not None:
                documents.append(document("ModelRoute", {"models": ["*"], **route}))
            yield (await mesh.sidecar("the sidecar", documents)).port
    finally:
        server.close()


async def lateness(port: int, limit: float, sent: bytes, *, since: bytes = b"", until: bytes = b"") -> None:
    """How long after the limit the connection ends, or these bytes come; counted from when `since` has come."""
    late = []
    for number in range(ROUNDS):
        await asyncio.sleep(0.017 * number)  # at another moment between two sweeps
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        if since:
            await reader.readuntil(since)
            begun = time.monotonic()
        with suppress(ConnectionError):
            await (reader.readuntil(until) if until else reader.read())
        late.append(time.monotonic() - begun - limit)
        writer.close()
    print(f"{limit:g} s: late by {statistics.median(late) * 1e3:.1f} ms, at most {max(late) * 1e3:.1f}")
    assert min(late) >= -0.003
    # What the machine does meanwhile delays some.
    assert sorted(late)[ROUNDS * 3 // 4] <= allowed(limit)


LIMITS = pytest.mark.parametrize("limit", [0.02, 0.24, 1.0])


@LIMITS
async def test_head_timeout(tmp_path: Path, limit: float) -> None:
    async with sidecar(tmp_path, answers, limits={"headTimeout": limit}) as port:
        await lateness(port, limit, b"GET /")


@LIMITS
async def test_handshake_timeout(tmp_path: Path, limit: float) -> None:
    async with sidecar(tmp_path, answers, mtls="strict", limits={"handshakeTimeout": limit}) as port:
        await lateness(port, limit, b"\x16\x03\x01")


@LIMITS
async def test_idle_timeout(tmp_path: Path, limit: float) -> None:
    async with sidecar(tmp_path, answers, limits={"idleTimeout": limit}) as port:
        await lateness(port, limit, REQUEST, since=b"{}")


@LIMITS
async def test_body_stall_timeout(tmp_path: Path, limit: float) -> None:
    async with sidecar(tmp_path, thinks, limits={"bodyStallTimeout": limit}) as port:
        await lateness(port, limit, REQUEST[:-1], until=b"\r\n\r\n")


@LIMITS
@pytest.mark.parametrize("field", ["timeout", "tryTimeout"])
async def test_timeout(tmp_path: Path, limit: float, field: str) -> None:
    async with sidecar(tmp_path, thinks, route={field: limit}) as port:
        await lateness(port, limit, REQUEST, until=b"\r\n\r\n")


@LIMITS
async def test_the_idle_timeout_of_a_route(tmp_path: Path, limit: float) -> None:
    async with sidecar(tmp_path, stops, route={"idleTimeout": limit}) as port:
        await lateness(port, limit, REQUEST, since=b"12345")


@LIMITS
async def test_queue_timeout(tmp_path: Path, limit: float) -> None:
    async with sidecar(tmp_path, thinks, route={"concurrency": {"limit": 1, "queueTimeout": limit}}) as port:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(REQUEST)
        await lateness(port, limit, REQUEST, until=b"\r\n\r\n")
        first.close()
