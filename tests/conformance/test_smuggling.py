"""Requests that parsers read differently, over a real socket: neither they nor what they hide reach the model server.

The cases are of the classes that HTTP desync research has found in proxies (RFC 9112 section 11.2, and the published
attacks on Transfer-Encoding and Content-Length); the codec's own tests have the full table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meshproxy.devtools.local_mesh import LocalSidecar, environment, local_sidecar
from tests.conformance.conftest import LANES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), LANES]

HIDDEN = b"POST /v1/models/hidden:predict HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
START = b"POST /v1/models/seen:predict HTTP/1.1\r\nhost: a\r\n"


class Recorder:
    """A model server that answers everything and remembers every byte."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65536):
                self.received += data
                if b"\r\n\r\n" in data:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except ConnectionResetError:
            pass  # a request that was broken off
        writer.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield recorder, f"{host}:{port}"
    server.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(
    upstream: tuple[Recorder, str], tmp_path_factory: pytest.TempPathFactory, lane: bool
) -> AsyncIterator[LocalSidecar]:
    documents = environment(rest=upstream[1], mtls="disabled", sidecar={"drainTimeout": "1s", "expressLane": lane})
    async with local_sidecar(tmp_path_factory.mktemp("smuggling"), documents) as started:
        yield started


async def exchange(running: LocalSidecar, data: bytes, answers: int | None = None) -> bytes:
    """Sends bytes and reads what comes back: until the sidecar closes, or so many whole answers of the recorder's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    received = b""
    try:
        async with asyncio.timeout(60):
            writer.write(data)
            while (answers is None or received.count(b"\r\n\r\n{}") < answers) and (piece := await reader.read(65536)):
                received += piece
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return received


REFUSED = {
    "both lengths, chunked last": START + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "both lengths, chunked first": START
    + b"transfer-encoding: chunked\r\ncontent-length: 100\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "two lengths that differ": START + b"content-length: 2\r\ncontent-length: 90\r\n\r\n{}" + HIDDEN,
    "two lengths in one field": START + b"content-length: 2, 90\r\n\r\n{}" + HIDDEN,
    "a signed length": START + b"content-length: +2\r\n\r\n{}" + HIDDEN,
    "a hexadecimal length": START + b"content-length: 0x2\r\n\r\n{}" + HIDDEN,
    "a length with an underscore": START + b"content-length: 1_0\r\n\r\n{}" + HIDDEN,
    "a length beyond all numbers": START + b"content-length: 99999999999999999999\r\n\r\n{}" + HIDDEN,
    "an empty length": START + b"content-length: \r\n\r\n" + HIDDEN,
    "space before the colon": START + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding spelt oddly": START + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": START + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked, then another": START + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two codings in two fields": START
    + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "a vertical tab in the coding": START + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a NUL in a value": START + b"x: a\x00b\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "a bare CR in a value": START + b"x: a\rtransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "a bare LF as line end": b"POST /v1/models/seen:predict HTTP/1.1\nhost: a\ncontent-length: 2\n\n{}" + HIDDEN,
    "a folded line": START + b"x: a\r\n transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "a field before the first": b"POST /v1/models/seen:predict HTTP/1.1\r\n host: a\r\nhost: a\r\n\r\n" + HIDDEN,
    "no host": b"POST /v1/models/seen:predict HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "two hosts": START + b"host: b\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "a coding on HTTP/1.0": b"POST /v1/models/seen:predict HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    b"0\r\n\r\n" + HIDDEN,
    "the length is nominated away": START + b"connection: content-length\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN,
    "a space in the target": b"POST /v1/models/seen:predict HTTP/1.1 HTTP/1.1\r\nhost: a\r\n\r\n" + HIDDEN,
    "a method of bad bytes": b"PO ST /v1/models/seen:predict HTTP/1.1\r\nhost: a\r\n\r\n" + HIDDEN,
    "HTTP/1.10": b"POST /v1/models/seen:predict HTTP/1.10\r\nhost: a\r\n\r\n" + HIDDEN,
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n" + HIDDEN,
}

BROKEN_BODIES = {
    "a chunk size with a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond all numbers": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": b"2\r\n{}{}\r\n0\r\n\r\n",
    "a bare LF after the size": b"2\n{}\r\n0\r\n\r\n",
    "a bare CR in an extension": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "spaces for a size": b"  \r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_nothing_of_it_reaches_the_model_server(
    name: str, running: LocalSidecar, upstream: tuple[Recorder, str]
) -> None:
    recorder = upstream[0]
    before = recorder.connections, recorder.received
    answer = await exchange(running, REFUSED[name])
    assert (recorder.connections, recorder.received) == before
    # One answer of ours, then the end: what follows on such a connection is not looked at.
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 505 ")), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nx-meshproxy-refusal: " in answer
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_a_broken_body_is_never_made_whole(
    name: str, running: LocalSidecar, upstream: tuple[Recorder, str]
) -> None:
    recorder = upstream[0]
    before = len(recorder.received)
    answer = await exchange(running, START + b"transfer-encoding: chunked\r\n\r\n" + BROKEN_BODIES[name] + HIDDEN)
    # What went out before this one is there.
    assert b"200 OK" in await exchange(running, START + b"content-length: 2\r\n\r\n{}", answers=1)
    sent = recorder.received[before:]
    # The head may have gone out before the body turned out to be broken; its end may not, and nothing after it.
    assert b"hidden" not in sent
    assert b"\n0\r\n\r\n" not in sent
    assert answer.count(b"HTTP/1.1 200 ") <= 1
    assert b"hidden" not in answer


async def test_a_pipelined_request_is_one_of_its_own(running: LocalSidecar, upstream: tuple[Recorder, str]) -> None:
    """What is not hidden is served: the control of the cases above."""
    recorder = upstream[0]
    before = len(recorder.received)
    answer = await exchange(running, START + b"content-length: 2\r\n\r\n{}" + HIDDEN, answers=2)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert recorder.received[before:].count(b"POST /v1/models/seen:predict ") == 1
    assert recorder.received[before:].count(b"POST /v1/models/hidden:predict ") == 1
