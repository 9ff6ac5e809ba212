"""The collector of the benchmarks."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import sink
from benchmarks.sink import Sink, count_spans, join_chunks
from meshproxy.telemetry.otlp import Span, SpanKind, encode_request, encode_scope, encode_span


def body(spans: int) -> bytes:
    span = encode_span(Span(b"1" * 32, b"2" * 16, b"", False, True, b"", "x", SpanKind.SERVER, 1, 2, ()))
    return encode_request(b"", encode_scope("bench", "1"), [span] * spans)


def test_spans_are_counted() -> None:
    assert count_spans(body(7)) == 7
    assert count_spans(body(3) + body(2)) == 5
    assert count_spans(b"") == 0


def test_chunks_are_joined() -> None:
    assert join_chunks(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n") == b"abcde"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_exports_are_read_however_they_come(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sink, "spans", 0)
    whole, one = body(5), body(1)
    sent = b"".join(
        (
            b"POST /v1/traces HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(whole), whole),
            b"POST /v1/traces HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(one), one),
            b"GET /spans HTTP/1.1\r\n\r\n",
        )
    )

    async def answers() -> bytes:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await asyncio.sleep(0)
        said = await reader.readexactly(2 * len(sink.TAKEN)) + await reader.readuntil(b"\r\n\r\n6")
        writer.close()
        server.close()
        return said

    assert asyncio.run(answers()).startswith(2 * sink.TAKEN)
