"""The collector of the benchmarks: takes spans over OTLP/HTTP and counts them.

`python -m benchmarks.sink PORT SILENT_PORT`: `POST /v1/traces` is answered as the OpenTelemetry Collector does, and
`GET /spans` with the number of spans so far. Who connects to the other port never gets an answer.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from typing import cast

import uvloop

from meshproxy.devtools.load.rest import chunks_end, read_request_length
from meshproxy.inference.protobuf import LENGTH, FieldWalker

TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 2\r\n\r\n\x0a\x00"


class Sink(asyncio.Protocol):
    """Reads requests, whole or in chunks."""

    spans = 0
    """Of all connections."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n") + 4) >= 4:
            head = self._received[:end]
            if head.startswith(b"GET"):
                body, self._received = b"", self._received[end:]
            elif (length := read_request_length(head)) >= 0:
                if len(self._received) < end + length:
                    return
                body, self._received = self._received[end : end + length], self._received[end + length :]
            else:
                rest = self._received[end:]
                length = chunks_end(rest)
                if length < 0:
                    return
                body, self._received = join_chunks(rest[:length]), rest[length:]
            if head.startswith(b"GET"):
                said = b"%d" % Sink.spans
                self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))
            else:
                Sink.spans += count_spans(body)
                self.transport.write(TAKEN)


class Silent(asyncio.Protocol):
    """Reads and says nothing."""


def join_chunks(data: bytes) -> bytes:
    """What is in a whole chunked body."""
    pieces = []
    while size := int(data.partition(b"\r\n")[0].partition(b";")[0], 16):
        begin = data.index(b"\r\n") + 2
        pieces.append(data[begin : begin + size])
        data = data[begin + size + 2 :]
    return b"".join(pieces)


def count_spans(body: bytes) -> int:
    """How many spans are in an `ExportTraceServiceRequest`."""
    tags = 1 << 3 | LENGTH, 2 << 3 | LENGTH, 2 << 3 | LENGTH
    messages = [body]
    for tag in tags:  # resource_spans, scope_spans, spans
        messages = [
            found
            for message in messages
            for _, found in FieldWalker().read(message, {tag}, 0)
            if isinstance(found, bytes)
        ]
    return len(messages)


def spans_taken(port: int) -> int:
    """How many the sink at this port has taken."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/spans", timeout=5) as response:
        return int(response.read())


async def serve(port: int, silent: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(Sink, "127.0.0.1", port)
    await loop.create_server(Silent, "127.0.0.1", silent)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
