"""The model server of the benchmarks must answer what it is asked, or proxies are measured at something else."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.upstream import GrpcResponder, RestResponder
from meshproxy.codec.events import Data, Event, ResponseHead, Trailers
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
HEADS = [
    b"POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def take(self) -> bytes:
        written, self.written = self.written, b""
        return written


@pytest.mark.parametrize("size", [1, 9, 1_000])
@pytest.mark.parametrize("request_bytes", HEADS)
def test_every_rest_request_is_answered_once_it_is_whole(request_bytes: bytes, size: int) -> None:
    transport = FakeTransport()
    responder = RestResponder(ANSWER)
    responder.connection_made(transport)
    for _ in range(2):
        for at in range(0, len(request_bytes), size):
            assert transport.take() == b""
            responder.data_received(request_bytes[at : at + size])
        assert transport.take() == ANSWER


@pytest.mark.parametrize("size", [30, 100_000])
def test_every_call_is_answered_with_a_message_and_status_ok(size: int) -> None:
    transport = FakeTransport()
    responder = GrpcResponder(b"x" * size)
    responder.connection_made(transport)
    client = H2Connection(Role.CLIENT, Limits(), 0.0)
    events: list[Event] = []

    def exchange() -> None:
        while output := client.take_output():
            responder.data_received(output)
            events.extend(client.receive(transport.take(), 0.0))
            for event in events:
                if isinstance(event, Data) and event.flow:
                    client.credit(event.stream, event.flow)
                    event.flow = 0

    exchange()
    for _ in range(2):
        headers = ((b"content-type", b"application/grpc"),)
        stream = client.send_request(b"POST", b"http", b"h", b"/s/M", headers, False)
        client.send_data(stream, b"\0\0\0\0\x05hello", True)
        exchange()
        mine = [event for event in events if getattr(event, "stream", None) == stream]
        assert isinstance(mine[0], ResponseHead)
        assert mine[0].status == 200
        body = b"".join(event.data for event in mine if isinstance(event, Data))
        assert body == b"\0" + size.to_bytes(4, "big") + b"x" * size
        assert isinstance(mine[-1], Trailers)
        assert mine[-1].headers == ((b"grpc-status", b"0"),)
