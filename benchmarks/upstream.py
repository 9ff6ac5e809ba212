"""The model server of the benchmarks: prepared answers, much cheaper than any proxy, never what is measured.

`python -m benchmarks.upstream REST_PORT GRPC_PORT REPLY_BYTES`: HTTP/1.1 and h2c, every POST or call answered alike.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from meshproxy.devtools.load.frames import (
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    WINDOW,
    FramedConnection,
    frame,
    settings,
    small_data,
    window_update,
)
from meshproxy.devtools.load.grpc import grpc_message, string
from meshproxy.devtools.load.messages import grpc_reply, rest_body
from meshproxy.devtools.load.rest import PIECE, chunks_end, read_request_length

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
"""One server that looks like three, for who balances."""


class RestResponder(asyncio.Protocol):
    """Reads a request to its end, answers, and so on. No pipelining: proxies send none."""

    def __init__(self, answer: bytes) -> None:
        self.transport: asyncio.Transport
        self._answer = answer
        self._missing = 0
        self._received: list[bytes] = []
        self._is_chunked = False
        self._lengths: dict[bytes, int] = {}
        self._unsent = memoryview(b"")
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        elif self._is_chunked:
            self._received.append(data)
            if data[-1:] != b"\n" or chunks_end(b"".join(self._received)) < 0:
                return
            self._is_chunked = False
            self._received.clear()
        else:
            if self._received:
                data = b"".join((*self._received, data))
                self._received.clear()
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._received.append(data)
                return
            head = data[:end]
            length = self._lengths.get(head)
            if length is None:
                if len(self._lengths) > 256:
                    self._lengths.clear()
                length = self._lengths[head] = read_request_length(head)
            if length < 0:
                self._is_chunked = True
                if len(data) > end:
                    self.data_received(data[end:])
                return
            self._missing = length - (len(data) - end)
        if self._missing == 0:
            if len(self._answer) <= PIECE:
                self.transport.write(self._answer)
            else:
                self._unsent = memoryview(self._answer)
                self._send_pieces()

    def _send_pieces(self) -> None:
        while self._unsent and not self._is_paused:
            piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
            self.transport.write(piece)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_pieces()


class GrpcResponder(FramedConnection):
    """Answers every call, once it is complete, with one message."""

    HEAD = b"\x88" + b"\x0f\x10" + string(b"application/grpc")
    TRAILERS = b"\x00" + string(b"grpc-status") + string(b"0")

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self._body = grpc_message(message)
        self._has_preface = False
        self._head = frame(HEADERS, END_HEADERS, 0, self.HEAD)
        self._data = small_data(0, self._body)
        self._trailers = frame(HEADERS, END_HEADERS | END_STREAM, 0, self.TRAILERS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(
            settings(streams=1_000, window=WINDOW, frame_bytes=WINDOW) + window_update(0, WINDOW - DEFAULT_WINDOW)
        )

    def data_received(self, data: bytes) -> None:
        if not self._has_preface:
            data = self._rest + data
            self._rest = b""
            if len(data) < len(PREFACE):
                self._rest = data
                return
            if not data.startswith(PREFACE):
                self.transport.abort()
                return
            self._has_preface = True
            data = data[len(PREFACE) :]
        super().data_received(data)

    def on_headers(self, stream: int, block: bytes, end: bool) -> None:
        if end:
            self._answer(stream)

    def on_data(self, stream: int, data: bytes, end: bool) -> None:
        if end:
            self._answer(stream)

    def _answer(self, stream: int) -> None:
        number = stream.to_bytes(4, "big")
        head, data, trailers = self._head, self._data, self._trailers
        if self.has_room(len(self._body)):
            self.send(
                b"".join((head[:5], number, head[9:], data[:5], number, data[9:], trailers[:5], number, trailers[9:]))
            )
        else:
            self.send(b"".join((head[:5], number, head[9:])))
            self.send_body(stream, self._body, b"".join((trailers[:5], number, trailers[9:])))


async def serve(rest_port: int, grpc_port: int, reply_bytes: int) -> None:
    """Serves until cancelled. `reply_bytes`: about how large answers are."""
    body = rest_body(reply_bytes, "predictions")
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    message = grpc_reply(reply_bytes)
    loop = asyncio.get_running_loop()
    rest = await loop.create_server(lambda: RestResponder(answer), ADDRESSES, rest_port, backlog=4096)
    grpc = await loop.create_server(lambda: GrpcResponder(message), ADDRESSES, grpc_port, backlog=4096)
    async with rest, grpc:
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(*(int(argument) for argument in sys.argv[1:4])))
